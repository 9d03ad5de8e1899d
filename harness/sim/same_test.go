// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// rig runs a load through the service's scheduler, on synctest's clock, on a box whose engines only sleep. It is the scheduler's Replicas, Models and
// Ledger.
type rig struct {
	t     *testing.T
	box   *Box
	tasks []Task // Came, Start and End are filled in
	next  map[int32][]int32
	s     *scheduler.Scheduler
	began time.Time
	all   sync.WaitGroup

	mu    sync.Mutex
	free  []int64
	pools []*realPool
}

type realPool struct {
	state    residency.State
	holds    []vram.Share
	replicas []*realReplica
}

type realReplica struct {
	r      *rig
	id     string
	model  int
	card   int
	active int
}

// runReal runs the load and returns it with the results filled in.
func runReal(t *testing.T, box Box, load []Task, rules residency.Rules) []Task {
	r := &rig{box: &box, tasks: append([]Task(nil), load...), next: map[int32][]int32{}}
	synctest.Test(t, func(t *testing.T) {
		r.t = t
		var pools []scheduler.Pool
		for _, c := range box.Cards {
			r.free = append(r.free, c.Bytes)
		}
		for i, m := range box.Models {
			pools = append(pools, scheduler.Pool{
				ID: m.Name, Engine: "llamacpp", Capacity: len(load) + 1, Policy: queue.Reject, Wall: 100 * time.Hour, Idle: 100 * time.Hour,
				OnDemand: len(m.Pinned) == 0,
			})
			r.pools = append(r.pools, &realPool{})
			for _, card := range m.Pinned {
				r.join(i, card)
			}
		}
		r.began = time.Now()
		registry := prometheus.NewRegistry()
		models := residency.New(residency.Options{
			Models: r, Rules: rules, Metrics: residency.NewMetrics(registry), Log: zap.NewNop(), Now: time.Now,
		})
		r.s = scheduler.New(scheduler.Options{
			Pools: pools, Replicas: r, Residency: models, SwapWithin: rules.MaxWaitBatch, Ledger: r, Narrator: observe.NewNarrator(zap.NewNop()),
			Metrics: scheduler.NewMetrics(registry), Log: zap.NewNop(), Now: time.Now,
		})
		models.Serve(r.s)
		require.NoError(t, r.s.Start(t.Context()))
		require.NoError(t, models.Start(t.Context()))
		r.all.Add(len(load))
		for i := range r.tasks {
			if after := r.tasks[i].After; after >= 0 {
				r.next[after] = append(r.next[after], int32(i))
			}
		}
		for i := range r.tasks {
			if r.tasks[i].After < 0 {
				time.AfterFunc(r.tasks[i].At, func() { r.submit(int32(i)) })
			}
		}
		r.all.Wait()
		require.NoError(t, models.Stop(t.Context()))
		require.NoError(t, r.s.Stop(t.Context()))
	})
	return r.tasks
}

func (r *rig) submit(i int32) {
	t := r.t
	x := &r.tasks[i]
	id, now := strconv.Itoa(int(i)), time.Now()
	r.mu.Lock()
	x.Came = now.Sub(r.began)
	r.mu.Unlock()
	_, err := r.s.Enqueue(t.Context(), task.Task{
		ID: id, Prompt: id, PoolID: r.box.Models[x.Model].Name, Engine: "llamacpp", Determinism: task.BestEffort, AcceptedAt: now,
		PromptTokens: int(x.Prompt), RequestDigest: "d",
		Request: task.Request{Workload: task.Completion, Priority: x.Priority(), MaxTokens: int(x.Answer)},
	})
	if err != nil {
		t.Error(err)
	}
	if x.Cancel > 0 {
		time.AfterFunc(x.Cancel, func() { _, _ = r.s.Cancel(t.Context(), id) })
	}
}

func (r *rig) join(model, card int) {
	p := r.pools[model]
	p.replicas = append(p.replicas, &realReplica{r: r, id: fmt.Sprintf("%s-%04d", r.box.Models[model].Name, len(p.replicas)), model: model, card: card})
	p.holds = append(p.holds, vram.Share{Card: card, Bytes: r.box.Models[model].Bytes})
	if len(r.box.Models[model].Pinned) > 0 {
		p.state = residency.Loaded
		r.free[card] -= r.box.Models[model].Bytes
	}
}

func (r *rig) pool(id string) (int, *realPool) {
	for i := range r.box.Models {
		if r.box.Models[i].Name == id {
			return i, r.pools[i]
		}
	}
	panic(id)
}

func (r *rig) Snapshot(id string, into []placement.Replica) []placement.Replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, p := r.pool(id)
	for _, x := range p.replicas {
		into = append(into, placement.Replica{ID: x.id, Ready: p.state == residency.Loaded, Slots: 1, Active: x.active, Strict: true, FreeVRAM: r.free[x.card]})
	}
	return into
}

