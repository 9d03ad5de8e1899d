// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// plot is a random history, drawn whole before it is played: rapid stops a failing case by a panic, which must not happen
// within the bubble of the virtual clock.
type plot struct {
	replicas int
	unlike   bool // each second replica gives other bytes
	pool     Pool
	moves    []move
	commit   time.Duration // what the ledger takes for a commit
}

type move struct {
	after    time.Duration // the move before
	kind     string
	pick     int // of the task, or the replica
	strict   bool
	priority task.Priority
	line     bool // of a batch, where the priority is that
	tokens   int
	deadline time.Duration
}

const (
	moveSubmit = "submit"
	moveAgain  = "submit again"
	moveCancel = "cancel"
	moveDie    = "die"
	moveReturn = "return"
	moveCut    = "cut a reader"
	moveFull   = "fill the disk"
	moveRoom   = "empty the disk"
	moveCrash  = "crash"
	moveStop   = "stop and start"
	moveQuit   = "cancel what loses its worker" // from the next move on: after it left its worker, and before it waits for another
	moveWreck  = "stop, lose a worker, and start"
)

func drawPlot(t *rapid.T) plot {
	p := plot{
		replicas: rapid.IntRange(1, 3).Draw(t, "replicas"), unlike: rapid.Bool().Draw(t, "unlike"),
		commit: time.Duration(rapid.SampledFrom([]int{0, 1, 7, 30}).Draw(t, "commit")) * time.Millisecond,
		pool: Pool{
			ID: "default", Engine: "llamacpp", Wall: time.Hour, Idle: time.Hour, Capacity: rapid.IntRange(1, 5).Draw(t, "capacity"),
			Policy: rapid.SampledFrom([]queue.Policy{queue.Reject, queue.DropLRU}).Draw(t, "policy"),
		},
	}
	kinds := []string{
		moveSubmit, moveSubmit, moveSubmit, moveSubmit, moveSubmit, moveSubmit, moveAgain, moveCancel, moveCancel, moveDie, moveReturn, moveReturn,
		moveCut, moveFull, moveRoom, moveRoom, moveCrash, moveStop, moveQuit, moveDie, moveWreck,
	}
	p.moves = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) move {
		m := move{
			after: time.Duration(rapid.SampledFrom([]int{0, 0, 1, 5, 10, 33, 100, 400}).Draw(t, "after")) * time.Millisecond,
			kind:  rapid.SampledFrom(kinds).Draw(t, "kind"), pick: rapid.IntRange(0, 100).Draw(t, "pick"),
			priority: rapid.SampledFrom([]task.Priority{task.Interactive, task.Batch}).Draw(t, "priority"), line: rapid.Bool().Draw(t, "line"),
			strict: rapid.IntRange(0, 3).Draw(t, "strict") > 0, tokens: rapid.IntRange(1, 25).Draw(t, "tokens"),
		}
		if rapid.IntRange(0, 9).Draw(t, "deadline") == 0 {
			m.deadline = 150 * time.Millisecond
		}
		return m
	}), 1, 60).Draw(t, "moves")
	return p
}

// stage plays a plot on a virtual clock, with a client for each task who reads its stream to the end, whatever it takes.
type stage struct {
	t     *testing.T
	plot  plot
	s     *Scheduler
	book  *slowBook
	tasks []*actor
	life  int

	mu       sync.Mutex
	over     int // the last life that crashed: nobody hears of what it still does
	again    sync.WaitGroup
	lives    context.Context // ends with the life: its callers hang up
	hangUp   context.CancelFunc
	replicas []*machine
	steps    int  // numbers what happens
	quits    bool // the next task that loses its worker is canceled at that moment
	wrong    []string
}

// actor is a task and what its client knows.
type actor struct {
	task     task.Task
	sent     int    // the step at which it was first sent
	admitted int    // the step at which its first 202 had come; 0: none yet
	refused  bool   // for good
	lost     bool   // an answer was
	got      string // the numbered frames, in the order they came
	dropped  string // frames that had to be discarded
	outcomes int    // terminal events that the client got
	ended    int    // the step at which a cancel had returned
	started  []dispatch
	reading  bool               // its stream is open
	away     context.CancelFunc // ends the client's connection
	client   sync.WaitGroup
}

