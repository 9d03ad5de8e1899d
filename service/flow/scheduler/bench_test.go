// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// instant is a pool's replicas whose engine answers at once, and tells when it was asked.
type instant struct {
	replicas []placement.Replica
	wake     func()
	asked    chan struct{}
}

func (p *instant) Snapshot(_ string, into []placement.Replica) []placement.Replica {
	return append(into, p.replicas...)
}
func (p *instant) EngineVersion(string) string { return "b1" }
func (p *instant) Lease(string) (Lease, error) { return instantLease{p, (*instantEngine)(p)}, nil }

type instantLease struct {
	p *instant
	e *instantEngine
}

func (l instantLease) Engine() engine.Engine { return l.e }
func (l instantLease) Replica() Replica {
	return Replica{ID: "r0", EngineVersion: "b1", Fingerprint: "fp"}
}
func (l instantLease) Lost() <-chan struct{}      { return nil }
func (l instantLease) Others() int                { return 0 }
func (instantLease) Intact(context.Context) error { return nil }
func (l instantLease) KeepWarm()                  {}
func (l instantLease) Replace(string)             {}
func (l instantLease) Release()                   { l.p.wake() }

type instantEngine instant

func (e *instantEngine) Generate(context.Context, engine.Job, func(task.Piece) error) (engine.Result, error) {
	e.asked <- struct{}{}
	return engine.Result{Finish: task.FinishStop}, nil
}

func (*instantEngine) Busy(context.Context) (int, error)           { return 0, nil }
func (*instantEngine) Health(context.Context) error                { return nil }
func (*instantEngine) Props(context.Context) (engine.Props, error) { return engine.Props{}, nil }

func (*instantEngine) CountTokens(context.Context, string) (int, error) { return 1, nil }

func (*instantEngine) ApplyTemplate(context.Context, []task.Message, *task.Chat) (string, error) {
	return "", nil
}

func (*instantEngine) Embed(context.Context, engine.Job) (json.RawMessage, engine.Result, error) {
	return nil, engine.Result{}, nil
}

// BenchmarkDecision is the way from an accepted submit to the engine's call: queue, placement, lease, log line and metrics
// among it, the ledger in memory.
func BenchmarkDecision(b *testing.B) {
	for _, n := range []int{8, 64, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := &instant{asked: make(chan struct{})}
			for i := range n {
				p.replicas = append(p.replicas, placement.Replica{ID: fmt.Sprint("r", i), Ready: true, Slots: 1, Strict: true, FreeVRAM: int64(i % 7)})
			}
			s := New(Options{
				Pools:    []Pool{{ID: "default", Engine: "llamacpp", Capacity: 10, Policy: queue.Reject, Wall: time.Hour, Idle: time.Hour}},
				Replicas: p, Ledger: &book{records: map[string]task.Record{}}, Narrator: observe.NewNarrator(zap.NewNop()),
				Metrics: NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(), Now: time.Now,
			})
			p.wake = func() { s.Wake("default") }
			require.NoError(b, s.Start(b.Context()))
			defer func() { require.NoError(b, s.Stop(context.Background())) }()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				if _, err := s.Enqueue(b.Context(), task.Task{
					ID: fmt.Sprint(i), PoolID: "default", Engine: "llamacpp", Determinism: task.Strict, AcceptedAt: time.Now(),
					Request: task.Request{Workload: task.Completion, Priority: task.Interactive, MaxTokens: 1},
				}); err != nil {
					b.Fatal(err)
				}
				<-p.asked
			}
		})
	}
}
