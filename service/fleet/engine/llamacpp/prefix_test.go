// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

const piece = 16

// slot is a llama-server with one slot whose tokens are bytes. It keeps the longest common prefix as a llama-server does, and knows of each token whether a
// cold start would have computed it so.
type slot struct {
	t *testing.T

	mu    sync.Mutex
	cells []cell
	cold  map[string]bool // by prompt: its last whole run had the bytes of a cold start
	calls []string
	// told is what the frame about the prompt says came from KV, given what did; nil: that. Below 0 there is no such frame.
	told  func(cached int) int
	files *folder
	// breaks says after how many pieces of a prompt the client is gone; nil: never.
	breaks func() int
}

type cell struct {
	token int32
	sound bool
}

func tokensOf(text string) []int32 {
	tokens := []int32{1000} // that begins every prompt
	for _, b := range []byte(text) {
		tokens = append(tokens, int32(b))
	}
	return tokens
}

// decode computes a prompt, and then an answer of so many tokens.
func (s *slot) decode(prompt []int32, cache bool, answer int) (cached int, cold bool) {
	if cache {
		for cached < len(s.cells) && cached < len(prompt)-1 && s.cells[cached].token == prompt[cached] {
			cached++
		}
	}
	s.cells = s.cells[:cached]
	cold = cached%piece == 0 && !slices.ContainsFunc(s.cells, func(c cell) bool { return !c.sound })
	pieces := -1
	if s.breaks != nil {
		pieces = s.breaks()
	}
	sound := cold
	for at := cached; at < len(prompt); at += piece {
		if pieces == 0 {
			return cached, false
		}
		pieces--
		part := prompt[at:min(at+piece, len(prompt))]
		sound = sound && len(part) == piece
		for _, token := range part {
			s.cells = append(s.cells, cell{token, sound})
		}
	}
	for i := range answer {
		s.cells = append(s.cells, cell{token: int32('a' + i)})
	}
	return cached, cold
}

func (s *slot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var body struct {
		Content  string          `json:"content"`
		Prompt   json.RawMessage `json:"prompt"`
		NPredict int             `json:"n_predict"`
		Cache    bool            `json:"cache_prompt"`
		Exact    bool            `json:"cache_exact"`
		Progress bool            `json:"return_progress"`
		File     string          `json:"filename"`
	}
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			s.t.Error(err)
		}
	}
	s.calls = append(s.calls, r.URL.Path)
	switch r.URL.Path {
	case "/slots/0":
		s.file(w, r.URL.Query().Get("action"), body.File)
		return
	case "/props":
		fmt.Fprint(w, props)
		return
	case "/tokenize":
		_ = json.NewEncoder(w).Encode(map[string]any{"tokens": tokensOf(body.Content)})
		return
	}
	if body.Exact {
		s.t.Error("a llama-server does not know cache_exact")
	}
	var text string
	var prompt []int32
	if json.Unmarshal(body.Prompt, &prompt) == nil { // the cut
		s.calls[len(s.calls)-1] = "cut"
		cached, _ := s.decode(prompt, body.Cache, body.NPredict)
		fmt.Fprintf(w, `{"timings":{"cache_n":%d}}`, cached)
		return
	}
	_ = json.Unmarshal(body.Prompt, &text)
	cached, cold := s.decode(tokensOf(text), body.Cache, 3)
	told := cached
	if s.told != nil {
		told = s.told(cached)
	}
	if body.Progress && told >= 0 {
		fmt.Fprintf(w, `data: {"content":"","stop":false,"prompt_progress":{"total":9,"cache":%d,"processed":9,"time_ms":0}}`+"\n\n", told)
	}
	if len(s.cells) < len(tokensOf(text)) {
		panic(http.ErrAbortHandler) // the connection breaks
	}
	s.cold[text] = cold
	for i := range 3 {
		fmt.Fprint(w, token(string(rune('a'+i))))
	}
	fmt.Fprintf(w, `data: {"content":"","stop":true,"stop_type":"eos","tokens_predicted":3,"tokens_evaluated":%d,"timings":{"cache_n":%d}}`+"\n\n", len(tokensOf(text)), cached)
}

// folder holds slots that were saved, by the names of their files.
type folder struct {
	mu    sync.Mutex
	slots map[string][]cell
}

// change changes what is there.
func (f *folder) change(do func(slots map[string][]cell)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(f.slots)
}

