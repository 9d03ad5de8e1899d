// SPDX-License-Identifier: GPL-3.0-or-later

package fetch_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/harness/source"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/supply/policy"
	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3090
func TestASplitModel(t *testing.T) {
	parts := [][]byte{model(1 << 20), model(2 << 20), model(size)}
	names := []string{"big-00001-of-00003.gguf", "big-00002-of-00003.gguf", "big-00003-of-00003.gguf"}
	for kind := range source.Kinds {
		t.Run(kind, func(t *testing.T) {
			s := start(t, kind)
			for i, name := range names {
				s.put(t, name, parts[i])
			}
			ref := parse(t, strings.Replace(s.Ref, "m.gguf", names[0], 1))
			b := s.fetcher(t, t.TempDir(), noRetry)
			s.Cut = []int{1 << 20, 1 << 20} // the second part breaks
			s.Cut[0]++
			_, err := b.fetch(t.Context(), ref, fetch.Options{Digest: source.Sum(parts...)})
			require.True(t, task.AsError(err).Retriable, "%v", err)
			file, err := b.fetch(t.Context(), ref, fetch.Options{Digest: source.Sum(parts...)})
			require.NoError(t, err)
			requireFile(t, file, parts...)
			require.Len(t, s.Requests(), 4)
			require.Equal(t, names[0], filepath.Base(file.Path))
			again, err := b.fetch(t.Context(), ref, fetch.Options{})
			require.NoError(t, err)
			require.Equal(t, file, again)
			require.NoError(t, os.RemoveAll(filepath.Join(b.dir, ref.Folder())))
			_, err = b.fetch(t.Context(), ref, fetch.Options{Digest: source.Sum(parts[0])})
			require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
			require.Empty(t, left(t, b.dir))
		})
	}
}

// ORCH-3090
func TestWhichFileOfARepository(t *testing.T) {
	for _, c := range []struct {
		names string
		want  string // or what the error says
		code  task.Code
	}{
		{"only.gguf", "only.gguf", ""},
		{"m.gguf mmproj-m.gguf m.imatrix.gguf", "m.gguf", ""},
		{"m-Q8_0.gguf m-Q4_K_M.gguf m-IQ4_K_M.gguf m-Q4_K_M2.gguf", "m-Q4_K_M.gguf", ""},
		{"m.q8_0.gguf m.f16.gguf", "m.q8_0.gguf", ""},
		{"q4_k_m/m-00001-of-00002.gguf q4_k_m/m-00002-of-00002.gguf m-F16.gguf", "m-00001-of-00002.gguf", ""},
		{"a-Q4_K_M.gguf b-Q4_K_M.gguf", "a-Q4_K_M.gguf, b-Q4_K_M.gguf", task.InvalidParams},
		{"a.gguf b.gguf", "a.gguf, b.gguf", task.InvalidParams},
		{"model.safetensors ../../evil.gguf", "holds no .gguf", task.ModelNotFound},
		{"m-00001-of-00002.gguf", "has no file m-00002-of-00002.gguf", task.ModelNotFound},
		{"m-00001-of-99999.gguf", "1024 at most", task.InvalidParams},
	} {
		t.Run(c.names, func(t *testing.T) {
			s := start(t, "hf")
			for name := range strings.FieldsSeq(c.names) {
				s.put(t, name, model(100+len(name)))
			}
			b := s.fetcher(t, t.TempDir())
			file, err := b.fetch(t.Context(), parse(t, "hf:org/repo"), fetch.Options{})
			if c.code != "" {
				require.True(t, task.HasCode(err, c.code), "%v", err)
				require.Contains(t, err.Error(), c.want)
				require.Empty(t, left(t, b.dir))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, filepath.Base(file.Path))
		})
	}
}

