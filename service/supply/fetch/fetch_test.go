// SPDX-License-Identifier: GPL-3.0-or-later

package fetch_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/llama-orch/llama-orch/harness/source"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/task"
)

const size = 3 << 20

// ORCH-3090, ORCH-3091
func TestAModelIsFetchedOnce(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		b := s.fetcher(t, t.TempDir())
		var last [2]int64
		o := fetch.Options{Digest: strings.ToUpper(source.Sum(body)), Progress: func(done, total int64) { last = [2]int64{done, total} }}
		file, err := b.fetch(t.Context(), s.parsed(t), o)
		require.NoError(t, err)
		requireFile(t, file, body)
		require.Equal(t, [2]int64{size, size}, last)
		require.Equal(t, "m.gguf", filepath.Base(file.Path))
		require.Len(t, left(t, b.dir), 3, "the folder, the file and its manifest")
		require.NotContains(t, string(read(t, filepath.Join(filepath.Dir(file.Path), "fetched.json"))), "SECRET")

		s.Server.CloseClientConnections()
		s.Server.Close() // what is there needs no source
		again, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.NoError(t, err)
		require.Equal(t, file, again)
		require.Len(t, s.Requests(), 1)
	})
}

// ORCH-3091
func TestACutConnectionGoesOnFromWhereItWas(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		s.Cut = []int{size / 2, 0, size / 4} // the second one gains nothing
		b := s.fetcher(t, t.TempDir())
		file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.NoError(t, err)
		requireFile(t, file, body)
		spans := s.Requests()
		require.Len(t, spans, 4)
		require.Empty(t, spans[0].Range)
		require.True(t, strings.HasPrefix(spans[1].Range, from(size/2)), spans[1].Range)
		require.True(t, strings.HasPrefix(spans[2].Range, from(size/2)), spans[2].Range)
		require.True(t, strings.HasPrefix(spans[3].Range, from(size/2+size/4)), spans[3].Range)
	})
}

// ORCH-3091
func TestTroubleIsRetriableAndAnotherRunGoesOn(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		s.Cut = []int{size / 2}
		dir := t.TempDir()
		_, err := s.fetcher(t, dir, noRetry).fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.Error(t, err)
		e := task.AsError(err)
		require.True(t, e.Retriable, "%v", err)
		require.Equal(t, task.Internal, e.Code)
		require.NotContains(t, err.Error(), "SECRET")
		require.Contains(t, left(t, dir), "m.gguf.part")
		require.NotContains(t, left(t, dir), "m.gguf")

		file, err := s.fetcher(t, dir).fetch(t.Context(), s.parsed(t), fetch.Options{Digest: source.Sum(body)})
		require.NoError(t, err)
		requireFile(t, file, body)
		require.Len(t, left(t, dir), 3)
		require.True(t, strings.HasPrefix(s.Requests()[1].Range, from(size/2)))
	})
}

// child is the process that TestAKilledProcess kills. It fetches, and says when it has a part of the model.
func child() {
	url := os.Getenv("FETCH_CHILD")
	once := sync.OnceFunc(func() { _, _ = os.Stdout.WriteString("half\n") })
	f, err := fetch.New(fetch.Settings{
		Client: &http.Client{Transport: http.DefaultTransport}, Log: zap.NewNop(),
		Endpoints: fetch.Endpoints{HF: url, S3: url, OCI: map[string]string{source.Registry: url}},
	})
	if err != nil {
		panic(err)
	}
	ref, err := fetch.ParseRef(os.Getenv("FETCH_REF"))
	if err != nil {
		panic(err)
	}
	_, err = f.Fetch(context.Background(), ref, os.Getenv("FETCH_DIR"), fetch.Options{Progress: func(done, _ int64) {
		if done >= size/2 {
			once()
		}
	}})
	panic(err)
}

