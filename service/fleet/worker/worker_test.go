// SPDX-License-Identifier: GPL-3.0-or-later

package worker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/worker"
)

// ORCH-3054
func TestCompletionAnswers(t *testing.T) {
	p := start(t, nil)
	a := p.complete(t, ask(map[string]any{"temperature": 0}))
	require.Equal(t, "GPUs once more\nforty-two kernels at night\nthe thread is glowing", a.Content)
	require.Equal(t, "eos", a.StopType)
	require.Equal(t, 22, a.Evaluated)
	require.Positive(t, a.Predicted)

	var props struct {
		Build    string `json:"build_info"`
		System   string `json:"system_info"`
		Slots    int    `json:"total_slots"`
		Template string `json:"chat_template"`
		Defaults struct {
			Ctx int `json:"n_ctx"`
		} `json:"default_generation_settings"`
	}
	_, data := p.get(t, "/props")
	require.NoError(t, json.Unmarshal(data, &props))
	require.Equal(t, "llama.cpp v0.5.0 built-in", props.Build)
	require.Contains(t, props.System, "CPU")
	require.Equal(t, 1, props.Slots)
	require.Equal(t, 256, props.Defaults.Ctx)
	require.Contains(t, props.Template, "messages")

	_, data = p.get(t, "/metrics")
	require.Contains(t, string(data), fmt.Sprintf("\nllamacpp:tokens_predicted_total %d\n", a.Predicted))
}

// ORCH-3045
func TestSameSeedSameBytes(t *testing.T) {
	p, q := start(t, nil), start(t, nil)
	seen := map[string]bool{}
	for seed := range 12 {
		first := p.complete(t, ask(map[string]any{"seed": seed}))
		p.complete(t, ask(map[string]any{"seed": seed + 1000, "prompt": "Write a haiku about frogs.\n\n"})) // what ran before leaves no trace
		require.Equal(t, first, p.complete(t, ask(map[string]any{"seed": seed})))
		require.Equal(t, first, q.complete(t, ask(map[string]any{"seed": seed})))
		seen[first.Content] = true
	}
	require.Len(t, seen, 12, "every seed has its own haiku")
}

// frames reads a streamed completion.
func frames(t *testing.T, p *process, body map[string]any) (texts []string, last map[string]any) {
	t.Helper()
	body["stream"] = true
	resp, err := p.request(t.Context(), http.MethodPost, "/completion", body)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			require.Empty(t, lines.Text())
			continue
		}
		require.Nil(t, last, "nothing follows the last frame")
		var f map[string]any
		require.NoError(t, json.Unmarshal([]byte(data), &f))
		if f["stop"] == true {
			last = f
			continue
		}
		require.Len(t, f["tokens"], 1)
		texts = append(texts, f["content"].(string))
	}
	require.NoError(t, lines.Err())
	return texts, last
}

// ORCH-3054
func TestStreamHoldsWhatTheAnswerHolds(t *testing.T) {
	p := start(t, nil)
	whole := p.complete(t, ask(nil))
	texts, last := frames(t, p, ask(nil))
	require.Equal(t, whole.Content, strings.Join(texts, ""))
	require.Len(t, texts, whole.Predicted)
	require.Equal(t, "eos", last["stop_type"])
	require.EqualValues(t, whole.Predicted, last["tokens_predicted"])
	require.EqualValues(t, 22, last["tokens_evaluated"])
	require.Contains(t, last["timings"], "predicted_ms")
}

// ORCH-3054
func TestStopStrings(t *testing.T) {
	p := start(t, nil)
	for _, c := range []struct {
		stop    any
		content string
		word    string
	}{
		{"\n", "GPUs once more", "\n"},
		{[]string{"night", "kernels"}, "GPUs once more\nforty-two ", "kernels"},
		{[]string{"s once more\nforty-two k"}, "GPU", "s once more\nforty-two k"}, // over several tokens
		{[]string{"glowing, but not this"}, "GPUs once more\nforty-two kernels at night\nthe thread is glowing", ""},
		{"", "GPUs once more\nforty-two kernels at night\nthe thread is glowing", ""},
	} {
		a := p.complete(t, ask(map[string]any{"temperature": 0, "stop": c.stop}))
		require.Equal(t, c.content, a.Content)
		require.Equal(t, c.word, a.StopWord)
		texts, last := frames(t, p, ask(map[string]any{"temperature": 0, "stop": c.stop}))
		require.Equal(t, c.content, strings.Join(texts, ""))
		require.Equal(t, a.StopType, last["stop_type"])
	}
	// What was held back for a stop string that did not come is sent at the limit.
	a := p.complete(t, ask(map[string]any{"temperature": 0, "n_predict": 2, "stop": "s once more\nforty-two k"}))
	require.Equal(t, "GPUs", a.Content)
	require.Equal(t, "limit", a.StopType)
}

