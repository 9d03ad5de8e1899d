// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// answer is what a job gave: its tokens, and all of the model's logits before each of them.
type answer struct {
	tokens []llama.Token
	logits [][]float32
	cached int
}

// pair is two loaded models: one on which jobs run one after the other, and one that always starts cold.
type pair struct {
	t    *testing.T
	m, n *model
}

// loaded loads them on this goroutine's thread, which they need.
func loaded(t *testing.T, piece int) *pair {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	libs, err := provision.EngineLibs(t.Context(), provision.Options{})
	require.NoError(t, err)
	p := &pair{t: t}
	for _, m := range []**model{&p.m, &p.n} {
		*m, err = load(Options{
			Model: "../../../models/haiku/haiku.gguf", Libs: libs, Ctx: 256, Threads: 1, Ubatch: piece, Workload: task.Completion, Stderr: t.Output(),
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = llama.Free((*m).ctx) })
	}
	return p
}

// job is a completion of a few tokens.
func exactJob(seed int64) *completion {
	predict := 12
	return &completion{NPredict: &predict, Seed: &seed, CacheExact: true}
}

// run runs a job, and returns what it gave.
func run(t *testing.T, m *model, c *completion, prompt []llama.Token) answer {
	t.Helper()
	var a answer
	o, err := m.generate(t.Context(), c, prompt, 0, func(int, int) error { return nil }, func(d decoded) error {
		logits, err := llama.GetLogitsIth(m.ctx, -1, int(m.nVocab))
		a.tokens, a.logits = append(a.tokens, d.token), append(a.logits, slices.Clone(logits))
		return err
	})
	require.NoError(t, err)
	a.cached = o.cached
	return a
}

// cold is what the job gives from an empty context.
func (p *pair) cold(c *completion, prompt []llama.Token) answer {
	p.t.Helper()
	start := *c
	start.CacheExact, start.CachePrompt = false, false
	return run(p.t, p.n, &start, prompt)
}

// text is a prompt of exactly n tokens, that no two seeds have in common beyond the first token.
func (p *pair) text(seed uint64, n int) []llama.Token {
	p.t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	words := []string{"rain", "snow", "the old pond", "a frog", "forty-two", "GPUs", "moon", "night", "leaves", "wind"}
	var b strings.Builder
	for range n {
		b.WriteString(words[r.IntN(len(words))] + " ")
	}
	tokens, err := p.m.tokenize(b.String(), true, true)
	require.NoError(p.t, err)
	require.GreaterOrEqual(p.t, len(tokens), n)
	return tokens[:n]
}

func (a answer) same(t *testing.T, b answer, text string, args ...any) {
	t.Helper()
	require.Equal(t, b.tokens, a.tokens, append([]any{text}, args...)...)
	require.Equal(t, b.logits, a.logits, append([]any{text}, args...)...)
}

func (a answer) differs(b answer) bool {
	return slices.CompareFunc(a.logits, b.logits, slices.Compare[[]float32]) != 0
}

