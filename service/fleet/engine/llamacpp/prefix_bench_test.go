// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// longer is the bundled model with a longer context than it was trained for. Its text is nonsense then, and its speed is not.
func longer(b *testing.B, ctx int) string {
	data, err := os.ReadFile(model)
	require.NoError(b, err)
	key := []byte("llama.context_length\x04\x00\x00\x00")
	require.Equal(b, 1, bytes.Count(data, key))
	at := bytes.Index(data, key) + len(key)
	data[at], data[at+1] = byte(ctx), byte(ctx>>8)
	path := filepath.Join(b.TempDir(), "longer.gguf")
	require.NoError(b, os.WriteFile(path, data, 0o600))
	return path
}

// launchPieces starts a llama-server that computes prompts in pieces.
func launchPieces(b *testing.B, model string, ctx, piece int) *llamacpp.Engine {
	program, err := provision.LocateLlamaServer()
	require.NoError(b, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(b, err)
	require.NoError(b, l.Close())
	n := strconv.Itoa(piece)
	cmd := exec.Command(program, "-m", model, "-c", strconv.Itoa(ctx), "--parallel", "1", "-t", "1", "-b", n, "-ub", n, "--cache-ram", "0", "--port", port, "--no-webui", "--device", "none")
	cmd.Env = append(os.Environ(), "LLAMA_API_KEY="+key)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return connectTo(b, engine.Endpoint{URL: "http://127.0.0.1:" + port, Piece: piece})
}

// BenchmarkReuse measures prompts whose first nine tenths are those of the prompt before, warm and cold by turns: the shortest time to the first token, and
// by the engine's own figure of the prompt. The shortest, because others share the machine.
func BenchmarkReuse(b *testing.B) {
	for _, of := range []struct{ tokens, ctx, piece int }{{200, 256, 16}, {235, 256, 16}, {3840, 4096, 256}} {
		file := model
		if of.ctx > 256 {
			file = longer(b, of.ctx)
		}
		for _, name := range []string{"built-in", "llama-server"} {
			b.Run(fmt.Sprintf("%s/%d", name, of.tokens), func(b *testing.B) {
				var e *llamacpp.Engine
				if name == "built-in" {
					e, _ = launchWorkerWith(b, map[string]any{"Model": file, "Ctx": of.ctx, "Ubatch": of.piece}, of.piece)
				} else {
					e = launchPieces(b, file, of.ctx, of.piece)
				}
				words := of.tokens
				prompt := func(i int) string {
					return strings.Repeat("a ", words*9/10) + fmt.Sprint(i%10) + strings.Repeat(" a", words/10)
				}
				for { // as many words as make so many tokens
					n, err := e.CountTokens(b.Context(), prompt(0))
					require.NoError(b, err)
					if n <= of.tokens {
						break
					}
					words -= max((n-of.tokens)/2, 1)
				}
				times := map[engine.Reuse][2][]float64{}
				run := func(i int, reuse engine.Reuse) {
					began, first := time.Now(), time.Duration(0)
					r, err := e.Generate(b.Context(), engine.Job{
						Prompt: prompt(i), MaxTokens: 1, Reuse: reuse, Sampling: task.Sampling{TopP: 1, TopK: 1, RepeatPenalty: 1},
					}, func(task.Piece) error { first = time.Since(began); return nil })
					require.NoError(b, err)
					if first == 0 { // its only token has no text
						first = time.Since(began)
					}
					t := times[reuse]
					t[0], t[1] = append(t[0], ms(first)), append(t[1], ms(r.Prefill))
					times[reuse] = t
					if reuse == engine.ReuseExact {
						require.InDelta(b, r.TokensIn*9/10, r.Cached, float64(of.piece+r.TokensIn/50))
					} else {
						b.ReportMetric(float64(r.TokensIn), "tokens")
					}
				}
				for i := 0; b.Loop(); i++ {
					run(2*i, engine.ReuseNothing)
					run(2*i+1, engine.ReuseExact)
				}
				best := func(reuse engine.Reuse, which int) float64 { return slices.Min(times[reuse][which]) }
				b.ReportMetric(best(engine.ReuseNothing, 0), "cold-ms")
				b.ReportMetric(best(engine.ReuseExact, 0), "warm-ms")
				b.ReportMetric(best(engine.ReuseExact, 0)/best(engine.ReuseNothing, 0), "first-token-ratio")
				b.ReportMetric(best(engine.ReuseExact, 1)/best(engine.ReuseNothing, 1), "prefill-ratio")
			})
		}
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