// ORCH-3054
func TestContextIsNeverPassed(t *testing.T) {
	p := start(t, nil)
	long := strings.Repeat("frog pond ", 60)
	_, data := p.post(t, "/tokenize", map[string]any{"content": long, "add_special": true})
	var tokens struct{ Tokens []int }
	require.NoError(t, json.Unmarshal(data, &tokens))
	require.Less(t, len(tokens.Tokens), 256)
	// Hot enough not to end by itself.
	a := p.complete(t, map[string]any{"prompt": tokens.Tokens, "temperature": 50, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 5, "n_predict": -1})
	if a.StopType == "limit" {
		require.Equal(t, 256-len(tokens.Tokens), a.Predicted)
		require.True(t, a.Truncated)
	}
	full := p.complete(t, map[string]any{"prompt": make([]int, 255), "n_predict": -1})
	require.Equal(t, 1, full.Predicted)

	status, data := p.post(t, "/completion", ask(map[string]any{"prompt": strings.Repeat("frog pond ", 200), "stream": true}))
	require.Equal(t, http.StatusBadRequest, status)
	var refusal struct {
		Error struct {
			Type   string `json:"type"`
			Code   int    `json:"code"`
			Prompt int    `json:"n_prompt_tokens"`
			Ctx    int    `json:"n_ctx"`
		} `json:"error"`
	}
	require.NoError(t, json.Unmarshal(data, &refusal))
	require.Equal(t, "exceed_context_size_error", refusal.Error.Type)
	require.Equal(t, 400, refusal.Error.Code)
	require.Greater(t, refusal.Error.Prompt, 256)
	require.Equal(t, 256, refusal.Error.Ctx)
}

// ORCH-3054
func TestBadRequestsAreRefused(t *testing.T) {
	p := start(t, nil)
	for name, c := range map[string]struct {
		path   string
		body   any
		status int
	}{
		"no prompt":           {"/completion", map[string]any{}, 400},
		"prompt of a number":  {"/completion", map[string]any{"prompt": 7}, 400},
		"unknown token":       {"/completion", map[string]any{"prompt": []int{1 << 30}}, 400},
		"negative token":      {"/completion", map[string]any{"prompt": []int{-1}}, 400},
		"text as temperature": {"/completion", ask(map[string]any{"temperature": "hot"}), 400},
		"n_predict below -1":  {"/completion", ask(map[string]any{"n_predict": -7}), 400},
		"repeat penalty 0":    {"/completion", ask(map[string]any{"repeat_penalty": 0}), 400},
		"seed too large":      {"/completion", ask(map[string]any{"seed": 1 << 40}), 400},
		"stop of a number":    {"/completion", ask(map[string]any{"stop": 3}), 400},
		"grammar, half of it": {"/completion", ask(map[string]any{"grammar": "root ::= ("}), 400},
		"grammar, no root":    {"/completion", ask(map[string]any{"grammar": "all ::= \"a\""}), 400},
		"grammar, left":       {"/completion", ask(map[string]any{"grammar": "root ::= root \"a\" | \"a\""}), 400},
		"grammar, streamed":   {"/completion", ask(map[string]any{"grammar": "root", "stream": true}), 400},
		"grammar, deep":       {"/completion", ask(map[string]any{"grammar": "root ::= " + strings.Repeat("(", 1<<20)}), 400},
		"grammar, many rules": {"/completion", ask(map[string]any{"grammar": "root ::= a\n" + strings.Repeat("a ::= \"a\"\n", 1<<16)}), 400},
		"grammar, NUL":        {"/completion", ask(map[string]any{"grammar": "root ::= \"a\"\x00"}), 400},
		"grammar, no token":   {"/completion", ask(map[string]any{"grammar": "root ::= [^\\x00-\\UFFFFFFFF]"}), 400},
		"JSON schema":         {"/completion", ask(map[string]any{"json_schema": map[string]any{"type": "object"}}), 400},
		"mirostat":            {"/completion", ask(map[string]any{"mirostat": 2, "stream": true}), 400},
		"embedding":           {"/embedding", map[string]any{"content": "x"}, 501},
		"no such path":        {"/v1/chat/completions", map[string]any{}, 404},
		"no messages":         {"/apply-template", map[string]any{"messages": []any{}}, 400},
	} {
		status, data := p.post(t, c.path, c.body)
		require.Equal(t, c.status, status, "%s: %s", name, data)
		var body struct {
			Error struct {
				Message string
				Code    int
			}
		}
		require.NoError(t, json.Unmarshal(data, &body), name)
		require.Equal(t, c.status, body.Error.Code, name)
		require.NotEmpty(t, body.Error.Message, name)
	}
	require.Equal(t, "eos", p.complete(t, ask(nil)).StopType, "it keeps serving")
}