// ORCH-3091
func TestWhatIsNotThere(t *testing.T) {
	for kind := range source.Kinds {
		t.Run(kind, func(t *testing.T) {
			s := start(t, kind)
			if kind == "hf" {
				s.put(t, "other.gguf", model(100))
			}
			b := s.fetcher(t, t.TempDir())
			_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
			require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
			require.False(t, task.AsError(err).Retriable)
			require.NotContains(t, err.Error(), "SECRET")
			if kind == "hf" {
				require.Contains(t, err.Error(), "other.gguf")
			}
			require.Empty(t, left(t, b.dir))
		})
	}
}

// ORCH-3091
func TestWhatASourceAnswers(t *testing.T) {
	say := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		}
	}
	body := model(1000)
	for name, c := range map[string]struct {
		first     []http.HandlerFunc
		code      task.Code
		retriable bool
		after     time.Duration
	}{
		"busy, then well":  {[]http.HandlerFunc{say(503), say(500), say(429, "Retry-After", "0")}, "", false, 0},
		"busy for long":    {[]http.HandlerFunc{say(429, "Retry-After", "3600")}, task.Internal, true, time.Hour},
		"always busy":      {[]http.HandlerFunc{say(502), say(502), say(502), say(502), say(502), say(502)}, task.Internal, true, 0},
		"no login":         {[]http.HandlerFunc{say(401)}, task.ModelNotFound, false, 0},
		"not yours":        {[]http.HandlerFunc{say(403)}, task.ModelNotFound, false, 0},
		"gone":             {[]http.HandlerFunc{say(410)}, task.ModelNotFound, false, 0},
		"a strange answer": {[]http.HandlerFunc{say(418)}, task.ModelNotFound, false, 0},
		"compressed":       {[]http.HandlerFunc{say(200, "Content-Encoding", "gzip")}, task.InvalidParams, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "https")
			s.put(t, "m.gguf", body)
			s.First = c.first
			b := s.fetcher(t, t.TempDir())
			file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
			if c.code == "" {
				require.NoError(t, err)
				requireFile(t, file, body)
				return
			}
			e := task.AsError(err)
			require.Equal(t, c.code, e.Code, "%v", err)
			require.Equal(t, c.retriable, e.Retriable)
			require.Equal(t, c.after, e.RetryAfter)
			require.NotContains(t, err.Error(), "SECRET")
		})
	}
}

// ORCH-3080, ORCH-3091
func TestRedirects(t *testing.T) {
	body := model(1000)
	s := start(t, "https")
	s.put(t, "m.gguf", body)
	to := func(address string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, address, http.StatusFound) }
	}
	b := s.fetcher(t, t.TempDir())
	s.First = []http.HandlerFunc{to("/models/m.gguf?again")}
	_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err)

	loop := make([]http.HandlerFunc, 50)
	for i := range loop {
		loop[i] = to("/models/m.gguf?loop")
	}
	s.Seen, s.First = nil, loop
	b = s.fetcher(t, t.TempDir())
	_, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.Len(t, s.Requests(), 10)
	require.Empty(t, left(t, b.dir))

	for _, address := range []string{"https://169.254.169.254/latest/m.gguf", "https://10.0.0.1/m.gguf", "http://127.0.0.1/m.gguf", "https://[fd00:ec2::254]/"} {
		s.Seen, s.First = nil, []http.HandlerFunc{to(address)}
		_, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.True(t, task.HasCode(err, task.PolicyDenied), "%s: %v", address, err)
		require.Len(t, s.Requests(), 1)
	}
}

// ORCH-3080
func TestNothingIsFetchedWhenThePolicySaysNo(t *testing.T) {
	eachKind(t, model(1000), func(t *testing.T, s *rig) {
		rules, err := policy.New(policy.Options{Log: zap.NewNop(), Registerer: prometheus.NewRegistry()})
		require.NoError(t, err)
		b := s.fetcher(t, t.TempDir(), func(s *fetch.Settings) { s.Client = rules.Client(policy.Download) })
		_, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.True(t, task.HasCode(err, task.PolicyDenied), "%v", err)
		require.Empty(t, s.Requests())
		require.Empty(t, left(t, b.dir))
	})
	_, err := fetch.New(fetch.Settings{Client: &http.Client{}})
	require.Error(t, err, "a client without a policy")
}

