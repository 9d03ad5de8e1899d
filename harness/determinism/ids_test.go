// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// listener stands between a daemon and an engine, and takes down the ids of the tokens that the engine says it has decoded, by the seed of the request. The daemon's
// probes have seeds too.
type listener struct {
	*httptest.Server

	mu  sync.Mutex
	ids map[int64][]int
}

// listen starts a listener in front of the engine at a URL.
func listen(t *testing.T, engine string) *listener {
	t.Helper()
	to, err := url.Parse(engine)
	require.NoError(t, err)
	l := &listener{ids: map[int64][]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		FlushInterval: -1,
		Transport:     &http.Transport{DisableKeepAlives: true},
		ErrorLog:      log.New(io.Discard, "", 0), // of clients that went
	}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client went
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		var asked struct{ Seed int64 }
		if strings.HasSuffix(r.URL.Path, "/completion") && json.Unmarshal(body, &asked) == nil {
			w = &tee{ResponseWriter: w, note: func(ids []int) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.ids[asked.Seed] = append(l.ids[asked.Seed], ids...)
			}}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(l.Close)
	return l
}

// taken returns the ids of a seed since the last call for it.
func (l *listener) taken(seed int64) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := l.ids[seed]
	delete(l.ids, seed)
	return ids
}

// tee reads the frames of an answer that it passes on.
type tee struct {
	http.ResponseWriter

	note func(ids []int)
	line []byte
}

// Unwrap is for http.ResponseController, which flushes.
func (w *tee) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *tee) Write(p []byte) (int, error) {
	for _, b := range p { // noted before it is passed on, so that whoever has the answer finds it
		if b != '\n' {
			w.line = append(w.line, b)
			continue
		}
		data, is := strings.CutPrefix(string(w.line), "data: ")
		w.line = w.line[:0]
		var frame struct{ Tokens []int }
		if is && json.Unmarshal([]byte(data), &frame) == nil {
			w.note(frame.Tokens)
		}
	}
	return w.ResponseWriter.Write(p)
}

// start starts an engine that no daemon knows as its own, and returns its URL.
func (e engine) start(t *testing.T) string {
	t.Helper()
	if !e.slots {
		return workerElsewhere(t)
	}
	path, absent, err := LlamaServer()
	require.NoError(t, err)
	require.NoError(t, absent)
	cmd := exec.Command(path, "--model", shared.Model, "--host", "127.0.0.1", "--port", "0", "--threads", "1", "--ctx-size", strconv.Itoa(contextSize), "--parallel", "1", "--cache-ram", "0", "--no-webui")
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	found := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(found)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if _, at, is := strings.Cut(lines.Text(), "listening on "); is {
				select {
				case found <- strings.Fields(at)[0]:
				default:
				}
			}
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		reading.Wait() // until its output ends
		_ = cmd.Wait()
	})
	at, ok := <-found
	require.True(t, ok, "llama-server ended before it served")
	return at
}

// The ids of the tokens are the same on two processes of an engine, and again in another life of the daemon. Text alone would not show it where two rows of tokens spell the same.
//
// LO-888, ORCH-3045, OC-TEST-7001
func TestTheIdsOfTheTokensAreTheSame(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			one, two := listen(t, e.start(t)), listen(t, e.start(t))
			config := "bind_addr: 127.0.0.1:0\ndata_dir: data\nauth: {optional_on_loopback: true}\nsampler_profiles:\n" +
				"  v1: {temperature: 0.8, top_p: 0.95, top_k: 40}\n  v2: {temperature: 1.4, top_p: 1, top_k: 0, min_p: 0.02}\npools:\n"
			for id, at := range map[string]*listener{"one": one, "two": two} {
				config += fmt.Sprintf("  - {id: %s, engine: llamacpp, model: {id: haiku, ref: elsewhere}, slots: 1, sampler_profile: v1, provisioning: {mode: external, urls: [%q]}}\n", id, at.URL)
			}
			all := slices.Clone(cases(t))
			for i, s := range scripts {
				all = append(all, testCase{Name: fmt.Sprintf("script-%d", i), Request: map[string]any{"seed": 900 + i, "prompt": s.prompt, "max_tokens": 60, "params": wild}})
			}
			first := map[string][]int{}
			ids := 0
			for life := range 2 {
				d := serve(t, fmt.Sprintf("of ids, life %d", life), config, nil)
				ready(t, d, "one", "two")
				for _, c := range all {
					for id, at := range map[string]*listener{"one": one, "two": two} {
						r := ask(t, d, c, id)
						require.Equal(t, "strict", r.receipt().Determinism)
						seed := int64(r.receipt().Seed)
						got := at.taken(seed)
						require.GreaterOrEqual(t, len(got), len(r.Tokens), "%s: each piece of text has its token", c.Name)
						if first[c.Name] == nil {
							first[c.Name] = got
						}
						require.Equal(t, first[c.Name], got, "%s on %s in life %d", c.Name, id, life)
						ids += len(got)
					}
				}
				d.Kill()
			}
			say(t, "%s: %d ids of tokens in %d answers on 2 processes in 2 lives of the daemon, no difference", e.name, ids, 4*len(all))
		})
	}
}