// file saves the slot, or restores it. A byte of a file is a token.
func (s *slot) file(w http.ResponseWriter, action, name string) {
	var cells []cell
	there := false
	if s.files != nil {
		s.files.change(func(slots map[string][]cell) {
			if action == "save" {
				slots[name] = slices.Clone(s.cells)
			}
			cells, there = slots[name]
		})
	}
	switch {
	case action == "save" && there:
		fmt.Fprintf(w, `{"id_slot":0,"filename":%q,"n_saved":%d,"n_written":%[2]d}`, name, len(s.cells))
	case action == "restore" && there:
		s.cells = slices.Clone(cells)
		fmt.Fprintf(w, `{"id_slot":0,"filename":%q,"n_restored":%d,"n_read":%[2]d}`, name, len(s.cells))
	default:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":{"code":400,"message":"Unable to restore slot, no available space in KV cache or invalid slot save file"}}`)
	}
}

func serveSlot(t *testing.T, piece int) (*slot, *llamacpp.Engine) {
	s := &slot{t: t, cold: map[string]bool{}}
	server := httptest.NewServer(s)
	e := llamacpp.New(engine.Endpoint{URL: server.URL, Piece: piece})
	t.Cleanup(func() { e.Close(); server.Close() })
	return s, e
}

// ask runs a job, and returns how much of its prompt came from KV, and what the engine was asked.
func (s *slot) ask(e *llamacpp.Engine, prompt string, reuse engine.Reuse) (cached int, calls []string) {
	s.t.Helper()
	s.mu.Lock()
	s.calls = nil
	s.mu.Unlock()
	var b strings.Builder
	r, err := e.Generate(s.t.Context(), engine.Job{Prompt: prompt, MaxTokens: 3, Reuse: reuse}, collect(&b))
	require.NoError(s.t, err)
	require.Equal(s.t, "abc", b.String())
	s.mu.Lock() // the client may be done before the handler is
	defer s.mu.Unlock()
	return r.Cached, s.calls
}

// asCold reports whether the last whole run of a prompt had the bytes of a cold start.
func (s *slot) asCold(prompt string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cold[prompt]
}

func (s *slot) breaking(after func() int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaks = after
}

// A llama-server's slot is cut to whole pieces of prompt before a job that wants the bytes of a cold start reuses them.
// LO-206
func TestASlotIsCutToWholePiecesOfPrompt(t *testing.T) {
	s, e := serveSlot(t, piece)
	first := strings.Repeat("one ", 10) // 41 tokens
	n, calls := s.ask(e, first, engine.ReuseExact)
	require.Zero(t, n)
	require.Equal(t, []string{"/props", "/completion"}, calls, "a cold start costs no further call")

	n, calls = s.ask(e, first+"abc and so on", engine.ReuseExact) // the slot holds its answer too, which was decoded
	require.Equal(t, 2*piece, n)
	require.Equal(t, []string{"/tokenize", "/tokenize", "cut", "/completion"}, calls)
	require.True(t, s.asCold(first+"abc and so on"))

	n, calls = s.ask(e, first+"abc and so forth", engine.ReuseExact)
	require.Equal(t, 3*piece, n, "what was decoded before has been computed as prompt now")
	require.Equal(t, []string{"/tokenize", "cut", "/completion"}, calls)

	n, calls = s.ask(e, "something else, which has nothing in common with it", engine.ReuseExact)
	require.Zero(t, n)
	require.Equal(t, []string{"/completion"}, calls)

	n, _ = s.ask(e, "something else, which has nothing in common with it", engine.ReuseNothing)
	require.Zero(t, n, "who wants to start cold does")
	n, _ = s.ask(e, "something else, which has nothing in common with it", engine.ReuseExact)
	require.Equal(t, 3*piece, n, "but leaves whole pieces")
	s.ask(e, "something else, which has nothing in common", engine.ReuseAny)
	n, _ = s.ask(e, "something else, which has nothing in common with it", engine.ReuseExact)
	require.Zero(t, n, "nobody knows what a job leaves that takes what it finds")
}

// A run that breaks off within its prompt leaves what it took from KV, and nobody knows what else.
// LO-206
func TestABrokenRunLeavesWhatItReused(t *testing.T) {
	s, e := serveSlot(t, piece)
	prompt := strings.Repeat("one ", 10)
	s.ask(e, prompt, engine.ReuseExact)
	longer := prompt + strings.Repeat("two ", 20)
	s.breaking(func() int { return 2 }) // behind the piece with which the slot is cut, and one of the prompt
	_, err := e.Generate(t.Context(), engine.Job{Prompt: longer, MaxTokens: 3, Reuse: engine.ReuseExact}, func(task.Piece) error { return nil })
	require.True(t, task.HasCode(err, task.WorkerReset), "%v", err)
	s.breaking(nil)
	n, _ := s.ask(e, longer, engine.ReuseExact)
	require.Equal(t, 2*piece, n)
	require.True(t, s.asCold(longer))
}