// The token goes to the hub, and not to the host that the hub redirects to.
//
// ORCH-3091
func TestTheTokenStaysWithTheHub(t *testing.T) {
	s := start(t, "hf")
	s.put(t, "m.gguf", model(1000))
	var asked []string
	inner := s.Inner
	s.Inner = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.IsGet(r) {
			asked = append(asked, r.Header.Get("Authorization"))
		}
		inner.ServeHTTP(w, r)
	})
	_, err := s.fetcher(t, t.TempDir()).fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"Bearer hf_TOKENSECRET", "Bearer hf_TOKENSECRET"}, asked)
	require.Empty(t, s.Requests()[0].Authorization)
	require.True(t, strings.HasPrefix(s.Requests()[0].Host, "localhost:"))

	s.Lie = func(file map[string]any) { file["size"], file["lfs"] = -5, nil }
	_, err = s.fetcher(t, t.TempDir()).fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err, "the hub need not say size or digest")
}

// ORCH-3090
func TestAFileIsCheckedInPlace(t *testing.T) {
	dir, body := t.TempDir(), model(size)
	at := filepath.Join(dir, "m.gguf")
	require.NoError(t, os.WriteFile(at, body, 0o600))
	s := start(t, "https")
	b := s.fetcher(t, t.TempDir())
	var done int64
	file, err := b.fetch(t.Context(), parse(t, "file:"+at), fetch.Options{Digest: source.Sum(body), Progress: func(n, _ int64) { done = n }})
	require.NoError(t, err)
	requireFile(t, file, body)
	require.Equal(t, at, file.Path)
	require.EqualValues(t, size, done)
	require.Empty(t, left(t, b.dir))

	_, err = b.fetch(t.Context(), parse(t, "file://"+at), fetch.Options{Digest: source.Sum(nil)})
	require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
	require.FileExists(t, at)
	_, err = b.fetch(t.Context(), parse(t, "file:"+at), fetch.Options{Digest: "md5:1"})
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	_, err = b.fetch(t.Context(), parse(t, "file:"+at+"x"), fetch.Options{})
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
	_, err = b.fetch(t.Context(), parse(t, "file:"+dir), fetch.Options{})
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)

	parts := [][]byte{model(40), model(50)}
	for i, name := range []string{"s-00001-of-00002.gguf", "s-00002-of-00002.gguf"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), parts[i], 0o600))
	}
	file, err = b.fetch(t.Context(), parse(t, "file:"+dir+"/s-00002-of-00002.gguf"), fetch.Options{})
	require.NoError(t, err)
	requireFile(t, file, parts...)
}

// What somebody planted in the folder of models leads nowhere.
//
// ORCH-3091
func TestSymlinksAreNotFollowed(t *testing.T) {
	body := model(1000)
	s := start(t, "https")
	s.put(t, "m.gguf", body)
	folder := s.parsed(t).Folder()
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))

	for _, name := range []string{"m.gguf.part", "m.gguf.part.json", "fetched.json", "m.gguf"} {
		b := s.fetcher(t, t.TempDir())
		require.NoError(t, os.Mkdir(filepath.Join(b.dir, folder), 0o755))
		require.NoError(t, os.Symlink(victim, filepath.Join(b.dir, folder, name)))
		_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		if name == "m.gguf.part" {
			require.True(t, task.HasCode(err, task.Internal), "%v", err)
		} else {
			require.NoError(t, err)
		}
		require.Equal(t, "mine", string(read(t, victim)), name)
	}
	b := s.fetcher(t, t.TempDir())
	require.NoError(t, os.Symlink(filepath.Dir(victim), filepath.Join(b.dir, folder)))
	_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.Error(t, err)
	require.Equal(t, []string{"victim"}, left(t, filepath.Dir(victim)))
}