// A daemon that is killed half way leaves what it has. Its lock is gone, and the next daemon goes on from there.
//
// ORCH-3091
func TestAKilledProcess(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		gone := make(chan struct{})
		s.Lock() // no request of this process comes between
		s.Cut = []int{size / 2}
		s.Gate = func(_ http.ResponseWriter, _ int, r *http.Request) {
			<-r.Context().Done()
			close(gone)
			panic(http.ErrAbortHandler)
		}
		s.Unlock()
		dir := t.TempDir()
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = append(os.Environ(), "FETCH_CHILD="+s.Server.URL, "FETCH_DIR="+dir, "FETCH_REF="+s.Ref)
		if s.Server.TLS != nil {
			ca := filepath.Join(t.TempDir(), "ca.pem")
			require.NoError(t, os.WriteFile(ca, s.Certificate(), 0o600))
			command.Env = append(command.Env, "SSL_CERT_FILE="+ca)
		}
		command.Stderr = os.Stderr
		out, err := command.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, command.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "half\n", line)

		b := s.fetcher(t, dir)
		_, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.True(t, task.HasCode(err, task.Conflict), "another process has it: %v", err)

		require.NoError(t, command.Process.Kill())
		require.Error(t, command.Wait())
		<-gone
		file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.NoError(t, err)
		requireFile(t, file, body)
		require.True(t, strings.HasPrefix(s.Requests()[1].Range, from(size/2)), s.Requests()[1].Range)
	})
}

// ORCH-3037
func TestAWrongDigestLeavesNothing(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		b := s.fetcher(t, t.TempDir())
		_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Digest: source.Sum([]byte("else"))})
		require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
		require.False(t, task.AsError(err).Retriable)
		require.Empty(t, left(t, b.dir))
		if s.Digest {
			require.Empty(t, s.Requests(), "the source says so before a byte is fetched")
		}

		file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Digest: source.Sum(body)})
		require.NoError(t, err)
		_, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{Digest: source.Sum([]byte("else"))})
		require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
		requireFile(t, file, body) // what was there, and right, is left alone
		require.Len(t, left(t, b.dir), 3)
	})
}

// ORCH-3037
func TestASourceThatSendsOtherBytesThanItSays(t *testing.T) {
	body := model(size)
	for _, kind := range []string{"hf", "oci"} {
		t.Run(kind, func(t *testing.T) {
			s := start(t, kind)
			s.put(t, "m.gguf", body)
			s.First = []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(append(model(size)[:size-1], body[size-1]^1))
			}}
			b := s.fetcher(t, t.TempDir())
			_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
			require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
			require.Empty(t, left(t, b.dir))
		})
	}
}

// The digest shows that a partial file is damaged or belongs to something else. Then the file is fetched from the start, once.
//
// ORCH-3037
func TestADamagedPartialFile(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		s.Cut = []int{size / 2}
		b := s.fetcher(t, t.TempDir(), noRetry)
		_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Digest: source.Sum(body)})
		require.Error(t, err)
		part := filepath.Join(b.dir, s.parsed(t).Folder(), "m.gguf.part")
		text := read(t, part)
		text[7] ^= 1
		require.NoError(t, os.WriteFile(part, text, 0o600))
		file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Digest: source.Sum(body)})
		require.NoError(t, err)
		requireFile(t, file, body)
		require.Len(t, s.Requests(), 3)
	})
}

// ORCH-3037
func TestADamagedModelIsFetchedAgain(t *testing.T) {
	body := model(size)
	s := start(t, "https")
	s.put(t, "m.gguf", body)
	b := s.fetcher(t, t.TempDir())
	file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file.Path, body[:100], 0o600))
	file, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err)
	requireFile(t, file, body)
}

// ORCH-3091
func TestOneDownloadForAll(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		opened := make(chan struct{})
		s.Cut, s.Gate = []int{size / 2}, func(http.ResponseWriter, int, *http.Request) { <-opened }
		b := s.fetcher(t, t.TempDir())
		const others = 7
		begun := make(chan struct{}, others+1)
		fetchIt := func() error {
			tell := sync.OnceFunc(func() { begun <- struct{}{} })
			defer tell()
			file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Progress: func(int64, int64) { tell() }})
			if err == nil {
				require.Equal(t, source.Sum(body), file.Digest)
			}
			return err
		}
		var all errgroup.Group
		all.Go(fetchIt)
		<-begun
		for range others {
			all.Go(fetchIt)
		}
		for range others {
			<-begun // it has joined the one that is under way
		}
		close(opened)
		require.NoError(t, all.Wait())
		require.Len(t, s.Requests(), 1)
	})
}

