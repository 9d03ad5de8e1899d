// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// rig is a scheduler on a virtual clock with replicas that a test scripts. A replica has one slot, unless the test gives it more.
type rig struct {
	t        *testing.T
	s        *Scheduler
	registry *prometheus.Registry
	book     *book

	onMove func(taskID string)    // called when a task lost its worker, before it waits for another
	panics atomic.Int32           // lines about work that panicked
	onLook atomic.Pointer[func()] // called once, by the next who looks at the replicas

	onLease atomic.Pointer[func()] // called once, by the next who leases

	mu       sync.Mutex
	replicas []*replica
	order    []string // prompts in the order of dispatch
	went     []string // what each of these runs went on behind
}

type replica struct {
	r         *rig
	id        string
	pool      string
	ready     bool
	busy      int           // slots
	slots     int           // 0: 1
	uncounted bool          // its engine has none of the faces
	down      bool          // its engine breaks off what it does, and cannot be reached
	lost      chan struct{} // closed when its worker is; nil: it is not
	replaced  string
	every     time.Duration    // between tokens
	prefill   int              // how often the prompt's progress is told before the first token, with `every` in between
	short     int              // so many runs cannot reach the engine, because this process has no descriptors left
	stuck     bool             // the slot stays busy once a run ended early
	left      bool             // the engine was left before its end
	fail      error            // what Generate returns after two tokens
	dies      int              // the worker is lost after so many tokens, once; -1: before the first
	says      string           // put before each token
	renders   string           // what it makes of messages; empty: what the task has
	kinds     []task.EventKind // of its pieces; those behind them are text
	ctx       int              // 0: not known
	panics    string           // what Generate panics with after two tokens; empty: it does not
	tokensIn  int              // what Generate says of the prompt; 0: 3
	changed   error            // what Intact returns
	build     string           // of another engine; empty: the others'
	starts    bool             // it goes on behind nothing that another one sent
	warm      atomic.Int32     // leases that asked for its KV to be kept
	piece     int              // of a prompt that strict tasks reuse; 0: they reuse nothing
	cached    int              // what Generate says came from KV
	reuse     []engine.Reuse   // what its runs were let take
	slotless  bool             // its runs need no slot
	restores  []string         // the files that its slot was restored from
	unread    error            // what Restore returns
	cards     []int            // that its worker is on
}

func newRig(t *testing.T, replicas int, change func(*Pool)) *rig {
	return newRigOn(t, &book{records: map[string]task.Record{}}, replicas, change)
}

// newRigOn is a start on what an earlier run recorded.
func newRigOn(t *testing.T, b *book, replicas int, change func(*Pool), left ...task.Record) *rig {
	r := newUnstartedRig(t, b, replicas, change)
	r.s.Recover(left)
	require.NoError(t, r.s.Start(t.Context()))
	return r
}

func newUnstartedRig(t *testing.T, b *book, replicas int, change func(*Pool)) *rig {
	r := &rig{t: t, registry: prometheus.NewRegistry(), book: b}
	for i := range replicas {
		r.replicas = append(r.replicas, &replica{r: r, id: fmt.Sprint("default-", i), pool: "default", ready: true, every: 10 * time.Millisecond})
	}
	pool := Pool{ID: "default", Engine: "llamacpp", Capacity: 4, Policy: queue.Reject, Wall: time.Minute, Idle: 5 * time.Second}
	if change != nil {
		change(&pool)
	}
	r.s = New(Options{
		Pools: []Pool{pool}, Replicas: r, Ledger: b, Narrator: observe.NewNarrator(zap.NewNop()),
		Metrics: NewMetrics(r.registry), Log: zap.New(lineLog{zapcore.WarnLevel, r.line}), Now: time.Now,
	})
	return r
}

// restart starts anew on what is recorded, after a stop.
func (r *rig) restart() *rig { return newRigOn(r.t, r.book, len(r.replicas), nil, r.book.live()...) }

// crash returns what a kill would leave in the ledger, and then stops, which a kill would not.
func (r *rig) crash() []task.Record {
	left := r.book.live()
	ctx, stop := context.WithCancel(r.t.Context())
	stop()
	require.NoError(r.t, r.s.Stop(ctx))
	r.book = &book{records: map[string]task.Record{}}
	return left
}

// line is told of each line of the log at level warn or above.
func (r *rig) line(message, taskID string) {
	switch {
	case strings.HasSuffix(message, "moves to another") && r.onMove != nil:
		r.onMove(taskID)
	case strings.HasSuffix(message, "panicked"):
		r.panics.Add(1)
	}
}

