// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	parser "github.com/gpustack/gguf-parser-go"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/task"
)

// held is what the one slot of a llama-server holds, as far as the adapter knows. Every job of a worker of ours comes through its adapter, so
// nobody else changes it.
type held struct {
	mu sync.Mutex
	prefix
}

// prefix is the beginning of what a slot holds: tokens that were computed as prompt, in whole pieces, from the first one on.
type prefix struct {
	prompt string  // that they are the tokens of, or the first of its tokens
	tokens []int32 // nil: nobody has asked for them yet
	most   int     // how many of them are there at most; 0: as many whole pieces as the prompt has
}

func (h *held) know(p prefix) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prefix = p
}

func (h *held) forget() { h.know(prefix{}) }

func (h *held) now() prefix {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.prefix
}

// whole is how many tokens of the prefix are there.
func (p prefix) whole(piece int) int {
	n := len(p.tokens) - len(p.tokens)%piece
	if p.most > 0 {
		n = min(n, p.most)
	}
	return n
}

// errMisfit is the end of a run that was to reuse KV, and whose slot did not hold it. Nothing was emitted.
var errMisfit = errors.New("the slot does not hold the KV that was to be reused")

// reuse says in a request what it may take from KV. A job that wants the bytes of a cold start gets whole pieces alone: the built-in worker sees to
// that itself, and the slot of a llama-server is cut beforehand (LO-206).
func (e *Engine) reuse(ctx context.Context, g *generation, told *told, body *sampling) {
	g.reuses, g.leaves = 0, false
	exact := g.job.Reuse == engine.ReuseExact && e.piece > 0
	body.CachePrompt, body.CacheExact = g.job.Reuse == engine.ReuseAny, exact && told.builtIn
	if told.builtIn || e.piece == 0 {
		return
	}
	was := e.held.now()
	e.held.forget() // until the prompt is computed
	g.leaves = g.job.Reuse != engine.ReuseAny && !task.HasImages(g.job.Messages)
	if !exact || !g.leaves {
		return
	}
	was, n := e.shared(ctx, was, g.job.Prompt)
	if n == 0 {
		return
	}
	was.most = n // whatever becomes of the run, so much stays
	e.held.know(was)
	if !e.cut(ctx, was.tokens[:n+1]) {
		return
	}
	g.reuses, body.CachePrompt, body.ReturnProgress = n, true, true
}

// shared is how many tokens of the prompt are there in whole pieces, at most all but its last. The prefix that it returns has the prompt's own
// tokens that far, and the one behind them.
func (e *Engine) shared(ctx context.Context, was prefix, prompt string) (_ prefix, n int) {
	same := 0
	for same < len(was.prompt) && same < len(prompt) && was.prompt[same] == prompt[same] {
		same++
	}
	if same+unseen < e.piece { // no token but these is shorter than a byte
		return was, 0
	}
	var err error
	if was.tokens == nil {
		if was.tokens, err = e.tokens(ctx, was.prompt); err != nil {
			return was, 0
		}
	}
	tokens, err := e.tokens(ctx, prompt)
	if err != nil {
		return was, 0
	}
	for whole := was.whole(e.piece); n < whole && n < len(tokens)-1 && tokens[n] == was.tokens[n]; {
		n++
	}
	n -= n % e.piece
	return prefix{prompt: prompt, tokens: tokens}, n
}

// unseen is how many tokens a prompt may have that no text stands for: those of its begin and its end.
const unseen = 2

// tokens are those of a prompt, as a completion has them.
func (e *Engine) tokens(ctx context.Context, prompt string) ([]int32, error) {
	var body struct {
		Tokens []int32 `json:"tokens"`
	}
	err := e.c.Post(ctx, "/tokenize", tokenize{prompt, true, true}, &body)
	return body.Tokens, err
}