// ORCH-3091
func TestOneWhoLeavesTakesNothingAlong(t *testing.T) {
	body := model(size)
	s := start(t, "https")
	s.put(t, "m.gguf", body)
	opened := make(chan struct{})
	s.Cut, s.Gate = []int{size / 2, size / 4}, func(_ http.ResponseWriter, _ int, r *http.Request) {
		select {
		case <-opened:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	b := s.fetcher(t, t.TempDir(), noRetry)

	// Two wait, and both leave: the download ends, and the partial file stays.
	var all errgroup.Group
	for range 2 {
		ctx, leave := context.WithCancel(t.Context())
		all.Go(func() error {
			defer leave()
			_, err := b.fetch(ctx, s.parsed(t), fetch.Options{Progress: func(done, _ int64) {
				if done == size/2 {
					leave()
				}
			}})
			require.ErrorIs(t, err, context.Canceled)
			return nil
		})
	}
	require.NoError(t, all.Wait())
	require.Contains(t, left(t, b.dir), "m.gguf.part")

	// Two wait, and one leaves: the other gets it.
	half := make(chan struct{})
	reached := sync.OnceFunc(func() { close(half) })
	all.Go(func() error {
		file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Progress: func(done, _ int64) {
			if done >= size/2+size/4 {
				reached()
			}
		}})
		if err == nil {
			requireFile(t, file, body)
		}
		return err
	})
	<-half
	ctx, leave := context.WithCancel(t.Context())
	_, err := b.fetch(ctx, s.parsed(t), fetch.Options{Progress: func(int64, int64) { leave() }})
	require.ErrorIs(t, err, context.Canceled)
	close(opened)
	require.NoError(t, all.Wait())
}

// ORCH-3091
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	s := start(t, "https")
	s.put(t, "m.gguf", model(size))
	s.Cut, s.Gate = []int{size / 2}, func(_ http.ResponseWriter, _ int, r *http.Request) { <-r.Context().Done(); panic(http.ErrAbortHandler) }
	b := s.fetcher(t, t.TempDir())
	half := make(chan struct{})
	reached := sync.OnceFunc(func() { close(half) })
	var all errgroup.Group
	all.Go(func() error {
		_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Progress: func(done, _ int64) {
			if done >= size/2 {
				reached()
			}
		}})
		require.True(t, task.HasCode(err, task.ShuttingDown), "%v", err)
		return nil
	})
	<-half
	b.Close()
	require.NoError(t, all.Wait())
	_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.True(t, task.HasCode(err, task.ShuttingDown), "%v", err)
	require.Contains(t, left(t, b.dir), "m.gguf.part")
}

// If a source stops sending without hanging up, the connection is given up and the source is asked again.
//
// ORCH-3091
func TestAStalledSource(t *testing.T) {
	body := model(size)
	s := start(t, "https")
	s.put(t, "m.gguf", body)
	s.Cut, s.Gate = []int{size / 2}, func(_ http.ResponseWriter, _ int, r *http.Request) { <-r.Context().Done(); panic(http.ErrAbortHandler) }
	b := s.fetcher(t, t.TempDir(), func(s *fetch.Settings) { s.Stall = 200 * time.Millisecond })
	file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err)
	requireFile(t, file, body)
}

// ORCH-3091
func TestNoRoom(t *testing.T) {
	body := model(size)
	eachKind(t, body, func(t *testing.T, s *rig) {
		for _, free := range []int64{0, size, size + 99} {
			b := s.fetcher(t, t.TempDir(), func(s *fetch.Settings) {
				s.Reserve, s.Free = 100, func(string) (int64, error) { return free, nil }
			})
			_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
			require.True(t, task.HasCode(err, task.Internal), "%v", err)
			require.False(t, task.AsError(err).Retriable)
			require.Contains(t, err.Error(), "no room")
			require.Empty(t, left(t, b.dir))
		}
		b := s.fetcher(t, t.TempDir(), func(s *fetch.Settings) {
			s.Reserve, s.Free = 100, func(string) (int64, error) { return size + 100, nil }
		})
		_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.NoError(t, err)
		b = s.fetcher(t, t.TempDir(), func(s *fetch.Settings) { s.MaxBytes = size - 1 })
		_, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.True(t, task.HasCode(err, task.TooLarge), "%v", err)
		require.Empty(t, left(t, b.dir))
	})
}