// lineLog is a log that calls f with each line and the id of the task that it is about.
type lineLog struct {
	zapcore.LevelEnabler
	f func(message, taskID string)
}

func (l lineLog) With([]zapcore.Field) zapcore.Core { return l }

func (l lineLog) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, l)
}

func (l lineLog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		if f.Key == "job_id" {
			l.f(e.Message, f.String)
		}
	}
	return nil
}

func (l lineLog) Sync() error { return nil }

func (r *rig) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *rig) stop() { require.NoError(r.t, r.s.Stop(context.Background())) }

func (r *rig) Snapshot(pool string, into []placement.Replica) []placement.Replica {
	if look := r.onLook.Swap(nil); look != nil {
		(*look)()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.replicas {
		if x.pool != pool {
			continue
		}
		into = append(into, placement.Replica{ID: x.id, Ready: x.ready, Slots: max(x.slots, 1), Active: x.busy, Strict: x.slots < 2, Pieces: x.piece > 0, Ctx: x.ctx, Fingerprint: x.fingerprint()})
	}
	return into
}

func (r *rig) EngineVersion(string) string { return "b1" }

func (r *rig) Lease(id string) (Lease, error) {
	if lease := r.onLease.Swap(nil); lease != nil {
		(*lease)()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.replicas {
		if x.id == id && x.ready && x.busy < max(x.slots, 1) {
			x.busy++
			return lease{x, &sync.Once{}}, nil
		}
	}
	return nil, task.Errorf(task.ReplicaExhausted, "busy")
}

type lease struct {
	*replica
	once *sync.Once
}

func (l lease) Engine() engine.Engine {
	if l.uncounted {
		return struct{ engine.Engine }{l.replica}
	}
	return l.replica
}

func (l lease) Replica() Replica {
	return Replica{ID: l.id, EngineVersion: "b1" + l.build, Fingerprint: l.fingerprint(), Slots: max(l.slots, 1), Piece: l.piece, Cards: l.cards}
}
func (l lease) Lost() <-chan struct{} { return l.lost }
func (l lease) Others() int {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.busy - 1
}

func (l lease) Intact(context.Context) error {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.ready = l.ready && l.changed == nil
	return l.changed
}
func (l lease) KeepWarm() { l.warm.Add(1) }

// Slots is engine.Keeper's: the only slot holds what it did last.
func (x *replica) Slots(context.Context) ([]engine.Slot, error) {
	return []engine.Slot{{Job: 7, Told: true}}, nil
}

// Erase is engine.Keeper's.
func (x *replica) Erase(context.Context, int) error { return nil }

// Save is engine.Saver's.
func (x *replica) Save(context.Context, int, string) (s engine.Saved, err error) { return s, nil }

// Restore is engine.Saver's.
func (x *replica) Restore(_ context.Context, _ int, s engine.Saved) error {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	x.restores = append(x.restores, s.Name)
	return x.unread
}

func (l lease) Replace(reason string) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.replaced = reason
}

func (l lease) Release() {
	l.once.Do(func() {
		l.r.mu.Lock()
		l.busy--
		l.r.mu.Unlock()
		l.r.s.Wake(l.pool)
	})
}

// fingerprint is that of the build; the build "none" stands for a replica that was never ready.
func (x *replica) fingerprint() string {
	if x.build == "none" {
		return ""
	}
	return "fp" + x.build
}

// replica is its own engine: it answers a prompt with MaxTokens tokens.
func (x *replica) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	x.r.mu.Lock()
	x.r.order = append(x.r.order, job.Prompt)
	x.reuse = append(x.reuse, job.Reuse)
	x.r.went = append(x.r.went, job.Sent)
	x.r.mu.Unlock()
	x.r.mu.Lock()
	short := x.short > 0
	x.short--
	x.r.mu.Unlock()
	if short {
		return engine.Result{}, task.Errorf(task.WorkerReset, "no descriptors").Because(syscall.EMFILE).Retry(0)
	}
	if err := x.Health(ctx); err != nil {
		return engine.Result{}, err
	}
	if x.renders != "" && x.renders != job.Prompt {
		if err := job.Rendered(x.renders); err != nil {
			return engine.Result{}, err
		}
		job.Prompt = x.renders
	}
	for i := -x.prefill; i < job.MaxTokens-job.SentTokens; i++ {
		select {
		case <-time.After(x.every):
		case <-ctx.Done():
			return engine.Result{}, fmt.Errorf("decode: %w", context.Cause(ctx))
		}
		if i < 0 {
			if job.Progress != nil {
				job.Progress()
			}
			continue
		}
		if err := x.Health(ctx); err != nil {
			return engine.Result{}, err
		}
		if x.panics != "" && i == 2 {
			panic(x.panics)
		}
		if x.fail != nil && i == 2 {
			return engine.Result{}, x.fail
		}
		if x.dies == i && i > 0 || x.dies < 0 {
			x.r.mu.Lock()
			x.dies, x.ready = 0, false
			x.r.mu.Unlock()
			return engine.Result{}, task.Errorf(task.WorkerReset, "the worker died").Retry(0)
		}
		piece := task.TextPiece(fmt.Sprint(x.says, job.Prompt, i+job.SentTokens, " "))
		if i < len(x.kinds) && x.kinds[i] != task.EventText {
			piece.Kind = x.kinds[i]
			if piece.Kind == task.EventToolCall {
				piece.Call = task.CallPart{N: i, ID: job.CallID(i), Name: "write"}
			}
		}
		if err := emit(piece); err != nil {
			return engine.Result{}, err
		}
	}
	slot := 0
	if x.slotless {
		slot = engine.NoSlot
	}
	return engine.Result{
		TokensIn: cmp.Or(x.tokensIn, 3), TokensOut: job.MaxTokens, Finish: task.FinishLength, Left: x.left, Cached: x.cached, Slot: slot,
	}, nil
}