// ORCH-3054
func TestKeyIsAsked(t *testing.T) {
	p := start(t, nil)
	for _, header := range []string{"", "Bearer wrong", "secre"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/props", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", header)
		resp, err := p.client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	}
}

func (p *process) busy(t *testing.T) bool {
	t.Helper()
	_, data := p.get(t, "/slots")
	var slots []struct {
		Busy bool `json:"is_processing"`
	}
	require.NoError(t, json.Unmarshal(data, &slots))
	require.Len(t, slots, 1)
	return slots[0].Busy
}

func (p *process) deferred(t *testing.T, want int) {
	t.Helper()
	for {
		_, data := p.get(t, "/metrics")
		if strings.Contains(string(data), fmt.Sprintf("\nllamacpp:requests_deferred %d\n", want)) {
			return
		}
	}
}

// ORCH-3026
func TestClosedConnectionFreesTheSlot(t *testing.T) {
	p := start(t, func(o *options) { o.Pace = 0.01 }) // the second token would come after 100 s
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp, err := p.request(ctx, http.MethodPost, "/completion", ask(map[string]any{"stream": true}))
	require.NoError(t, err)
	_, err = bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	require.True(t, p.busy(t))
	cancel()
	require.NoError(t, resp.Body.Close())
	for p.busy(t) {
	}
	_, data := p.get(t, "/metrics")
	require.Contains(t, string(data), "\nllamacpp:tokens_predicted_total 1\n")
}

