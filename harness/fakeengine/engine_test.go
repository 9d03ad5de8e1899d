// SPDX-License-Identifier: GPL-3.0-or-later

package fakeengine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound ends a test that hangs; no assertion depends on it.
const bound = 30 * time.Second

type bundle struct {
	*testing.T
	ctx    context.Context
	engine *fakeengine.Engine
	url    string
	client *http.Client
}

func setup(t *testing.T, opts fakeengine.Options) *bundle {
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	e := fakeengine.New(opts)
	server := httptest.NewServer(e)
	t.Cleanup(func() { cancel(); server.Close() })
	return &bundle{T: t, ctx: ctx, engine: e, url: server.URL, client: server.Client()}
}

func (b *bundle) do(ctx context.Context, method, path, body string) *http.Response {
	req, err := http.NewRequestWithContext(ctx, method, b.url+path, strings.NewReader(body))
	require.NoError(b, err)
	resp, err := b.client.Do(req)
	require.NoError(b, err)
	b.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func (b *bundle) post(path, body string) *http.Response {
	return b.do(b.ctx, http.MethodPost, path, body)
}

type frame struct {
	Content    string          `json:"content"`
	Stop       bool            `json:"stop"`
	StopType   string          `json:"stop_type"`
	Predicted  int             `json:"tokens_predicted"`
	Evaluated  int             `json:"tokens_evaluated"`
	FrameError json.RawMessage `json:"error"`
}

// frames reads the stream to its end.
func (b *bundle) frames(body io.Reader) (out []frame, raw []string, err error) {
	lines := bufio.NewReader(body)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return out, raw, nil
		}
		if err != nil {
			return out, raw, err
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var f frame
			_ = json.Unmarshal([]byte(data), &f)
			out, raw = append(out, f), append(raw, data)
		}
	}
}

func text(frames []frame) string {
	var b strings.Builder
	for _, f := range frames {
		b.WriteString(f.Content)
	}
	return b.String()
}

// ORCH-3058
func TestOutputDependsOnPromptSeedAndParamsAlone(t *testing.T) {
	b := setup(t, fakeengine.Options{})
	say := func(body string) string {
		frames, _, err := b.frames(b.post("/completion", body).Body)
		require.NoError(b, err)
		require.True(b, frames[len(frames)-1].Stop)
		return text(frames)
	}
	first := say(`{"prompt":"a b","seed":1,"n_predict":12,"stream":true}`)
	require.Len(t, strings.Fields(first), 12)
	require.Equal(t, first, say(`{"prompt":"a b","seed":1,"n_predict":12,"stream":true}`))
	require.NotEqual(t, first, say(`{"prompt":"a b","seed":2,"n_predict":12,"stream":true}`))
	require.NotEqual(t, first, say(`{"prompt":"a c","seed":1,"n_predict":12,"stream":true}`))
	require.NotEqual(t, first, say(`{"prompt":"a b","seed":1,"n_predict":12,"stream":true,"top_k":3}`))
	require.Equal(t, say(`{"prompt":"a b","seed":1,"n_predict":12,"stream":true,"temperature":0}`),
		say(`{"prompt":"a b","seed":2,"n_predict":12,"stream":true,"temperature":0}`))
}

// ORCH-3058
func TestSpeaksTheNativeAPI(t *testing.T) {
	b := setup(t, fakeengine.Options{Ctx: 8, APIKey: "k"})
	require.Equal(t, http.StatusOK, b.do(b.ctx, http.MethodGet, "/health", "").StatusCode)
	require.Equal(t, http.StatusUnauthorized, b.do(b.ctx, http.MethodGet, "/props", "").StatusCode)

	b = setup(t, fakeengine.Options{Ctx: 8})
	body := func(r *http.Response) string {
		raw, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return string(raw)
	}
	require.Contains(t, body(b.do(b.ctx, http.MethodGet, "/props", "")), `"n_ctx":8`)
	var ids struct{ Tokens []int }
	require.NoError(t, json.Unmarshal([]byte(body(b.post("/tokenize", `{"content":"one two one","add_special":true}`))), &ids))
	require.Len(t, ids.Tokens, 4)
	require.Equal(t, ids.Tokens[1], ids.Tokens[3])
	require.JSONEq(t, `{"prompt":"user: hi\nassistant:"}`, body(b.post("/apply-template", `{"messages":[{"role":"user","content":"hi"}]}`)))
	require.Contains(t, body(b.post("/embedding", `{"content":["a","b"]}`)), `"index":1`)
	require.Contains(t, body(b.post("/reranking", `{"query":"x","documents":["x","y"]}`)), `"relevance_score":1`)
	require.Equal(t, http.StatusNotFound, b.post("/nope", "").StatusCode)
	tooLong := b.post("/completion", `{"prompt":"1 2 3 4 5 6 7 8","stream":true}`)
	require.Equal(t, http.StatusBadRequest, tooLong.StatusCode)
	require.Contains(t, body(tooLong), `"n_prompt_tokens":9`)

	frames, _, err := b.frames(b.post("/completion", `{"prompt":"1 2 3","stream":true,"n_predict":-1}`).Body)
	require.NoError(t, err)
	require.Len(t, frames, 5, "the context holds four more tokens")
	require.Equal(t, frame{Stop: true, StopType: "eos", Predicted: 4, Evaluated: 4}, frames[4])
	b.engine.SetScript(fakeengine.Script{Text: []string{"a ", "b<end>c"}})
	frames, _, err = b.frames(b.post("/completion", `{"prompt":"1","stream":true,"stop":["<end>"]}`).Body)
	require.NoError(t, err)
	require.Equal(t, "a b", text(frames))
	require.Equal(t, "word", frames[len(frames)-1].StopType)
}