// A job that takes whole pieces of prompt from the context gives the tokens and the logits of a cold start, to the last bit. Some cuts beside the
// boundaries, and some KV that came from decoding, give others: that is why none of either is taken.
// LO-206
func TestWholePiecesOfPromptGiveTheBytesOfAColdStart(t *testing.T) {
	beside, decoded := 0, 0
	for _, piece := range []int{16, 32, 64} {
		t.Run(fmt.Sprintf("pieces of %d tokens", piece), func(t *testing.T) {
			p := loaded(t, piece)
			for _, length := range []int{70, 96, 129, 160} {
				first := p.text(uint64(length), length)
				said := run(t, p.m, exactJob(1), first)
				sound := length - length%piece
				require.Equal(t, sound, p.m.sound)

				// The second turn of a conversation: the context holds the decoded answer to the first one too.
				second := slices.Concat(first, said.tokens, p.text(7, 40))
				a := run(t, p.m, exactJob(2), second)
				require.Equal(t, sound, a.cached)
				a.same(t, p.cold(exactJob(2), second), "second turn behind %d tokens", length)

				// The same prompt again: its last piece is always decoded.
				a = run(t, p.m, exactJob(3), second)
				require.Equal(t, (len(second)-1)/piece*piece, a.cached)
				a.same(t, p.cold(exactJob(3), second), "again behind %d tokens", length)

				// Back to the first turn, which is shorter.
				a = run(t, p.m, exactJob(4), first)
				require.Equal(t, (length-1)/piece*piece, a.cached)
				a.same(t, p.cold(exactJob(4), first), "back to %d tokens", length)

			}
			// KV of an answer, which is decoded token by token, cut at a boundary. No job gets it.
			prompt := p.text(5, 150)
			run(t, p.m, exactJob(1), prompt[:20])
			p.m.cut(20)
			for pos := 20; pos < 130; pos++ {
				require.NoError(t, p.m.decode(prompt[pos:pos+1], pos, true, false))
			}
			require.Equal(t, 128, p.m.cut(128))
			require.Equal(t, 20/piece*piece, p.m.sound)
			if p.from(128, exactJob(2), prompt).differs(p.cold(exactJob(2), prompt)) {
				decoded++
			}
			cold := p.cold(exactJob(9), prompt)
			for _, boundary := range []int{piece, 2 * piece} {
				for _, at := range []int{boundary - 1, boundary, boundary + 1, boundary + piece/2} {
					run(t, p.m, exactJob(1), prompt)
					require.Equal(t, at, p.m.cut(at))
					require.Equal(t, at/piece*piece, p.m.sound)
					a := p.from(at, exactJob(9), prompt)
					if at == boundary {
						a.same(t, cold, "cut at the boundary %d", at)
					} else if a.differs(cold) {
						beside++
					}
				}
			}
		})
	}
	require.Positive(t, beside, "cuts beside a boundary that change a logit")
	require.Positive(t, decoded, "cuts within decoded tokens that change a logit")
	t.Logf("of 18 cuts beside a boundary %d change a logit; so do %d of 3 within decoded tokens", beside, decoded)
}

// from is what a job gives that keeps the first n tokens of the context, whatever they are.
func (p *pair) from(n int, c *completion, prompt []llama.Token) answer {
	p.t.Helper()
	for pos := n; pos < len(prompt)-p.m.ubatch; pos += p.m.ubatch {
		require.NoError(p.t, p.m.read(prompt[pos:pos+p.m.ubatch], pos, false))
	}
	loose := *c
	loose.CachePrompt, loose.CacheExact = true, false
	return run(p.t, p.m, &loose, prompt)
}

// Whatever ran before, a job that asks for the bytes of a cold start gets them: jobs that take what they find, jobs that take nothing, jobs
// that end within their prompt or within their answer.
// LO-206
func TestTheBytesOfAColdStartWhateverRanBefore(t *testing.T) {
	const piece = 16
	p := loaded(t, piece)
	r := rand.New(rand.NewPCG(3, 5))
	left := errors.New("its client left")
	base, tails := p.text(1, 160), [][]llama.Token{p.text(2, 30), p.text(3, 30), p.text(4, 30)}
	reused, judged := 0, 0
	for step := range 120 {
		prompt := slices.Concat(base[:20+r.IntN(140)], tails[r.IntN(3)][:r.IntN(30)])
		c := exactJob(int64(step))
		c.CacheExact, c.CachePrompt = r.IntN(3) > 0, r.IntN(2) == 0
		switch r.IntN(4) {
		case 0: // it is canceled within its prompt
			ctx, cancel := context.WithCancelCause(t.Context())
			after := r.IntN(4)
			_, err := p.m.generate(ctx, c, prompt, 0, func(int, int) error {
				if after--; after < 0 {
					cancel(left)
				}
				return nil
			}, func(decoded) error { return nil })
			cancel(nil)
			if err != nil {
				require.ErrorIs(t, err, left)
			}
		case 1: // or within its answer
			n := r.IntN(10)
			_, err := p.m.generate(t.Context(), c, prompt, 0, func(int, int) error { return nil }, func(decoded) error {
				if n--; n < 0 {
					return left
				}
				return nil
			})
			if err != nil {
				require.ErrorIs(t, err, left)
			}
		default:
			got := run(t, p.m, c, prompt)
			if c.CacheExact {
				judged++
				reused += got.cached
				require.Zero(t, got.cached%piece)
				got.same(t, p.cold(c, prompt), "step %d, %d tokens of which %d were there", step, len(prompt), got.cached)
			}
		}
		require.LessOrEqual(t, p.m.sound, len(p.m.held))
		require.Zero(t, p.m.sound%piece)
	}
	require.Greater(t, judged, 20)
	require.Greater(t, reused, 20*judged, "the jobs were to find something")
}