// Where nobody has shown that whole pieces change no byte, strict tasks start cold.
// LO-441
func TestWithoutPiecesEveryJobStartsCold(t *testing.T) {
	s, e := serveSlot(t, 0)
	prompt := strings.Repeat("one ", 40)
	for range 2 {
		n, calls := s.ask(e, prompt, engine.ReuseExact)
		require.Zero(t, n)
		require.NotContains(t, calls, "cut")
	}
}

// An engine that took something else from KV than it was to, or does not tell, is asked again for a cold start before a token of it is passed on.
// LO-206
func TestASlotThatHoldsSomethingElseIsNotUsed(t *testing.T) {
	for name, told := range map[string]func(int) int{
		"more": func(n int) int { return n + 1 }, "less": func(n int) int { return n - piece }, "nothing told": func(int) int { return -1 },
	} {
		s, e := serveSlot(t, piece)
		prompt := strings.Repeat("one ", 40)
		s.ask(e, prompt, engine.ReuseExact)
		s.mu.Lock()
		s.told = func(cached int) int {
			if cached == 0 {
				return 0
			}
			return told(cached)
		}
		s.mu.Unlock()
		n, calls := s.ask(e, prompt, engine.ReuseExact)
		require.Zero(t, n, name)
		require.Equal(t, []string{"/tokenize", "/tokenize", "cut", "/completion", "/completion"}, calls, name)
		require.True(t, s.asCold(prompt), name)
	}
}

// Whatever ran before and however it ended, a job that wants the bytes of a cold start has them.
// LO-206
func TestNoHistoryOfASlotChangesABytes(t *testing.T) {
	s, e := serveSlot(t, piece)
	r := rand.New(rand.NewPCG(1, 2))
	base := strings.Repeat("the old pond, a frog leaps in, ", 6)
	reused, judged := 0, 0
	for range 600 {
		prompt := base[:r.IntN(len(base))] + strings.Repeat("abc", r.IntN(12)) + fmt.Sprint(r.IntN(3))
		reuse := []engine.Reuse{engine.ReuseExact, engine.ReuseExact, engine.ReuseExact, engine.ReuseNothing, engine.ReuseAny}[r.IntN(5)]
		ctx, cancel := context.WithCancel(t.Context())
		left := errors.New("left")
		leave := r.IntN(6) == 0
		s.mu.Lock()
		s.breaks = nil
		if r.IntN(5) == 0 {
			after := r.IntN(8)
			s.breaks = func() int { return after }
		}
		delete(s.cold, prompt)
		s.mu.Unlock()
		result, err := e.Generate(ctx, engine.Job{Prompt: prompt, MaxTokens: 3, Reuse: reuse}, func(task.Piece) error {
			if leave {
				return left
			}
			return nil
		})
		cancel()
		if err == nil && reuse == engine.ReuseExact {
			judged++
			reused += result.Cached
			require.True(t, s.asCold(prompt), "%q with %d tokens from KV", prompt, result.Cached)
		}
		if r.IntN(20) == 0 {
			s.mu.Lock()
			s.cells = nil // the engine forgets by itself
			s.mu.Unlock()
		}
	}
	require.Greater(t, judged, 150)
	require.Greater(t, reused, 10*judged)
}

// The built-in worker knows by itself what its slot holds, and is only told what a job wants.
// LO-206
func TestTheBuiltInWorkerReusesByItself(t *testing.T) {
	w, _ := launchWorkerWith(t, map[string]any{"Ubatch": piece}, piece)
	prompt := strings.Repeat("Write a haiku about rain. ", 6)
	generate := func(prompt string, reuse engine.Reuse) (string, engine.Result) {
		var b strings.Builder
		r, err := w.Generate(t.Context(), engine.Job{Prompt: prompt, MaxTokens: 20, Seed: 3, Reuse: reuse, Sampling: task.Sampling{Temperature: 1, TopP: 1, RepeatPenalty: 1}}, collect(&b))
		require.NoError(t, err)
		return b.String(), r
	}
	first, r := generate(prompt, engine.ReuseExact)
	require.Zero(t, r.Cached)
	again, r := generate(prompt+first+" And again.", engine.ReuseExact)
	require.Positive(t, r.Cached)
	require.Zero(t, r.Cached%piece)
	cold, r := generate(prompt+first+" And again.", engine.ReuseNothing)
	require.Zero(t, r.Cached)
	require.Equal(t, cold, again)
}
