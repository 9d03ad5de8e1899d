// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

// visits notes what the scheduler tells of each task.
type visits struct {
	noSessions
	mu     sync.Mutex
	of     map[string][]string
	refuse error
	warm   string
	saved  map[string]string // files by the sessions whose KV is there
	cold   bool              // no replica holds KV
}

func (v *visits) note(id, what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.of[id] = append(v.of[id], what)
}

// told is what was noted of a task.
func (v *visits) told(id string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.of[id])
}

func (v *visits) Admit(t *task.Task) error {
	if v.refuse != nil {
		return v.refuse
	}
	v.note(t.ID, "admit")
	return nil
}
func (v *visits) Withdraw(t task.Task) { v.note(t.ID, "withdraw") }
func (v *visits) Recover(t task.Task)  { v.note(t.ID, "recover") }
func (v *visits) Charge(r task.Record, decode time.Duration, _ *task.Energy) *task.Charge {
	v.note(r.Task.ID, fmt.Sprintf("charge %s after %s", r.State, decode))
	return &task.Charge{Account: "me", Amount: task.Amount{Tokens: 1}}
}

func (v *visits) Settle(r task.Record) {
	v.note(r.Task.ID, fmt.Sprintf("settle %d", r.Charge.Amount.Tokens))
}
func (v *visits) Warm(string) string { return v.warm }
func (v *visits) Began(t task.Task, replica string, _ int) bool {
	v.note(t.ID, "began "+replica)
	return !v.cold
}

func (v *visits) Take(session, fingerprint string) (s engine.Saved, done func(), ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s.Name = v.saved[session]
	return s, func() { v.note(session, "done with "+s.Name+" for "+fingerprint) }, s.Name != ""
}

func (v *visits) Forget(session string) { v.note(session, "forget") }

func (v *visits) Kept(t task.Task, replica string, _ <-chan struct{}, kv task.KV) {
	v.note(t.ID, "kept "+replica)
}

func withSessions(t *testing.T, b *book, v *visits, left ...task.Record) *rig {
	r := &rig{t: t, registry: prometheus.NewRegistry(), book: b}
	for i := range 2 {
		r.replicas = append(r.replicas, &replica{r: r, id: fmt.Sprint("default-", i), pool: "default", ready: true, every: 10 * time.Millisecond})
	}
	r.s = New(Options{
		Pools:    []Pool{{ID: "default", Engine: "llamacpp", Capacity: 1, Policy: queue.Reject, Wall: time.Minute, Idle: 5 * time.Second}},
		Replicas: r, Ledger: b, Sessions: v, Narrator: observe.NewNarrator(zap.NewNop()), Metrics: NewMetrics(r.registry), Log: zap.NewNop(), Now: time.Now,
	})
	r.s.Recover(left)
	require.NoError(t, r.s.Start(t.Context()))
	return r
}