// A model without an announced length is bounded all the same.
//
// ORCH-3091
func TestAnUnknownLength(t *testing.T) {
	body := model(size)
	s := start(t, "https")
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(body); err != nil {
				return
			}
		}
	}
	b := s.fetcher(t, t.TempDir(), func(s *fetch.Settings) { s.MaxBytes = 5 * size })
	s.First = []http.HandlerFunc{endless}
	_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.True(t, task.HasCode(err, task.TooLarge), "%v", err)
	require.Empty(t, left(t, b.dir))

	s.First = []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write(body)
	}}
	file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err)
	requireFile(t, file, body)

	calls := 0
	b = s.fetcher(t, t.TempDir(), func(s *fetch.Settings) {
		s.Reserve, s.Free = 100, func(string) (int64, error) { calls++; return 99, nil }
	})
	s.First = []http.HandlerFunc{endless}
	_, err = b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.Contains(t, err.Error(), "no room")
	require.Equal(t, 1, calls, "the disk is looked at on the way")
	require.Empty(t, left(t, b.dir))
}

// ORCH-3091
func TestALyingLength(t *testing.T) {
	body := model(size)
	answer := func(announced string, sent []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if announced != "" {
				w.Header().Set("Content-Length", announced)
			} else {
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = w.Write(sent)
		}
	}
	for name, c := range map[string]struct {
		first http.HandlerFunc
		fails task.Code // empty: the next answer mends it
	}{
		"longer than it sends":       {answer("3145728", body[:1000]), ""},
		"shorter than the hub says":  {answer("1000", body[:1000]), ""},
		"without one, too little":    {answer("", body[:1000]), ""},
		"without one, more than all": {answer("", append(model(size), 1)), task.UntrustedArtifact},
		"far more than there is":     {answer("999999999999999999", body[:1000]), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "hf")
			s.put(t, "m.gguf", body)
			s.First = []http.HandlerFunc{c.first}
			b := s.fetcher(t, t.TempDir())
			file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
			if c.fails != "" {
				require.True(t, task.HasCode(err, c.fails), "%v", err)
				require.Empty(t, left(t, b.dir))
				return
			}
			require.NoError(t, err)
			requireFile(t, file, body)
		})
	}
}

// ORCH-3091
func TestASourceThatHasAnotherFileMeanwhile(t *testing.T) {
	older, newer := model(size), model(size+1)
	for _, kind := range []string{"https", "s3"} {
		t.Run(kind, func(t *testing.T) {
			s := start(t, kind)
			s.put(t, "m.gguf", older)
			s.Cut = []int{size / 2}
			b := s.fetcher(t, t.TempDir(), noRetry)
			_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
			require.Error(t, err)
			s.put(t, "m.gguf", newer)
			file, err := s.fetcher(t, b.dir).fetch(t.Context(), s.parsed(t), fetch.Options{})
			require.NoError(t, err)
			requireFile(t, file, newer)
		})
	}
}

// ORCH-3091
func TestAServerWithoutRanges(t *testing.T) {
	body := model(size)
	s := start(t, "https")
	s.put(t, "m.gguf", body)
	whole := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"x"`)
		_, _ = w.Write(body)
	}
	half := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"x"`)
		_, _ = w.Write(body[:size/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }
	wrong := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 17-20/999")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, "evil")
	}
	for _, second := range []http.HandlerFunc{nil, refuse, wrong} {
		s.First = []http.HandlerFunc{half}
		if second != nil {
			s.First = append(s.First, second)
		}
		s.First = append(s.First, whole)
		b := s.fetcher(t, t.TempDir())
		file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
		require.NoError(t, err)
		requireFile(t, file, body)
	}
}

// LO-803: a fetch that panics fails, and the next one goes on.
func TestAFetchThatPanicsFails(t *testing.T) {
	body := model(size)
	s := start(t, "https")
	s.put(t, "m.gguf", body)
	b := s.fetcher(t, t.TempDir())
	_, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{Progress: func(int64, int64) { panic("index out of range") }})
	require.True(t, task.HasCode(err, task.Internal), "%v", err)
	require.NotContains(t, task.AsError(err).Message, "index", "that is for the log")
	require.Contains(t, b.log.String(), "a fetch panicked")
	file, err := b.fetch(t.Context(), s.parsed(t), fetch.Options{})
	require.NoError(t, err)
	requireFile(t, file, body)
}