// cut has the slot keep all of the tokens but the last, and reports whether it did. llama-server keeps what a prompt has in common with what its slot
// holds, so it is given a prompt that ends with another token.
func (e *Engine) cut(ctx context.Context, tokens []int32) bool {
	n := len(tokens) - 1
	other := int32(0)
	if tokens[n] == other {
		other = 1
	}
	request := struct {
		Prompt         []int32  `json:"prompt"`
		NPredict       int      `json:"n_predict"`
		CachePrompt    bool     `json:"cache_prompt"`
		ResponseFields []string `json:"response_fields"`
	}{append(slices.Clone(tokens[:n]), other), 0, true, []string{"timings"}}
	var body struct {
		Timings timings `json:"timings"`
	}
	return e.c.Post(ctx, "/completion", request, &body) == nil && body.Timings.CacheN == n
}

// fits reports whether the engine took as much from KV as it was to, or nothing at all. Otherwise the run ends.
func (g *generation) fits(cached int) bool {
	if g.reuses > 0 && cached != 0 && cached != g.reuses {
		g.ours = errMisfit
		return false
	}
	g.checked = true
	return true
}

// computed is called with each frame behind the prompt. It returns false where the run has to end, because the engine has not told what it took from KV.
func (g *generation) computed() bool {
	if g.read {
		return true
	}
	if g.reuses > 0 && !g.checked {
		g.ours = errMisfit
		return false
	}
	g.read = true
	if g.leaves {
		now := prefix{prompt: g.job.Prompt}
		if was := g.engine.held.now(); was.prompt == now.prompt {
			now.tokens = was.tokens
		}
		g.engine.held.know(now)
	}
	return true
}

// The sizes of pieces that are chosen. A small one leaves less to be computed again, and a large one is faster.
const (
	smallestPiece = 16
	largestPiece  = microBatch
	piecesInCtx   = 16
)

// piece is in how many tokens at once a worker computes prompts, so that strict tasks can reuse whole pieces; 0: they start cold. That it changes
// no byte is shown by the determinism suite: on the CPU, for models whose KV can be cut at any token, with the arguments that are ours (LO-441).
func piece(w engine.Worker) int {
	switch {
	case w.Prefixes.Reuse != engine.ReusingWhereProven && w.Prefixes.Reuse != engine.ReusingAlways:
		return 0
	case w.Slots != 1 || w.Workload != task.Completion || len(w.Hosts) > 0 || slices.ContainsFunc(w.Args, batches):
		return 0
	case w.Prefixes.Reuse == engine.ReusingWhereProven && (w.Cards > 0 || !harmless(w.Args)):
		return 0
	}
	model, err := gguf.Read(w.Model)
	if err != nil || !rewinds(model) {
		return 0
	}
	if w.Prefixes.Piece > 0 {
		return w.Prefixes.Piece
	}
	ctx := cmp.Or(w.Ctx, int(min(model.Architecture().MaximumContextLength, maxCtx)))
	n := smallestPiece
	for 2*n*piecesInCtx <= ctx && n < largestPiece {
		n *= 2
	}
	return n
}

// rewinds reports whether the KV of a model can be cut at any token. A state that goes on from token to token cannot, and neither can a window that slides.
func rewinds(model *parser.GGUFFile) bool {
	a := model.Architecture()
	return a.AttentionSlidingWindow == 0 && len(a.AttentionSlidingWindowLayers) == 0 && !a.AttentionRecurrent && !a.AttentionHybrid &&
		a.SSMStateSize == 0 && a.RWKVHeadSize == 0 && a.Architecture != "llama4" // whose attention is in chunks
}

// batches reports whether an argument sets llama-server's batches.
func batches(arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	return slices.Contains([]string{"-b", "--batch-size", "-ub", "--ubatch-size"}, name)
}

// harmless reports whether all of the operator's arguments are of those that have to do with templates alone.
func harmless(args []string) bool {
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(args[i], "=")
		switch name {
		case "--jinja", "--no-jinja":
		case "--chat-template", "--chat-template-file", "--chat-template-kwargs", "--reasoning-format", "--reasoning-budget":
			if !joined {
				i++
			}
		default:
			return false
		}
	}
	return true
}
