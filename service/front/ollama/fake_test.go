// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// What any test gets is held against Ollama's document (LO-419).
func TestMain(m *testing.M) {
	document, err := dialect.LoadOllama()
	if err != nil {
		panic(err)
	}
	dialect.Run(m, document.Check)
}

var accepted = time.Unix(1700000000, 0)

// library has two models, notes what it is asked, and plays the fetches that a test gives it.
type library struct {
	refusal error // of Load, Unload, Pull, Delete and Show
	fetches chan Fetch
	broken  error // of Fetched, once there are no more

	mu    sync.Mutex
	calls []string
}

func (l *library) note(call string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, call)
	return l.refusal
}

func (l *library) asked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

const digest = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

var coder = Model{
	Name: "coder", Digest: digest, Size: 1234, Modified: accepted, Workload: task.Completion, Ctx: 4096, Format: "gguf", Architecture: "llama",
	Parameters: 8_030_261_312, Quantisation: "Q4_K_M", Features: []task.Feature{task.FeatureTools, task.FeatureImages, task.FeatureReasoning},
	Running: &Running{Bytes: 99, VRAM: 90, Until: accepted.Add(time.Hour)},
}

func (l *library) Models(context.Context) []Model {
	alias := coder
	alias.Name, alias.Alias = "gpt-4o", true
	return []Model{coder, alias, {Name: "org/haiku", Digest: digest, Workload: task.Embedding, Running: &Running{Bytes: 7}}, {Name: "cold"}}
}

func (l *library) Show(_ context.Context, name string) (Details, error) {
	return Details{
		Model: coder, Title: "Coder", Template: "{{ m }}", Settings: map[string]any{"llama.block_count": 2, "llama.context_length": 131072},
		Sampling: task.Sampling{Profile: "default", Temperature: 0.8, TopK: 40, TopP: 0.9, MinP: 0.05, RepeatPenalty: 1},
	}, l.note("show " + name)
}
func (l *library) Load(_ context.Context, name string) error   { return l.note("load " + name) }
func (l *library) Unload(_ context.Context, name string) error { return l.note("unload " + name) }
func (l *library) Release(_ context.Context, poolID string)    { _ = l.note("release " + poolID) }
func (l *library) Delete(_ context.Context, name string) error { return l.note("delete " + name) }

func (l *library) Pull(_ context.Context, ref string, _ time.Duration) (Fetch, error) {
	return Fetch{ID: "m"}, l.note("pull " + ref)
}

func (l *library) Fetched(ctx context.Context, _ string, _ time.Duration) (Fetch, error) {
	select {
	case f, ok := <-l.fetches:
		if !ok {
			return Fetch{}, l.broken
		}
		return f, nil
	case <-ctx.Done():
		return Fetch{}, ctx.Err()
	}
}

// status is that of a task that waited 2 s, and ran for 5 s.
func status(context.Context, string) (task.Status, error) {
	return task.Status{PoolID: "p1", AcceptedAt: accepted, StartedAt: accepted.Add(2 * time.Second), FinishedAt: accepted.Add(7 * time.Second)}, nil
}

func serve(t *testing.T, l *exchangetest.Line, lib *library, change ...func(*exchange.Options)) string {
	return exchangetest.Serve(t, l, func(o exchange.Options) gate.Front {
		return New(Options{Options: o, Library: lib, Status: status})
	}, change...)
}

// ends ends the task with 3 s of decoding.
func ends(l *exchangetest.Line, why task.FinishReason) {
	l.EndsWith(task.End{TokensIn: 5, TokensOut: 2, DecodeTimeMS: 3000, FinishReason: why, Receipt: task.Receipt{Seed: 7, Determinism: task.Strict, Fingerprint: "fp-1"}})
}

// linesAre compares lines byte for byte: white space and the order of fields count.
func linesAre(t *testing.T, want, got string) {
	t.Helper()
	require.Equal(t, strings.Split(want, "\n"), strings.Split(got, "\n"))
}
