// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	server "github.com/llama-orch/llama-orch/harness/postgres"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// many calls do for 1…n at the same time, and waits for all.
func many(t *testing.T, n uint64, do func(seq uint64) error) {
	t.Helper()
	failed := make(chan error, n)
	for seq := range n {
		go func() { failed <- do(seq + 1) }()
	}
	for range n {
		require.NoError(t, <-failed)
	}
}

// holding has the writer wait, within a commit, until the function that is returned is called.
func holding(t *testing.T, l *Ledger) (release func()) {
	t.Helper()
	held, hold := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- l.submit(context.Background(), &op{kind: opProbe, free: true, run: func(context.Context, *transaction) error { close(held); <-hold; return nil }})
	}()
	<-held
	return func() { close(hold); require.NoError(t, <-done) }
}

// until returns once so many operations wait.
func (l *Ledger) until(n int) {
	for {
		l.mu.Lock()
		waiting := len(l.queue)
		l.mu.Unlock()
		if waiting >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// LO-701: what waits while the writer is busy goes into one transaction, whatever it is.
func TestManyShareATransaction(t *testing.T) {
	l := open(t, options())
	const n = 64
	release := holding(t, l)
	before := testutil.ToFloat64(l.metrics.Commits)
	answers := make(chan error, n)
	for seq := uint64(1); seq <= n; seq++ {
		go func() { answers <- l.Accept(t.Context(), sample(seq)) }()
	}
	l.until(n)
	release()
	for range n {
		require.NoError(t, <-answers)
	}
	require.InDelta(t, 2, testutil.ToFloat64(l.metrics.Commits)-before, 0)
	many(t, n, func(seq uint64) error { return l.Dispatch(t.Context(), dispatched(sample(seq))) })
	many(t, n, func(seq uint64) error { return l.Finish(t.Context(), finished(sample(seq), "a")) })
	require.Less(t, testutil.ToFloat64(l.metrics.Commits), 3*n+0.0)
	require.InDelta(t, n, testutil.ToFloat64(l.metrics.Ops.WithLabelValues("finish")), 0)
	report, err := l.Check(t.Context())
	require.NoError(t, err)
	require.Equal(t, ledger.Report{Schema: len(steps), States: map[task.State]int{task.Completed: n}, Verified: n}, report)
}

// LO-701: one operation that the database does not take fails alone.
func TestOneThatIsNotTakenFailsAlone(t *testing.T) {
	l := open(t, options())
	l.exec(t, `ALTER TABLE request ADD CONSTRAINT small CHECK (octet_length(task) < 4000)`)
	release := holding(t, l)
	answers := make([]chan error, 21)
	for i := range answers {
		s := sample(uint64(i + 1))
		if i == 13 {
			s.Prompt = string(make([]byte, 5000))
		}
		answers[i] = make(chan error, 1)
		go func() { answers[i] <- l.Accept(t.Context(), s) }()
	}
	l.until(len(answers))
	release()
	for i, answer := range answers {
		if err := <-answer; i == 13 {
			require.ErrorIs(t, err, ledger.ErrUnavailable)
		} else {
			require.NoError(t, err)
		}
	}
	require.Equal(t, len(answers)-1, l.count(t, `SELECT count(*) FROM task`))
}

// life takes a task as far as its number says, and notes what was answered.
func life(l *Ledger, seq uint64, told func(uint64, task.State)) error {
	ctx, s := context.Background(), sample(seq)
	if err := l.Accept(ctx, s); err != nil {
		return err
	}
	told(seq, task.Queued)
	if seq%3 == 0 {
		return nil
	}
	if err := l.Dispatch(ctx, dispatched(s)); err != nil {
		return err
	}
	told(seq, task.Running)
	if seq%3 == 1 {
		return nil
	}
	if err := l.Finish(ctx, finished(s, "text of ", s.ID)); err != nil {
		return err
	}
	told(seq, task.Completed)
	return nil
}

// told is what callers were told.
type told struct {
	mu      sync.Mutex
	states  map[uint64]task.State
	refused map[uint64]bool // their accepts
}

func (n *told) note(seq uint64, state task.State) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.states[seq] = state
}

// holds compares what callers were told with what is recorded.
func (n *told) holds(t *testing.T, l *Ledger) {
	t.Helper()
	rank := map[task.State]int{task.Queued: 1, task.Running: 2, task.Completed: 3}
	for seq, state := range n.states {
		r, ok, err := l.Get(t.Context(), id(seq))
		require.NoError(t, err)
		require.True(t, ok, "task %d was answered as %s, and is gone", seq, state)
		require.GreaterOrEqual(t, rank[r.State], rank[state], "task %d", seq)
	}
	for seq := range n.refused {
		if n.states[seq] == "" {
			_, ok, err := l.Get(t.Context(), id(seq))
			require.NoError(t, err)
			require.False(t, ok, "task %d was refused, and is there", seq)
		}
	}
	report, err := l.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Problems)
}