// Continues implements engine.Continuer.
func (x *replica) Continues(job engine.Job) bool { return !x.starts && job.Chat == nil }

func (x *replica) Busy(context.Context) (int, error) {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	if x.stuck {
		return 1, nil
	}
	if x.short > 0 {
		return 0, syscall.EMFILE
	}
	if x.down {
		return 0, errDown
	}
	return 0, nil
}

var errDown = task.Errorf(task.WorkerReset, "connection refused").Retry(0)

func (x *replica) Health(context.Context) error {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	if x.down {
		return errDown
	}
	return nil
}
func (x *replica) Props(context.Context) (engine.Props, error)      { return engine.Props{}, nil }
func (x *replica) CountTokens(context.Context, string) (int, error) { return 3, nil }
func (x *replica) ApplyTemplate(_ context.Context, m []task.Message, _ *task.Chat) (string, error) {
	return "templated " + m[0].Content, nil
}

func (x *replica) Embed(context.Context, engine.Job) (json.RawMessage, engine.Result, error) {
	return json.RawMessage(`[[1]]`), engine.Result{Finish: task.FinishResult}, nil
}

// submit enqueues a task whose prompt and id are name.
func (r *rig) submit(name string, change ...func(*task.Task)) (task.Admission, error) {
	t := task.Task{
		ID: name, Prompt: name, PoolID: "default", Engine: "llamacpp", EngineVersion: "b1", Determinism: task.Strict, AcceptedAt: time.Now(),
		Request: task.Request{ID: name, ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, MaxTokens: 10},
	}
	for _, c := range change {
		c(&t)
	}
	return r.s.Enqueue(r.t.Context(), t)
}

func (r *rig) must(name string, change ...func(*task.Task)) task.Admission {
	a, err := r.submit(name, change...)
	require.NoError(r.t, err)
	return a
}

func bestEffort(t *task.Task)       { t.Determinism = task.BestEffort }
func batch(t *task.Task)            { t.Request.Priority = task.Batch }
func tokens(n int) func(*task.Task) { return func(t *task.Task) { t.Request.MaxTokens = n } }

func deadline(d time.Duration) func(*task.Task) { return func(t *task.Task) { t.Request.Deadline = d } }

func body(b byte) func(*task.Task) { return func(t *task.Task) { t.Request.BodySHA256[0] = b } }

// read takes a task's stream to its end.
func (r *rig) read(id string) string { return r.readAfter(id, "") }

func (r *rig) readAfter(id, after string) string {
	s, err := r.s.Subscribe(r.t.Context(), id, after)
	require.NoError(r.t, err)
	defer s.Close()
	var got strings.Builder
	for {
		b, err := s.Next(r.t.Context(), nil)
		if errors.Is(err, io.EOF) {
			return got.String()
		}
		require.NoError(r.t, err)
		got.Write(b)
		s.Written()
	}
}

func (r *rig) list(state task.State, limit int) []task.Status {
	found, err := r.s.List(r.t.Context(), state, limit)
	require.NoError(r.t, err)
	return found
}

func (r *rig) status(id string) task.Status {
	s, err := r.s.Get(r.t.Context(), id)
	require.NoError(r.t, err)
	return s
}

func run(t *testing.T, replicas int, change func(*Pool), test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, replicas, change)
		defer r.stop()
		test(t, r)
	})
}