type dispatch struct {
	step, life int
	at         time.Time
}

func (s *stage) complain(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

func (s *stage) step() int {
	s.steps++
	return s.steps
}

// start begins a life on what is recorded.
func (s *stage) start() {
	s.mu.Lock()
	s.life++
	s.replicas = nil
	for i := range s.plot.replicas {
		x := &machine{stage: s, id: fmt.Sprint("default-", i), ready: true, died: make(chan struct{})}
		if s.plot.unlike && i%2 == 1 {
			x.kind = otherKind
		}
		s.replicas = append(s.replicas, x)
	}
	s.mu.Unlock()
	s.s = New(Options{
		Pools: []Pool{s.plot.pool}, Replicas: s, Ledger: s.book, Narrator: observe.NewNarrator(zap.NewNop()),
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: zap.New(lineLog{zapcore.WarnLevel, s.line}), Now: time.Now,
	})
	s.lives, s.hangUp = context.WithCancel(s.t.Context())
	left := s.book.live()
	if slices.ContainsFunc(left, func(r task.Record) bool { return r.State == task.Running && r.Task.Determinism == task.BestEffort }) {
		s.book.full.Store(false) // it would not start: what it has to end has to be recorded
	}
	s.s.Recover(left)
	require.NoError(s.t, s.s.Start(s.t.Context()))
	for _, a := range s.tasks {
		s.connect(a)
	}
}

// end ends a life: a crash keeps of the ledger what was in it, and of the clients what they had.
func (s *stage) end(crash bool) {
	if crash || s.book.over() {
		s.look() // at a moment, not within one
		was := s.book
		was.mu.Lock()
		s.book = newSlowBook(&book{records: maps.Clone(was.records), order: slices.Clone(was.order)}, was.commit)
		s.book.full.Store(was.full.Load())
		s.book.seq.Store(was.seq.Load())
		s.book.steps.Store(was.steps.Load())
		was.mu.Unlock()
		s.mu.Lock()
		s.over = s.life
		s.mu.Unlock()
		for _, a := range s.tasks {
			a.away()
		}
		synctest.Wait()
	}
	ctx, stop := context.WithTimeout(s.t.Context(), 30*time.Millisecond)
	defer stop()
	require.NoError(s.t, s.s.Stop(ctx))
	synctest.Wait()
	for _, a := range s.tasks {
		s.mu.Lock()
		if a.reading && !crash {
			s.wrong = append(s.wrong, a.task.ID+": its stream hangs, though the daemon has stopped")
		}
		s.mu.Unlock()
		a.away()
		a.client.Wait()
	}
	s.hangUp()
	s.again.Wait()
	s.book.flush()
}

// connect has a task's client read on from where it is.
func (s *stage) connect(a *actor) {
	if a.away != nil {
		a.away()
		a.client.Wait()
	}
	ctx, away := context.WithCancel(s.t.Context())
	a.away = away
	on, life := s.s, s.life
	a.client.Go(func() {
		if s.submit(ctx, on, life, a) {
			s.read(ctx, on, a)
		}
	})
}

// submit sends a task as the API does, unless its 202 has come, and reports whether it has.
func (s *stage) submit(ctx context.Context, on *Scheduler, life int, a *actor) bool {
	s.mu.Lock()
	admitted, refused := a.admitted > 0, a.refused
	s.mu.Unlock()
	if admitted || refused {
		return admitted
	}
	return s.send(ctx, on, life, a)
}

func (s *stage) send(ctx context.Context, on *Scheduler, life int, a *actor) bool {
	for {
		_, known, err := on.Known(ctx, a.task.ID, a.task.Request.BodySHA256)
		if !known && err == nil {
			_, err = on.Enqueue(ctx, a.task)
		}
		s.mu.Lock()
		switch {
		case life <= s.over || errors.Is(err, context.Canceled): // its daemon is dead, or the client gone
			a.lost = true
		case err == nil:
			a.admitted = cmp.Or(a.admitted, s.step())
		case task.HasCode(err, task.AdmissionReject):
			a.refused = true
		case !task.HasCode(err, task.LedgerUnavailable) && !task.HasCode(err, task.ShuttingDown):
			s.wrong = append(s.wrong, fmt.Sprintf("%s was refused: %v", a.task.ID, err))
		}
		admitted, again := a.admitted > 0, task.HasCode(err, task.LedgerUnavailable) && life > s.over
		s.mu.Unlock()
		if !again {
			return admitted
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
}

var idLine = regexp.MustCompile(`(?m)^id: (\S+)$`)

// subscribe asks again while the ledger takes no outcome.
func subscribe(ctx context.Context, on *Scheduler, a *actor, after string) (*Stream, error) {
	for {
		stream, err := on.Subscribe(ctx, a.task.ID, after)
		if !task.HasCode(err, task.LedgerUnavailable) || !lifecycle.Pause(ctx, 50*time.Millisecond) {
			return stream, err
		}
	}
}

func (s *stage) read(ctx context.Context, on *Scheduler, a *actor) {
	if a.outcomes > 0 {
		return
	}
	after := ""
	if ids := idLine.FindAllStringSubmatch(a.got, -1); len(ids) > 0 {
		after = ids[len(ids)-1][1]
	}
	stream, err := subscribe(ctx, on, a, after)
	if after != "" && (task.HasCode(err, task.InvalidParams) || task.HasCode(err, task.WorkerReset)) {
		a.dropped, a.got = a.dropped+a.got, ""
		stream, err = subscribe(ctx, on, a, "")
	}
	if err != nil {
		if ctx.Err() == nil {
			s.complain("%s: subscribe after %q: %v", a.task.ID, after, err)
		}
		return
	}
	s.reads(a, true)
	defer s.reads(a, false)
	defer func() {
		if stream != nil {
			stream.Close()
		}
	}()
	for {
		frames, err := stream.Next(ctx, nil)
		var broken *task.Error
		switch {
		case errors.Is(err, io.EOF):
			a.outcomes++
			return
		case errors.As(err, &broken):
			a.dropped, a.got = a.dropped+a.got, ""
			stream.Close()
			if stream, err = subscribe(ctx, on, a, ""); err != nil {
				if ctx.Err() == nil {
					s.complain("%s: subscribe anew: %v", a.task.ID, err)
				}
				return
			}
			continue
		case err != nil: // it was cut, or the life ended
			return
		}
		a.got += string(frames)
		stream.Written()
	}
}

func (s *stage) play(m move) {
	time.Sleep(m.after)
	s.die()
	switch m.kind {
	case moveSubmit:
		id := fmt.Sprint("t", len(s.tasks))
		a := &actor{task: task.Task{
			ID: id, Prompt: id, PoolID: "default", Engine: "llamacpp", EngineVersion: "b1", Determinism: task.BestEffort, AcceptedAt: time.Now(),
			Request: task.Request{
				ID: id, ModelRef: "haiku", Workload: task.Completion, Priority: m.priority, MaxTokens: m.tokens, Deadline: m.deadline,
			},
		}}
		if m.strict {
			a.task.Determinism = task.Strict
		}
		if m.line && m.priority == task.Batch {
			ofBatch(&a.task)
		}
		s.mu.Lock()
		a.sent = s.step()
		s.tasks = append(s.tasks, a)
		s.mu.Unlock()
		s.connect(a)
	case moveAgain, moveCancel, moveCut:
		if len(s.tasks) == 0 {
			return
		}
		a := s.tasks[m.pick%len(s.tasks)]
		s.withTask(m.kind, a)
	case moveDie, moveReturn:
		s.turn(m.pick, m.kind == moveReturn)
	case moveFull, moveRoom:
		s.book.full.Store(m.kind == moveFull)
	case moveCrash, moveStop:
		s.end(m.kind == moveCrash)
		s.start()
	case moveQuit:
		s.mu.Lock()
		s.quits = true
		s.mu.Unlock()
	case moveWreck:
		s.again.Go(func() {
			time.Sleep(time.Duration(m.tokens) * time.Millisecond) // within the time that running tasks have
			s.turn(m.pick, false)
		})
		s.end(false)
		s.start()
	}
}

func (s *stage) withTask(kind string, a *actor) {
	switch kind {
	case moveAgain:
		on, life, lives := s.s, s.life, s.lives
		s.again.Go(func() { s.send(lives, on, life, a) })
	case moveCancel:
		on, life, lives := s.s, s.life, s.lives
		s.again.Go(func() { s.cancel(lives, on, life, a) })
	case moveCut:
		s.mu.Lock()
		reads := a.admitted > 0
		s.mu.Unlock()
		if reads { // a submit is not cut: while the disk is full it may wait for who comes next and empties it
			s.connect(a)
		}
	}
}

// cancel asks twice, and notes when the first answer came.
func (s *stage) cancel(ctx context.Context, on *Scheduler, life int, a *actor) {
	var first task.CancelResult
	for i := range 2 {
		result, err := on.Cancel(ctx, a.task.ID)
		s.mu.Lock()
		switch {
		case life <= s.over || err != nil && !task.HasCode(err, task.Internal):
		case err != nil:
			s.wrong = append(s.wrong, fmt.Sprintf("cancel %s: %v", a.task.ID, err))
		case i == 0:
			first = result
			a.ended = s.step()
		case first.TaskID != "" && result != first:
			s.wrong = append(s.wrong, fmt.Sprintf("cancel %s: %+v and then %+v", a.task.ID, first, result))
		}
		s.mu.Unlock()
	}
}

// die is a crash behind the last step that was written, where that is behind us.
func (s *stage) die() {
	if s.book.over() {
		s.end(true)
		s.start()
	}
}

// settle lets everything come to its end.
func (s *stage) settle() {
	s.book.full.Store(false)
	s.mu.Lock()
	for _, m := range s.replicas {
		if !m.ready {
			m.ready, m.died = true, make(chan struct{})
		}
	}
	s.mu.Unlock()
	s.s.Wake("default")
	for range 3 { // a client that was refused may have been admitted by a repeated submit of its own
		for _, a := range s.tasks {
			s.connect(a)
		}
		for _, long := range []time.Duration{5 * time.Second, 5 * time.Minute} {
			time.Sleep(long)
			synctest.Wait()
			s.die()
		}
	}
}

func tokenLines(frames string) string {
	var b strings.Builder
	for _, line := range strings.SplitAfter(frames, "\n") {
		if strings.HasPrefix(line, `data: {"t":`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Whatever happens and when: an accepted task has one outcome, tasks of a priority start in the order they came, none starts
// after its cancel, no slot has two tasks, and a client's events are those of an undisturbed run (ORCH-3051).
//
// LO-202, LO-203, LO-201, ORCH-3026, ORCH-3004, OC-CORE-1005
func TestEveryHistoryIsSound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlot(rt)
		if wrong, _ := p.play(t, 0); len(wrong) > 0 {
			rt.Fatalf("%s", strings.Join(wrong, "\n"))
		}
	})
}

// The same histories, each once for each step that its ledger takes: the process dies behind that step, whatever it was doing. So it has died between any
// two durable steps of them.
//
// LO-872, LO-202, LO-203, LO-201, ORCH-3026
func TestEveryStepOfAHistoryCanBeTheLast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlot(rt)
		p.moves = p.moves[:min(len(p.moves), 10)]
		_, steps := p.play(t, 0)
		for last := int64(1); last <= steps; last++ {
			if wrong, _ := p.play(t, last); len(wrong) > 0 {
				rt.Fatalf("the ledger ends with step %d of %d:\n%s", last, steps, strings.Join(wrong, "\n"))
			}
		}
	})
}

// play plays the plot, and says what was wrong, and how many steps the ledger has written. With last, the process dies behind that step.
func (p plot) play(t *testing.T, last int64) (wrong []string, steps int64) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, plot: p, book: newSlowBook(&book{records: map[string]task.Record{}, last: last}, p.commit)}
		s.start()
		for _, m := range p.moves {
			s.play(m)
		}
		s.look()
		s.settle()
		s.judge()
		s.end(false)
		wrong, steps = s.wrong, s.book.steps.Load()
	})
	return wrong, steps
}
