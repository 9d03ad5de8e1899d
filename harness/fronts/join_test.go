// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// keyed posts a body with a key.
func (b box) keyed(ctx context.Context, path, key, body string) *http.Response {
	b.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.d.URL+path, strings.NewReader(body))
	require.NoError(b, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", key)
	res, err := http.DefaultClient.Do(r)
	require.NoError(b, err)
	b.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// signs are what says that somebody is there: comments, pings, and white space before a line.
var signs = regexp.MustCompile(`(?m)^(: (?:[^r]|r[^e]).*\n\n|event: ping\ndata: .*\n\n| +)`)

// answered is an answer without the signs of life in it.
func (b box) answered(res *http.Response) string {
	b.Helper()
	data, err := io.ReadAll(res.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, res.StatusCode, "%s", data)
	return signs.ReplaceAllString(string(data), "")
}

// started is how many runs tasks have had in this life of the daemon.
func (b box) started() string {
	b.Helper()
	data, err := b.d.Client.Get(b.Context(), "/metrics")
	require.NoError(b, err)
	return strings.Join(regexp.MustCompile(`(?m)^tasks_started_total{.*$`).FindAllString(string(data), -1), "\n")
}

func (b box) state(id, state string) {
	b.Helper()
	require.NoError(b, watch.Poll(b.Context(), "task "+id+" to be "+state, func() error {
		got, err := b.d.Client.Get(b.Context(), "/v1/tasks/"+id)
		if err == nil && !strings.Contains(string(got), `"state":"`+state+`"`) {
			err = errors.New(string(got))
		}
		return err
	}))
}

// asks are requests of all dialects for the same haiku, without their ends.
var asks = map[string]struct{ path, body, whole, streamed string }{
	"openai":             {"/v1/chat/completions", strings.TrimSuffix(chat("slow-haiku", ""), "}"), `}`, `,"stream":true}`},
	"openai completions": {"/v1/completions", `{"model":"slow-haiku","seed":7,"prompt":"` + question + `"`, `}`, `,"stream":true}`},
	"anthropic":          {"/v1/messages", strings.TrimSuffix(ask("slow-haiku", ""), "}"), `}`, `,"stream":true}`},
	"ollama":             {"/api/chat", `{"model":"slow-haiku","options":{"seed":7},"messages":[{"role":"user","content":"` + question + `"}]`, `,"stream":false}`, `}`},
	"ollama generate":    {"/api/generate", `{"model":"slow-haiku","options":{"seed":7},"raw":true,"prompt":"` + question + `"`, `,"stream":false}`, `}`},
}

// A client that repeats its request joins the task, from its first event, and gets the same bytes.
//
// LO-208, LO-405
func TestJoining(t *testing.T) {
	start := starter(t)
	b := box{t, start()}
	b.idle()
	for name, a := range asks {
		t.Run(name+", while it lives, and after its end", func(t *testing.T) {
			b := box{t, b.d}
			before := b.started()
			key := "streamed " + name
			first := b.keyed(t.Context(), a.path, key, a.body+a.streamed)
			var begun [16]byte
			_, err := io.ReadFull(first.Body, begun[:])
			require.NoError(t, err)
			during := b.keyed(t.Context(), a.path, key, a.body+a.streamed)
			var got [2]string
			var reading sync.WaitGroup
			for i, res := range []*http.Response{first, during} {
				reading.Go(func() { got[i] = b.answered(res) })
			}
			reading.Wait()
			got[0] = signs.ReplaceAllString(string(begun[:])+got[0], "")
			require.Equal(t, got[0], got[1], "both get everything")
			once := b.started()
			require.NotEqual(t, before, once)
			after := b.keyed(t.Context(), a.path, key, a.body+a.streamed)
			require.Equal(t, got[0], b.answered(after))
			require.Equal(t, first.Header.Get("X-Task-Id"), after.Header.Get("X-Task-Id"))

			key = "whole " + name
			a.body = strings.ReplaceAll(a.body, "slow-haiku", "haiku")
			whole := b.keyed(t.Context(), a.path, key, a.body+a.whole)
			want := b.answered(whole)
			twice := b.started()
			again := b.keyed(t.Context(), a.path, key, a.body+a.whole)
			require.Equal(t, want, b.answered(again))
			for _, header := range []string{"X-Task-Id", "X-Queue-Position", "X-Receipt-Transcript-Sha256", "X-Receipt-Fingerprint"} {
				require.NotEmpty(t, whole.Header.Get(header))
				require.Equal(t, whole.Header.Get(header), again.Header.Get(header))
			}
			require.Equal(t, twice, b.started(), "nothing was decoded anew")

			for body, status := range map[string]int{a.body + a.streamed: http.StatusConflict, a.body + a.whole: http.StatusOK} {
				res := b.keyed(t.Context(), a.path, key, body)
				require.Equal(t, status, res.StatusCode)
				if status == http.StatusConflict {
					data, err := io.ReadAll(res.Body)
					require.NoError(t, err)
					require.Contains(t, string(data), "this Idempotency-Key was sent before, with another request")
					require.Equal(t, "false", res.Header.Get("X-Should-Retry"))
				}
			}
			long := b.keyed(t.Context(), a.path, strings.Repeat("k", 10<<10), a.body+a.whole)
			require.Equal(t, http.StatusBadRequest, long.StatusCode)
			require.Equal(t, twice, b.started())
		})
	}
	t.Run("after the client left, and after a kill -9 of the daemon", func(t *testing.T) {
		b := box{t, b.d}
		left := map[string]string{}
		for name, a := range asks {
			ctx, leave := context.WithCancel(t.Context())
			res := b.keyed(ctx, a.path, "left "+name, a.body+a.streamed)
			_, err := io.ReadFull(res.Body, make([]byte, 16))
			require.NoError(t, err)
			leave()
			left[name] = b.answered(b.keyed(t.Context(), a.path, "left "+name, a.body+a.streamed))
			b.state(res.Header.Get("X-Task-Id"), "completed")
		}
		a := asks["openai"]
		res := b.keyed(t.Context(), a.path, "killed", a.body+a.streamed)
		_, err := io.ReadFull(res.Body, make([]byte, 16))
		require.NoError(t, err)
		b.d.Kill()
		b.d = start()
		again := b.keyed(t.Context(), a.path, "killed", a.body+a.streamed)
		require.Equal(t, res.Header.Get("X-Task-Id"), again.Header.Get("X-Task-Id"))
		got := b.answered(again)
		require.Equal(t, got, b.answered(b.keyed(t.Context(), a.path, "killed", a.body+a.streamed)))
		require.Equal(t, anonymous(left["openai"]), anonymous(got), "the same haiku")
		for name, a := range asks {
			require.Equal(t, left[name], b.answered(b.keyed(t.Context(), a.path, "left "+name, a.body+a.streamed)), "from the record")
		}
	})
}

// anonymous is an answer without what tells tasks of one request apart.
func anonymous(answer string) string {
	return regexp.MustCompile(`key-[0-9a-f]+|Seed=\d+|Request-Digest=[0-9a-f]+|"created(_at)?":("[^"]*"|[0-9]+)|"[a-z_]*duration":[0-9]+|"Seed":"[0-9]+"|"Request-Digest":"[0-9a-f]+"`).ReplaceAllString(answer, "X")
}