// under runs tasks while trouble is made, until it returns and everything has been asked for again. What was refused is not sent again.
func under(t *testing.T, l *Ledger, trouble func()) *told {
	t.Helper()
	n := &told{states: map[uint64]task.State{}, refused: map[uint64]bool{}}
	var stop atomic.Bool
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for !stop.Load() {
				seq, err := l.NextSeq()
				if err == nil {
					err = life(l, seq, n.note)
				}
				if err != nil && !errors.Is(err, ledger.ErrUnavailable) {
					t.Errorf("task %d: %v", seq, err)
				}
				if err != nil && seq > 0 {
					n.mu.Lock()
					n.refused[seq] = true
					n.mu.Unlock()
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	trouble()
	stop.Store(true)
	all.Wait()
	require.Eventually(t, func() bool { return l.Writable(t.Context()) == nil && l.Accept(t.Context(), sample(1<<40)) == nil }, time.Minute, 10*time.Millisecond)
	require.NotEmpty(t, n.states)
	return n
}

// LO-704, LO-705: kill -9 of the database in the middle of writes loses nothing that was answered, and records nothing that was refused. The ledger goes on by itself.
func TestAKilledDatabaseLosesNothing(t *testing.T) {
	t.Parallel()
	s, err := server.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	o := options()
	o.DSN = s.Local()
	l := open(t, o)
	n := under(t, l, func() {
		for range 5 {
			time.Sleep(300 * time.Millisecond)
			require.NoError(t, s.Kill())
			require.NoError(t, s.Start())
		}
		time.Sleep(300 * time.Millisecond)
	})
	require.NotEmpty(t, n.refused)
	t.Logf("%d tasks were answered, %d refused, in %v commits", len(n.states), len(n.refused), testutil.ToFloat64(l.metrics.Commits))
	n.holds(t, l)
}

// LO-705: a connection that breaks in the middle of a commit is asked about, so that callers hear the truth.
func TestACutConnectionTellsTheTruth(t *testing.T) {
	t.Parallel()
	p, err := server.NewProxy(db.Port)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	o := options()
	o.DSN = db.TCP(p.Port)
	l := open(t, o)
	n := under(t, l, func() {
		for i := range 60 {
			time.Sleep(time.Duration(10+7*(i%5)) * time.Millisecond)
			p.Cut(false)
		}
		for range 3 { // longer than callers are kept waiting
			time.Sleep(100 * time.Millisecond)
			p.Cut(true)
			time.Sleep(doubtWithin + 200*time.Millisecond)
			p.Cut(false)
		}
		time.Sleep(time.Second)
	})
	t.Logf("%d tasks were answered, %d refused", len(n.states), len(n.refused))
	n.holds(t, l)
}

// LO-705: where the database stays away behind a commit, callers are refused, and what had reached it is taken back.
func TestWhatWasRefusedIsTakenBack(t *testing.T) {
	o := options()
	l := open(t, o)
	w := newWriter(l.w.config, l.o)
	t.Cleanup(func() { require.NoError(t, w.close()) })
	require.NoError(t, l.Accept(t.Context(), sample(1)))
	a, err := newArrival(sample(2), nil)
	require.NoError(t, err)
	c, err := w.connect(t.Context())
	require.NoError(t, err)
	x := &transaction{c: c, w: w, fence: int(l.fence.Load()), last: emptyBatch()}
	sent, xid, err := x.all(t.Context(), []*op{{kind: opAccept, id: id(2), seq: 2, arrival: a}})
	require.NoError(t, err)
	require.True(t, sent)
	made, err := w.committed(t.Context(), xid)
	require.NoError(t, err)
	require.True(t, made)
	require.Equal(t, 2, l.count(t, `SELECT count(*) FROM task`))
	w.doubts = []doubt{{xid: xid, seqs: []int64{2}}}
	require.NoError(t, w.settle(t.Context()))
	require.Empty(t, w.doubts)
	live, err := l.Live(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{id(1)}, ids(live))
	require.Equal(t, 1, l.count(t, `SELECT count(*) FROM request`))

	// One that is still open, since the database has not noticed that its client is gone, is ended.
	_, err = c.Exec(t.Context(), `BEGIN`)
	require.NoError(t, err)
	require.NoError(t, c.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text`).Scan(&xid))
	require.ErrorIs(t, func() error { _, err := l.w.committedBeside(t, xid); return err }(), errOpen)
	require.Eventually(t, func() bool {
		made, err := l.w.committedBeside(t, xid)
		return err == nil && !made
	}, time.Minute, 10*time.Millisecond)
	w.drop()
}

// committedBeside asks by a connection of its own.
func (w *writer) committedBeside(t *testing.T, xid string) (bool, error) {
	beside := newWriter(w.config, w.o)
	defer func() { require.NoError(t, beside.close()) }()
	return beside.committed(t.Context(), xid)
}

// LO-704: a database that does not answer, as one that is paused or cut off without a word, is no reason to wait for ever.
func TestADatabaseThatHangsIsLeft(t *testing.T) {
	t.Parallel()
	s, err := server.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	o := options()
	o.DSN = s.Local()
	l := open(t, o)
	require.NoError(t, l.Accept(t.Context(), sample(1)))
	require.NoError(t, s.Signal(syscall.SIGSTOP))
	require.ErrorIs(t, l.Accept(t.Context(), sample(2)), ledger.ErrUnavailable)
	require.NoError(t, s.Signal(syscall.SIGCONT))
	require.Eventually(t, func() bool { return l.Accept(t.Context(), sample(3)) == nil }, time.Minute, 10*time.Millisecond)
	live, err := l.Live(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{id(1), id(3)}, ids(live))
}

// LO-704: who reads notices too that the database is away, so that nobody takes it for one that can be written.
func TestAReadThatFailsIsNoticed(t *testing.T) {
	t.Parallel()
	s, err := server.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	o := options()
	o.DSN = s.Local()
	l := open(t, o)
	require.NoError(t, l.Accept(t.Context(), sample(1)))
	require.NoError(t, l.Writable(t.Context()))
	require.NoError(t, s.Kill())
	_, _, err = l.Get(t.Context(), id(1))
	require.Error(t, err)
	require.ErrorIs(t, l.Writable(t.Context()), ledger.ErrUnavailable)
	require.NoError(t, s.Start())
	require.Eventually(t, func() bool { return l.Writable(t.Context()) == nil }, time.Minute, 10*time.Millisecond)
}

// LO-704: a database that is away at the start is waited for; one that stays away is named, with what to do.
func TestAwayAtTheStart(t *testing.T) {
	t.Parallel()
	s, err := server.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.Stop())
	o := options()
	o.DSN, o.Lease = s.Local(), time.Millisecond
	_, err = Open(o)
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, Away, e.Fault)
	require.ErrorContains(t, err, "start the database")
	back := make(chan error, 1)
	go func() { back <- s.Start() }()
	o.Lease = time.Minute
	open(t, o)
	require.NoError(t, <-back)
}

// LO-703: neither an error nor a log line has the password, whatever is wrong.
func TestThePasswordIsNowhere(t *testing.T) {
	const secret = "hunter2 %&'\\ü"
	logs, seen := observer.New(zapcore.DebugLevel)
	for _, dsn := range []string{
		fmt.Sprintf("postgres://postgres:hunter2%%20%%25%%26%%27%%5C%%C3%%BC@127.0.0.1:%d/postgres?sslmode=disable", db.Port),
		"postgres://postgres:hunter2%20%25@[bad",
		"host=127.0.0.1 user=postgres password='hunter2 %&\\'\\\\ü' sslmode=wrong",
		"postgres://postgres:hunter2@127.0.0.1:1/postgres",
		"postgres://postgres:hunter2@db.example:5432/postgres?sslmode=disable",
	} {
		o := options()
		o.DSN, o.Log, o.Lease = dsn, zap.New(logs), time.Millisecond
		_, err := Open(o)
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok, "%v", err)
		require.NotEmpty(t, e.Remedy)
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
			require.NotContains(t, text, "hunter2", dsn)
		}
	}
	for _, line := range seen.All() {
		require.NotContains(t, fmt.Sprint(line.Message, line.ContextMap()), "hunter2")
	}
	require.Contains(t, Secrets("postgres://a:hunter2%20x@h/d"), "hunter2 x")
	require.NotEmpty(t, secret)
}

// LO-702: two daemons on one schema. The first hangs past its lease; the second takes its tasks, and the first can write nothing more about them.
func TestTwoOwners(t *testing.T) {
	var lost atomic.Int32
	o := options()
	o.Lease = 3 * time.Second // a busy machine renews it in time
	o.Lost = func(error) { lost.Add(1) }
	a := open(t, o)
	claimed, err := a.Claim(t.Context(), task.Host{ID: "me"})
	require.NoError(t, err)
	for seq := uint64(1); seq <= 3; seq++ {
		require.NoError(t, a.Accept(t.Context(), sample(seq)))
	}
	p := o
	p.Owner, p.Lost = "another", nil
	b := open(t, p)
	taken, err := b.Claim(t.Context(), task.Host{ID: "another"})
	require.NoError(t, err)
	require.Empty(t, taken.Tasks, "the lease runs")

	a.mute.Store(true) // it hangs
	for len(taken.Tasks) == 0 {
		taken, err = b.Claim(t.Context(), task.Host{ID: "another"})
		require.NoError(t, err)
	}
	require.Equal(t, []string{id(1), id(2), id(3)}, ids(taken.Tasks))
	require.Greater(t, taken.Fence, claimed.Fence)
	require.NoError(t, b.Dispatch(t.Context(), dispatched(sample(2))))

	a.mute.Store(false) // it is back
	require.ErrorIs(t, a.Finish(t.Context(), finished(sample(1), "x")), ledger.ErrFenced)
	require.ErrorIs(t, a.Accept(t.Context(), sample(9)), ledger.ErrFenced)
	require.ErrorIs(t, a.Render(t.Context(), sample(1)), ledger.ErrFenced)
	require.Eventually(t, func() bool { return lost.Load() == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, b.Finish(t.Context(), finished(sample(1), "y")))
	r, ok2, err := a.Get(t.Context(), id(1))
	require.NoError(t, err)
	require.True(t, ok2)
	require.Equal(t, "y", r.Transcript.Text)

	// A daemon's next life has its name, and waits for nothing.
	p.Lease = time.Hour
	c := open(t, p)
	again, err := c.Claim(t.Context(), task.Host{ID: "another"})
	require.NoError(t, err)
	require.Equal(t, []string{id(2), id(3)}, ids(again.Tasks))
	require.ErrorIs(t, b.Accept(t.Context(), sample(10)), ledger.ErrFenced)
}

// LO-702: whoever takes tasks waits for a commit that their holder is in. So that is there, or it is not made.
func TestATakerWaitsForACommit(t *testing.T) {
	o := options()
	a := open(t, o)
	require.NoError(t, a.Accept(t.Context(), sample(1)))
	release := holding(t, a)
	a.mute.Store(true)
	p := o
	p.Owner = "another"
	b := open(t, p)
	b.exec(t, `UPDATE claim SET until = clock_timestamp() - interval '1 second' WHERE owner = 'me'`)
	taken := make(chan ledger.Claim, 1)
	go func() {
		c, err := b.Claim(context.Background(), task.Host{ID: "another"})
		if err != nil {
			t.Error(err)
		}
		taken <- c
	}()
	require.Eventually(t, func() bool {
		return b.count(t, `SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'`) > 0
	}, time.Minute, time.Millisecond)
	select {
	case <-taken:
		t.Fatal("it did not wait")
	default:
	}
	release()
	require.Equal(t, []string{id(1)}, ids((<-taken).Tasks))
}

// LO-702: while the database cannot be reached, the lease may end. It goes on if nobody came.
func TestALeaseThatNobodyTookGoesOn(t *testing.T) {
	o := options()
	o.Lease = 200 * time.Millisecond
	l := open(t, o)
	require.NoError(t, l.Accept(t.Context(), sample(1)))
	l.exec(t, `UPDATE claim SET until = clock_timestamp() - interval '1 hour'`)
	require.Eventually(t, func() bool { return l.count(t, `SELECT count(*) FROM claim WHERE until > clock_timestamp()`) == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, l.Finish(t.Context(), finished(sample(1), "x")))
}