// Each task that is admitted is settled once, with the charge that its outcome was recorded with, or withdrawn; a
// best-effort turn goes where its KV is, and a strict one does not ask.
// ORCH-3099, ORCH-3021, ORCH-3009
func TestTasksVisitTheSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &visits{of: map[string][]string{}, warm: "default-1"}
		b := &book{records: map[string]task.Record{}}
		r := withSessions(t, b, v)
		r.must("warm", bestEffort)
		r.read("warm")
		require.Equal(t, []string{"admit", "began default-1", "kept default-1", "charge completed after 90ms", "settle 1"}, v.told("warm"))
		require.Equal(t, int64(1), b.records["warm"].Charge.Amount.Tokens)
		r.must("strict")
		r.read("strict")
		require.Contains(t, v.told("strict"), "began default-0", "it takes no account of the session")
		_, err := r.submit("warm", bestEffort)
		require.NoError(t, err, "a repeated submit is no further turn")
		require.Equal(t, 1, count(v.told("warm"), "admit"))

		require.Zero(t, r.replicas[1].warm.Load(), "none of them was a turn")
		r.must("turn", bestEffort, func(t *task.Task) { t.Request.SessionID = "s" })
		r.read("turn")
		require.Equal(t, int32(1), r.replicas[1].warm.Load(), "its session comes back for what is there")

		for _, id := range []string{"a", "b", "queued"} {
			r.must(id, tokens(1000))
			synctest.Wait()
		}
		_, err = r.submit("full")
		require.True(t, task.HasCode(err, task.AdmissionReject))
		require.Equal(t, []string{"admit", "withdraw"}, v.told("full"))
		_, err = r.s.Cancel(t.Context(), "queued")
		require.NoError(t, err)
		require.Equal(t, []string{"admit", "charge canceled after 0s", "settle 1"}, v.told("queued"))
		b.full.Store(true)
		_, err = r.submit("unrecorded")
		require.True(t, task.HasCode(err, task.LedgerUnavailable))
		require.Equal(t, []string{"admit", "withdraw"}, v.told("unrecorded"))
		b.full.Store(false)
		v.refuse = task.Errorf(task.BudgetExceeded, "nothing is left")
		_, err = r.submit("over")
		require.ErrorIs(t, err, v.refuse)
		require.Empty(t, v.told("over"))
		_, err = r.s.Get(t.Context(), "over")
		require.True(t, task.HasCode(err, task.NotFound), "it was refused before it was queued")

		left := r.crash()
		v = &visits{of: map[string][]string{}}
		r = withSessions(t, r.book, v, left...)
		r.read("a")
		require.Equal(t, "recover", v.told("a")[0])
		require.Equal(t, 1, count(v.told("a"), "settle 1"))
		r.stop()
	})
}

// LO-473: where the worker that held the KV of a turn's session has ended, what it saved is restored before the turn. Whatever becomes of that, the turn runs, and
// the file is given back.
func TestATurnFindsWhatItsSessionLeft(t *testing.T) {
	of := func(session string) func(*task.Task) {
		return func(t *task.Task) { t.Request.SessionID, t.Determinism = session, task.BestEffort }
	}
	for name, c := range map[string]struct {
		change   func(*visits, *replica)
		turn     func(*task.Task)
		restores []string
	}{
		"saved":             {nil, of("s"), []string{"s.kv"}},
		"not saved":         {nil, of("other"), nil},
		"no session":        {nil, of(""), nil},
		"still warm":        {func(v *visits, _ *replica) { v.cold = false }, of("s"), nil},
		"cannot be read":    {func(_ *visits, x *replica) { x.unread = errors.New("gone") }, of("s"), []string{"s.kv"}},
		"an engine without": {func(_ *visits, x *replica) { x.uncounted = true }, of("s"), nil},
		"wants to be cold": {nil, func(t *task.Task) {
			of("s")(t)
			t.Request.KVHint = task.KVCold
		}, nil},
		"strict, without pieces": {nil, func(t *task.Task) { t.Request.SessionID = "s" }, nil},
		"strict, with pieces":    {func(_ *visits, x *replica) { x.piece = 16 }, func(t *task.Task) { t.Request.SessionID = "s" }, []string{"s.kv"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &visits{of: map[string][]string{}, cold: true, warm: "default-0", saved: map[string]string{"s": "s.kv"}}
				r := withSessions(t, &book{records: map[string]task.Record{}}, v)
				defer r.stop()
				if c.change != nil {
					c.change(v, r.replicas[0])
				}
				r.must("turn", c.turn)
				r.read("turn")
				require.Equal(t, task.Completed, r.status("turn").State)
				require.Equal(t, c.restores, r.replicas[0].restores)
				require.Equal(t, len(c.restores), count(v.told("s"), "done with s.kv for fp"))
				require.NoError(t, r.s.Delete(t.Context(), "turn", "me"))
				var asked task.Task
				c.turn(&asked)
				require.Equal(t, 1, count(v.told(asked.Request.SessionID), "forget"), "what was saved of it has its text")
			})
		})
	}
}

func count(all []string, what string) (n int) {
	for _, one := range all {
		if one == what {
			n++
		}
	}
	return n
}
