// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup serves the handler. It returns a client that does not really wait between reconnects, and the waits that the client wanted.
func setup(t *testing.T, h http.Handler, change ...func(*Options)) (*Client, *[]time.Duration) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	opts := Options{Addr: server.URL}
	for _, f := range change {
		f(&opts)
	}
	c, err := New(opts)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	waits := &[]time.Duration{}
	c.sleep = func(ctx context.Context, d time.Duration) error {
		*waits = append(*waits, d)
		return ctx.Err()
	}
	return c, waits
}

// script is a task's log as a server would send it, written down independently of the service's own.
type script struct {
	running hash.Hash
	text    strings.Builder
	frames  []string
	ids     []string
}

func newScript() *script {
	s := &script{running: sha256.New()}
	return s.add("started", `{"task_id":"t","queue_position":2,"predicted_start_ms":40,"seed":7,"determinism":"strict"}`)
}

func (s *script) add(name, data string) *script {
	fmt.Fprintf(s.running, "%s\n%s\n", name, data)
	id := fmt.Sprintf("%d-%x", len(s.ids), s.running.Sum(nil)[:4])
	s.ids = append(s.ids, id)
	s.frames = append(s.frames, fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", id, name, data))
	return s
}

func (s *script) tokens(texts ...string) *script {
	for _, text := range texts {
		s.text.WriteString(text)
		s.add("token", fmt.Sprintf(`{"t":%q,"i":%d}`, text, len(s.ids)-1))
	}
	return s
}

func (s *script) end() *script {
	sum := sha256.Sum256([]byte(s.text.String()))
	return s.endWith(hex.EncodeToString(sum[:]))
}

func (s *script) endWith(transcript string) *script {
	return s.add("end", fmt.Sprintf(`{"tokens_in":3,"tokens_out":%d,"decode_time_ms":12,"finish_reason":"stop","receipt":{"seed":7,`+
		`"determinism":"strict","fingerprint":"f","request_digest":"d","transcript_sha256":%q,"replica_id":"default-0",`+
		`"engine_version":"v","model_digest":"m"}}`, len(s.ids)-1, transcript))
}

func (s *script) String() string { return strings.Join(s.frames, "") }

// sendStream answers with an event stream.
func sendStream(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(text))
	_ = http.NewResponseController(w).Flush()
}

func fixed(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { sendStream(w, text) })
}

// sha of some bytes, in hex.
func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// read reads a stream to its end: the names and the joined text of its events, and its error.
func read(ctx context.Context, c *Client, after string) (names []string, text string, err error) {
	for e, err := range c.Stream(ctx, "t", after) {
		if err != nil {
			return names, text, err
		}
		names = append(names, e.Wire().Name)
		if token, ok := e.(Token); ok {
			text += token.Text
		}
	}
	return names, text, nil
}