// ORCH-3058
func TestFaults(t *testing.T) {
	b := setup(t, fakeengine.Options{})
	run := func(s fakeengine.Script) ([]frame, []string, error) {
		b.engine.SetScript(s)
		return b.frames(b.post("/completion", `{"prompt":"p","seed":1,"n_predict":4,"stream":true}`).Body)
	}
	frames, _, err := run(fakeengine.Script{Fault: fakeengine.Die, After: 2})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Len(t, frames, 2)

	frames, _, err = run(fakeengine.Script{Fault: fakeengine.ErrorFrame, After: 1})
	require.NoError(t, err)
	require.Len(t, frames, 2)
	require.Contains(t, string(frames[1].FrameError), "told to fail")

	_, raw, err := run(fakeengine.Script{Fault: fakeengine.SplitRune, After: 1})
	require.NoError(t, err)
	require.False(t, utf8.ValidString(raw[1]))
	require.False(t, utf8.ValidString(raw[2]))

	_, raw, err = run(fakeengine.Script{Fault: fakeengine.HugeLine, Bytes: 1 << 20})
	require.NoError(t, err)
	require.Greater(t, len(raw[0]), 1<<20)

	_, raw, err = run(fakeengine.Script{Fault: fakeengine.Garbage, After: 1})
	require.NoError(t, err)
	require.Equal(t, "{not json\n", raw[1])

	b.engine.SetScript(fakeengine.Script{Fault: fakeengine.Refuse, Status: 418, Match: "tea", Times: 1})
	require.Equal(t, 200, b.post("/completion", `{"prompt":"coffee"}`).StatusCode)
	require.Equal(t, 418, b.post("/completion", `{"prompt":"tea"}`).StatusCode)
	require.Equal(t, 200, b.post("/completion", `{"prompt":"tea"}`).StatusCode)
}

// ORCH-3058
func TestSteppedTokensWaitForTheirRelease(t *testing.T) {
	b := setup(t, fakeengine.Options{})
	b.engine.SetScript(fakeengine.Script{Stepped: true})
	resp := b.post("/completion", `{"prompt":"p","n_predict":3,"stream":true}`)
	require.Equal(t, 0, b.engine.State().TokensSent)
	b.post("/_fake/release?n=2", "")
	require.Contains(t, readAll(t, b.do(b.ctx, http.MethodGet, "/_fake/state?sent=2&busy=1", "")), `"tokens_sent":2`)
	require.Equal(t, 2, b.engine.State().TokensSent)
	b.engine.Release(1)
	frames, _, err := b.frames(resp.Body)
	require.NoError(t, err)
	require.Len(t, frames, 4)
}

// ORCH-3058
func TestCancelFreesTheSlotUnlessTold(t *testing.T) {
	b := setup(t, fakeengine.Options{})
	cancelOne := func(s fakeengine.Script, nth int) {
		b.engine.SetScript(s)
		ctx, cancel := context.WithCancel(b.ctx)
		b.do(ctx, http.MethodPost, "/completion", `{"prompt":"p","stream":true}`)
		cancel()
		_, err := b.engine.Wait(b.ctx, func(s fakeengine.State) bool { return s.Canceled == nth })
		require.NoError(b, err)
	}
	cancelOne(fakeengine.Script{Fault: fakeengine.Stall, After: 1}, 1)
	require.Equal(t, 0, b.engine.State().Busy)
	cancelOne(fakeengine.Script{Fault: fakeengine.Stall, After: 1, IgnoreCancel: true}, 2)
	require.Equal(t, 1, b.engine.State().Busy)
	b.engine.SetScript(fakeengine.Script{})

	answered := make(chan int, 1)
	go func() { answered <- b.post("/completion", `{"prompt":"p"}`).StatusCode }()
	_, err := b.engine.Wait(b.ctx, func(s fakeengine.State) bool { return s.Waiting == 1 })
	require.NoError(t, err)
	b.engine.FreeSlots()
	require.Equal(t, 200, <-answered)
}

// ORCH-3058
func TestHealthAsTold(t *testing.T) {
	b := setup(t, fakeengine.Options{})
	require.Equal(t, 204, b.do(b.ctx, http.MethodPut, "/_fake/health", `{"loading":true,"delay_ms":1}`).StatusCode)
	require.Equal(t, 503, b.do(b.ctx, http.MethodGet, "/health", "").StatusCode)
	require.Equal(t, 204, b.do(b.ctx, http.MethodPut, "/_fake/script", `{"fault":"refuse"}`).StatusCode)
	require.Equal(t, 503, b.post("/completion", `{"prompt":"p"}`).StatusCode)
	b.post("/_fake/reset", "")
	require.Equal(t, 200, b.do(b.ctx, http.MethodGet, "/health", "").StatusCode)
	require.Equal(t, 200, b.post("/completion", `{"prompt":"p"}`).StatusCode)
}

func readAll(t *testing.T, r *http.Response) string {
	raw, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(raw)
}