// ORCH-3054
func TestJobsTakeTurnsInArrivalOrder(t *testing.T) {
	p := start(t, func(o *options) { o.Pace = 0.01 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	blocker, err := p.request(ctx, http.MethodPost, "/completion", ask(map[string]any{"stream": true}))
	require.NoError(t, err)

	// Each job, when its turn comes, keeps the slot until it is released.
	var (
		wg      sync.WaitGroup
		begun   = make(chan int)
		release = make(chan struct{})
	)
	const n = 5
	for i := range n {
		wg.Go(func() {
			resp, err := p.request(t.Context(), http.MethodPost, "/completion", ask(map[string]any{"stream": true}))
			if err != nil { // the header comes with the first token
				begun <- -1
				return
			}
			begun <- i
			<-release
			_ = resp.Body.Close()
		})
		p.deferred(t, i+1)
	}
	gone, leave := context.WithCancel(t.Context())
	var left error
	wg.Go(func() {
		_, left = p.request(gone, http.MethodPost, "/completion", ask(map[string]any{"n_predict": 1}))
	})
	p.deferred(t, n+1)
	// Counting works while decoding.
	status, _ := p.post(t, "/tokenize", map[string]any{"content": "frogs"})
	require.Equal(t, http.StatusOK, status)
	leave()
	p.deferred(t, n)
	cancel()
	_ = blocker.Body.Close()
	for i := range n {
		require.Equal(t, i, <-begun)
		release <- struct{}{}
	}
	wg.Wait()
	require.ErrorIs(t, left, context.Canceled)
}

// ORCH-3054
func TestUnicode(t *testing.T) {
	p := start(t, nil)
	for _, text := range []string{"", "frogs", "ñandú 🐸 蛙", "a\x00b", strings.Repeat("é", 3000), "\xff\xfe"} {
		status, data := p.post(t, "/tokenize", map[string]any{"content": text, "add_special": true})
		require.Equal(t, http.StatusOK, status, string(data))
	}
	// At this temperature tokens are drawn from the whole vocabulary, bytes of runes among them.
	for seed := range 5 {
		body := map[string]any{"prompt": prompt, "temperature": 1000, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed, "n_predict": 120}
		texts, _ := frames(t, p, body)
		for _, s := range texts {
			require.True(t, utf8.ValidString(s))
		}
		body["stream"] = false
		require.Equal(t, p.complete(t, body).Content, strings.Join(texts, ""))
	}
}

// ORCH-3054
func TestApplyTemplate(t *testing.T) {
	p := start(t, nil)
	status, data := p.post(t, "/apply-template", map[string]any{"messages": []map[string]string{
		{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  " + strings.TrimSpace(prompt) + " "},
	}})
	require.Equal(t, http.StatusOK, status)
	var body struct{ Prompt string }
	require.NoError(t, json.Unmarshal(data, &body))
	require.Equal(t, prompt, body.Prompt)
}

// An answer keeps to its grammar. One that allows everything changes no byte, since a token that fits is taken as it was sampled.
//
// LO-410
func TestGrammar(t *testing.T) {
	p := start(t, nil)
	for seed := range 4 {
		wild := func(more map[string]any) map[string]any {
			body := ask(map[string]any{"seed": seed, "temperature": 1.5})
			maps.Copy(body, more)
			return body
		}
		free := p.complete(t, wild(nil))
		require.Equal(t, free, p.complete(t, wild(map[string]any{"grammar": `root ::= [^\x00]*`})))
		bound := p.complete(t, wild(map[string]any{"grammar": `root ::= ("frog" | "pond") " " [a-c]{3}`})).Content
		require.Regexp(t, `^(frog|pond) [abc]{3}$`, bound)
	}
}

// LO-410
func TestLogitBias(t *testing.T) {
	p := start(t, nil)
	status, data := p.post(t, "/tokenize", map[string]any{"content": "^"})
	require.Equal(t, http.StatusOK, status)
	var body struct{ Tokens []int }
	require.NoError(t, json.Unmarshal(data, &body))
	require.Len(t, body.Tokens, 1)
	biased := ask(map[string]any{"logit_bias": [][2]any{{body.Tokens[0], 100}}, "n_predict": 4})
	require.Equal(t, "^^^^", p.complete(t, biased).Content)
	for _, bad := range []any{[][2]any{{1 << 30, 1}}, [][2]any{{-1, 1}}, []any{7}, [][]any{{1}}, [][]any{{1, nil}}} {
		status, data := p.post(t, "/completion", ask(map[string]any{"logit_bias": bad}))
		require.Equal(t, http.StatusBadRequest, status, "%v", bad)
		require.Contains(t, string(data), "logit_bias")
	}
}

// ORCH-3054
func TestEmbeddings(t *testing.T) {
	p := start(t, func(o *options) { o.Workload = "embedding" })
	status, data := p.post(t, "/embedding", map[string]any{"content": []string{"rain on the roof", "a queue of jobs", "rain on the roof"}})
	require.Equal(t, http.StatusOK, status, string(data))
	var items []struct {
		Index     int
		Embedding [][]float64
	}
	require.NoError(t, json.Unmarshal(data, &items))
	require.Len(t, items, 3)
	for i, item := range items {
		require.Equal(t, i, item.Index)
		require.Len(t, item.Embedding[0], 128)
		var sum float64
		for _, x := range item.Embedding[0] {
			sum += x * x
		}
		require.InDelta(t, 1, math.Sqrt(sum), 1e-5)
	}
	require.Equal(t, items[0].Embedding, items[2].Embedding)
	require.NotEqual(t, items[0].Embedding, items[1].Embedding)

	status, _ = p.post(t, "/embedding", map[string]any{"content": strings.Repeat("frog pond ", 400)})
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = p.post(t, "/completion", ask(nil))
	require.Equal(t, http.StatusNotImplemented, status)
}

// ORCH-3001
func TestEndOfStdinEndsTheProcess(t *testing.T) {
	p := start(t, func(o *options) { o.Pace = 0.01 })
	resp, err := p.request(t.Context(), http.MethodPost, "/completion", ask(map[string]any{"stream": true}))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.cmd.Wait(), p.stderr)
	require.Zero(t, p.cmd.ProcessState.ExitCode())
}

// LO-837: it is the daemon that ends a worker, not whoever sends signals to all processes of a service
func TestSignalsFromOutsideDoNotEndTheProcess(t *testing.T) {
	p := start(t, nil)
	want := p.complete(t, ask(nil)).Content
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		require.NoError(t, p.cmd.Process.Signal(sig))
		require.Equal(t, want, p.complete(t, ask(nil)).Content)
	}
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.cmd.Wait(), p.stderr)
}