func (r *rig) EngineVersion(string) string { return "" }

func (r *rig) Lease(id string) (scheduler.Lease, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pools {
		for _, x := range p.replicas {
			if x.id == id && p.state == residency.Loaded && x.active == 0 {
				x.active = 1
				return &realLease{realReplica: x}, nil
			}
		}
	}
	return nil, errors.New("no such replica, or it is busy")
}

func (r *rig) Memory() (cards []vram.Room, tenants []residency.Tenant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, free := range r.free {
		cards = append(cards, vram.Room{Card: i, Free: free})
	}
	for i, p := range r.pools {
		if m := &r.box.Models[i]; len(m.Pinned) == 0 {
			tenants = append(tenants, residency.Tenant{ID: m.Name, IdleTTL: m.IdleTTL, State: p.state, Holds: p.holds, Wants: []residency.Want{{Bytes: m.Bytes}}})
		}
	}
	return cards, tenants
}

func (r *rig) Load(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	model, p := r.pool(id)
	var rooms []vram.Room
	for i := range r.free {
		rooms = append(rooms, vram.Room{Card: i, Free: r.free[i]})
	}
	card := vram.Smallest(rooms, r.box.Models[model].Bytes)
	r.free[card] -= r.box.Models[model].Bytes
	p.state = residency.Loading
	r.join(model, card)
	time.AfterFunc(r.box.LoadTime(model), func() { r.becomes(id, residency.Loaded) })
	r.s.Wake(id)
}

func (r *rig) Unload(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, p := r.pool(id)
	if p.state != residency.Loaded || p.replicas[0].active > 0 {
		return errors.New("a task runs on it")
	}
	p.state = residency.Leaving
	time.AfterFunc(r.box.Exit, func() { r.becomes(id, residency.Absent) })
	r.s.Wake(id)
	return nil
}

func (r *rig) becomes(id string, s residency.State) {
	r.mu.Lock()
	_, p := r.pool(id)
	if p.state = s; s == residency.Absent {
		r.free[p.holds[0].Card] += p.holds[0].Bytes
		p.holds, p.replicas = nil, nil
	}
	r.mu.Unlock()
	r.s.Wake(id)
}

func (r *rig) Fetching(string) (float64, bool) { return 0, false }

func (r *rig) LoadTime(string) time.Duration { return 0 }

func (r *rig) Failed(string) *task.Error { return nil }

func (r *rig) Accept(context.Context, task.Task) error                       { return nil }
func (r *rig) AcceptRunning(context.Context, task.Task, task.Dispatch) error { return nil }
func (r *rig) Dispatch(context.Context, task.Dispatch) error                 { return nil }
func (r *rig) Checkpoint(string, task.Checkpoint)                            {}
func (r *rig) Started(task.Dispatch)                                         {}
func (r *rig) Get(context.Context, string) (task.Record, bool, error) {
	return task.Record{}, false, nil
}
func (r *rig) List(context.Context, task.State, int) ([]task.Record, error) { return nil, nil }
func (r *rig) NextSeq() (uint64, error)                                     { return 1, nil }
func (r *rig) Expire(context.Context, time.Time) ([]string, time.Time, error) {
	return nil, time.Time{}, nil
}
func (r *rig) Delete(context.Context, string, time.Time) error { return nil }

func (r *rig) Finish(_ context.Context, record task.Record) error {
	defer r.all.Done()
	i, _ := strconv.Atoi(record.Task.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	x := &r.tasks[i]
	x.Start, x.End = -1, record.FinishedAt.Sub(r.began)
	if !record.StartedAt.IsZero() {
		x.Start = record.StartedAt.Sub(r.began)
	}
	for _, c := range r.next[int32(i)] {
		at := max(x.End+r.tasks[c].Delay, r.tasks[c].At)
		time.AfterFunc(at-time.Since(r.began), func() { r.submit(c) })
	}
	return nil
}

type realLease struct {
	*realReplica
	once sync.Once
}

func (l *realLease) Engine() engine.Engine      { return l.realReplica }
func (l *realLease) Replica() scheduler.Replica { return scheduler.Replica{ID: l.id} }
func (l *realLease) Lost() <-chan struct{}      { return nil }
func (l *realLease) Others() int                { return 0 }
func (*realLease) Intact(context.Context) error { return nil }
func (l *realLease) KeepWarm()                  {}
func (l *realLease) Replace(string)             {}
func (l *realLease) Release() {
	l.once.Do(func() {
		l.r.mu.Lock()
		l.active = 0
		l.r.mu.Unlock()
		l.r.s.Wake(l.r.box.Models[l.model].Name)
	})
}

// Generate sleeps for as long as the model's rates say.
func (x *realReplica) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	i, _ := strconv.Atoi(job.Prompt)
	t := &x.r.tasks[i]
	select {
	case <-time.After(x.r.box.Models[x.model].Rates[x.r.box.Cards[x.card].Class].Work(t.Prompt, t.Answer)):
	case <-ctx.Done():
		return engine.Result{}, context.Cause(ctx)
	}
	return engine.Result{TokensOut: 1, Finish: task.FinishLength}, emit(task.TextPiece("x"))
}

