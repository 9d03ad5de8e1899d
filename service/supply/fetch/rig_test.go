// SPDX-License-Identifier: GPL-3.0-or-later

package fetch_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/harness/source"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
)

func TestMain(m *testing.M) {
	if os.Getenv("FETCH_CHILD") != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

// model makes bytes that differ for each size.
func model(size int) []byte {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	_, _ = source.Read(b)
	copy(b, "GGUF")
	return b
}

// rig is one kind of server, as the tests of this package use it.
type rig struct {
	*source.Source
}

func (s *rig) parsed(t testing.TB) fetch.Ref { return parse(t, s.Ref) }

func (s *rig) put(t *testing.T, name string, body []byte) {
	t.Helper()
	require.NoError(t, s.Put(name, body))
}

func parse(t testing.TB, text string) fetch.Ref {
	t.Helper()
	ref, err := fetch.ParseRef(text)
	require.NoError(t, err)
	return ref
}

func start(t *testing.T, kind string) *rig {
	t.Helper()
	s, err := source.Kinds[kind]()
	require.NoError(t, err)
	t.Cleanup(s.Server.Close)
	return &rig{s}
}

// eachKind runs a test against a server of each kind that has the model m.gguf.
func eachKind(t *testing.T, body []byte, test func(t *testing.T, s *rig)) {
	for kind := range source.Kinds {
		t.Run(kind, func(t *testing.T) {
			s := start(t, kind)
			s.put(t, "m.gguf", body)
			test(t, s)
		})
	}
}

var secrets = map[string]string{
	"HF_TOKEN": "hf_TOKENSECRET", "AWS_ACCESS_KEY_ID": "AKIDSECRET", "AWS_SECRET_ACCESS_KEY": "AWSKEYSECRET", "AWS_SESSION_TOKEN": "SESSIONSECRET", "AWS_REGION": "us-east-1",
}

// box is a fetcher, with its folder of models and its log.
type box struct {
	*fetch.Fetcher
	dir string
	log *bytes.Buffer
}

func (s *rig) fetcher(t *testing.T, dir string, change ...func(*fetch.Settings)) *box {
	t.Helper()
	b := &box{dir: dir, log: &bytes.Buffer{}}
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(zapcore.AddSync(b.log)), zapcore.DebugLevel))
	o := policy.Options{Loopback: true, Log: logger, Registerer: prometheus.NewRegistry()}
	if s.Server.TLS != nil {
		pool := x509.NewCertPool()
		pool.AddCert(s.Server.Certificate())
		o.TLS = &tls.Config{RootCAs: pool}
	}
	rules, err := policy.New(o)
	require.NoError(t, err)
	client := rules.Client(policy.Download)
	settings := fetch.Settings{
		Client: client, Log: logger, RetryWait: time.Microsecond, Reserve: 1, Getenv: func(name string) string { return secrets[name] },
		Endpoints: fetch.Endpoints{HF: s.Server.URL, S3: s.Server.URL, OCI: map[string]string{source.Registry: s.Server.URL}},
	}
	for _, c := range change {
		c(&settings)
	}
	b.Fetcher, err = fetch.New(settings)
	require.NoError(t, err)
	t.Cleanup(func() {
		b.Close()
		client.CloseIdleConnections()
		require.NotContains(t, b.log.String(), "SECRET", "no token is ever logged")
	})
	return b
}

func noRetry(s *fetch.Settings) { s.Retries = -1 }

func (b *box) fetch(ctx context.Context, ref fetch.Ref, o fetch.Options) (fetch.File, error) {
	return b.Fetch(ctx, ref, b.dir, o)
}

// left lists what there is below a folder.
func left(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	require.NoError(t, fsWalk(dir, func(name string) { all = append(all, name) }))
	return all
}

func fsWalk(dir string, tell func(string)) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		tell(e.Name())
		if e.IsDir() {
			if err := fsWalk(path.Join(dir, e.Name()), tell); err != nil {
				return err
			}
		}
	}
	return err
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(name)
	require.NoError(t, err)
	return body
}

func requireFile(t *testing.T, f fetch.File, bodies ...[]byte) {
	t.Helper()
	require.Len(t, f.Parts, len(bodies))
	var size int64
	for i, body := range bodies {
		require.True(t, bytes.Equal(body, read(t, f.Parts[i].Path)), "part %d", i)
		require.Equal(t, source.Sum(body), f.Parts[i].Digest)
		size += int64(len(body))
	}
	require.Equal(t, source.Sum(bodies...), f.Digest)
	require.Equal(t, size, f.Size)
	require.Equal(t, f.Parts[0].Path, f.Path)
}

func from(n int) string { return fmt.Sprintf("bytes=%d-", n) }