// ORCH-3001, ORCH-3200
func TestWhatIsBrokenIsSaid(t *testing.T) {
	dir := t.TempDir()
	model, err := filepath.Abs(haiku)
	require.NoError(t, err)
	whole, err := os.ReadFile(model)
	require.NoError(t, err)
	text, cut := filepath.Join(dir, "text.gguf"), filepath.Join(dir, "cut.gguf")
	require.NoError(t, os.WriteFile(text, []byte("not a model"), 0o644))
	require.NoError(t, os.WriteFile(cut, whole[:len(whole)/2], 0o644))
	broken := filepath.Join(dir, "libs")
	require.NoError(t, os.Mkdir(broken, 0o755))
	for _, name := range []string{"libllama.so", "libggml.so", "libggml-base.so"} {
		require.NoError(t, os.WriteFile(filepath.Join(broken, name), []byte("not a library"), 0o644))
	}
	for name, c := range map[string]struct {
		o    options
		exit int
	}{
		"no such model":  {options{Model: filepath.Join(dir, "absent.gguf"), Libs: libs}, worker.ExitModel},
		"a folder":       {options{Model: dir, Libs: libs}, worker.ExitModel},
		"text":           {options{Model: text, Libs: libs}, worker.ExitModel},
		"half a model":   {options{Model: cut, Libs: libs}, worker.ExitModel},
		"no libraries":   {options{Model: model, Libs: dir}, worker.ExitLibrary},
		"broken library": {options{Model: model, Libs: broken}, worker.ExitLibrary},
		"rerank":         {options{Model: model, Libs: libs, Workload: "rerank"}, worker.ExitUsage},
	} {
		p := spawn(t, c.o)
		var exit *exec.ExitError
		require.ErrorAs(t, p.cmd.Wait(), &exit, name)
		require.Equal(t, c.exit, exit.ExitCode(), "%s: %s", name, p.stderr)
		lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
		var said struct {
			Error    string `json:"error"`
			ExitCode int    `json:"exit_code"`
		}
		require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &said), p.stderr)
		require.NotEmpty(t, said.Error)
		require.Equal(t, c.exit, said.ExitCode)
	}
}

// LO-451: the sampled token and the likeliest ones come with how likely they were before any sampler, streamed and whole.
func TestProbabilities(t *testing.T) {
	p := start(t, nil)
	type likely struct {
		Token   string
		Bytes   []int
		Logprob float64
	}
	type token struct {
		likely

		Top []likely `json:"top_logprobs"`
	}
	tell := func(more map[string]any) (told []token) {
		body := ask(more)
		status, data := p.post(t, "/completion", body)
		require.Equal(t, http.StatusOK, status, string(data))
		var whole struct {
			Told []token `json:"completion_probabilities"`
		}
		require.NoError(t, json.Unmarshal(data, &whole))
		return whole.Told
	}
	require.Empty(t, tell(map[string]any{"n_predict": 4}))
	greedy := tell(map[string]any{"n_predict": 4, "n_probs": 20, "temperature": 0})
	require.Len(t, greedy, 4)
	for _, told := range greedy {
		require.Len(t, told.Top, 20)
		require.Equal(t, told.likely, told.Top[0], "a greedy run takes the likeliest")
		require.Len(t, told.Bytes, len(told.Token))
		sum := 0.0
		for i, l := range told.Top {
			require.True(t, i == 0 || l.Logprob <= told.Top[i-1].Logprob)
			sum += math.Exp(l.Logprob)
		}
		require.LessOrEqual(t, sum, 1.000001)
		require.Greater(t, sum, 0.5, "the bundled model is sure of what comes")
	}
	require.Equal(t, greedy, tell(map[string]any{"n_predict": 4, "n_probs": 20, "temperature": 0}))
	// Neither biases nor the temperature change what the model thinks.
	changed := tell(map[string]any{"n_predict": 1, "n_probs": 20, "temperature": 1000, "top_k": 0, "logit_bias": [][2]any{{5, 100}}})
	require.Equal(t, greedy[0].Top, changed[0].Top)
	require.Less(t, changed[0].Logprob, greedy[0].Logprob)
	require.Len(t, tell(map[string]any{"n_predict": 1, "n_probs": 1})[0].Top, 1)
	for name, bad := range map[string]any{"n_probs": 21, "post_sampling_probs": true} {
		status, data := p.post(t, "/completion", ask(map[string]any{name: bad}))
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, string(data), name)
	}
}