func (x *realReplica) Health(context.Context) error                { return nil }
func (x *realReplica) Props(context.Context) (engine.Props, error) { return engine.Props{}, nil }

func (x *realReplica) CountTokens(context.Context, string) (int, error) { return 1, nil }

func (x *realReplica) ApplyTemplate(context.Context, []task.Message, *task.Chat) (string, error) {
	return "", nil
}

func (x *realReplica) Busy(context.Context) (int, error) { return 0, nil }

func (x *realReplica) Embed(context.Context, engine.Job) (json.RawMessage, engine.Result, error) {
	return nil, engine.Result{}, errors.New("no such workload here")
}

// small returns a random load: bursts, chains, both priorities, and cancels of waiting and of running tasks.
func small(seed uint64, models, n int) []Task {
	w := &writer{r: rand.New(rand.NewPCG(seed, 1))}
	at := time.Duration(0)
	for i := range n {
		at += time.Duration(w.r.ExpFloat64() * float64(3*time.Second))
		x := Task{Model: int32(w.r.IntN(models)), Batch: w.r.IntN(2) == 0, At: at, After: -1, Prompt: w.length(800, 8000), Answer: w.length(150, 1500)}
		if i > 0 && w.r.IntN(3) == 0 {
			x.After, x.Delay = int32(w.r.IntN(i)), w.pause(2*time.Second)
		}
		if w.r.IntN(6) == 0 {
			x.Cancel = w.pause(4 * time.Second)
		}
		w.add(x)
	}
	return w.tasks
}

// same compares the tasks of the two runs up to an instant (0: to the end). It returns how many it compared.
func same(t *testing.T, want, got []Task, until time.Duration) (compared int) {
	for i := range want {
		a, b := &want[i], &got[i]
		if until > 0 && (a.End >= until || b.End >= until) {
			continue
		}
		compared++
		require.Equal(t, [3]time.Duration{a.Came, a.Start, a.End}, [3]time.Duration{b.Came, b.Start, b.End}, "task %d: came, start, end", i)
	}
	return compared
}

// The simulation's core does what the scheduler does: the same tasks start and end at the same nanosecond in both.
//
// ORCH-3004, ORCH-3010, ORCH-3012
func TestPinnedPoolsRunAsInTheScheduler(t *testing.T) {
	for seed := range uint64(30) {
		box := Rack(1 + int(seed%3))
		load := small(seed, 1, 120)
		simulated, err := Run(box, load, Ours(DefaultRules), false)
		require.NoError(t, err)
		require.Equal(t, len(load), same(t, runReal(t, box, load, DefaultRules), simulated.Tasks, 0))
	}
}

// The same holds on demand, up to the first instant at which the scheduler may do one of two things. On a box with room for one model at a time there are
// few such instants, since it is always clear which pool has to go.
//
// LO-503
func TestOnDemandPoolsRunAsInTheScheduler(t *testing.T) {
	box := Reference()
	box.Unshared = true // the sleeping engines do not share a card's time
	cramped := box
	cramped.Cards, cramped.Models = box.Cards[1:], []Model{box.Models[coder7b], box.Models[coder14b], box.Models[general8b]}
	for name, c := range map[string]struct {
		box     Box
		atLeast int // tasks compared, of 40 times 150
	}{"reference": {box, 1200}, "cramped": {cramped, 1500}} {
		compared, swaps := 0, 0
		for seed := range uint64(40) {
			box := c.box
			box.Models = slices.Clone(box.Models)
			if seed%2 == 1 {
				box.Models[0].IdleTTL = 20 * time.Second
			}
			load := small(seed, min(len(box.Models), 4), 150)
			if name == "cramped" { // then bounds pass exactly on the residency's second, and not between two
				for i := range load {
					load[i].At, load[i].After = load[i].At.Truncate(time.Second), -1
					if i > 0 {
						load[i].At = max(load[i].At, load[i-1].At+time.Second)
					}
				}
			}
			var core *ours
			p := Ours(DefaultRules)
			p.make = func() policy {
				core = newOurs(DefaultRules)
				core.check = true
				return core
			}
			simulated, err := Run(box, load, p, false)
			require.NoError(t, err)
			compared += same(t, runReal(t, box, load, DefaultRules), simulated.Tasks, core.raced)
			swaps += simulated.Swaps
		}
		t.Logf("%s: %d tasks compared, %d swaps", name, compared, swaps)
		require.Greater(t, compared, c.atLeast, name)
		require.Greater(t, swaps, 40*8, "%s: the pools were swapped", name)
	}
}
