// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// naive is what a ledger should be: a table in memory.
type naive struct {
	tasks  map[uint64]*naiveTask
	starts int
	next   uint64
}

type naiveTask struct {
	r     task.Record
	start int
}

func (n *naive) live() []task.Record {
	var all []*naiveTask
	for _, e := range n.tasks {
		if !e.r.State.Final() {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *naiveTask) int {
		return cmp.Or(-cmp.Compare(a.r.State, b.r.State), a.start-b.start, cmp.Compare(a.r.Task.Seq, b.r.Task.Seq))
	})
	var out []task.Record
	for _, e := range all {
		out = append(out, e.r)
	}
	return out
}

func (n *naive) list(state task.State) []task.Record {
	var out []task.Record
	for _, e := range n.tasks {
		if e.r.State.Final() && (state == "" || e.r.State == state) {
			r := e.r
			r.Transcript.Text = ""
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b task.Record) int {
		return cmp.Or(b.FinishedAt.Compare(a.FinishedAt), cmp.Compare(b.Task.Seq, a.Task.Seq))
	})
	return out
}

// Whatever is done to it, and however often it is closed or copied as a kill would leave it, the ledger holds what the naive
// one does.
// LO-202
func TestHistoriesMatchTheModel(t *testing.T) {
	dir, round := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		now := epoch
		o := Options{
			Path: filepath.Join(dir, fmt.Sprint(round), FileName), Now: func() time.Time { return epoch }, offhand: true,
		}
		require.NoError(t, os.Mkdir(filepath.Dir(o.Path), 0o700))
		l, err := Open(o)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		model := naive{tasks: map[uint64]*naiveTask{}, next: 1}
		number := rapid.Uint64Range(1, 12)
		mark := func(event int) task.Checkpoint { return task.Checkpoint{Event: event, Sum: [32]byte{byte(event)}} }
		same := func(t *rapid.T) {
			left, err := l.Live(t.Context())
			require.NoError(t, err)
			require.Equal(t, model.live(), left)
			got, err := l.NextSeq()
			require.NoError(t, err)
			require.GreaterOrEqual(t, got, model.next)
		}
		t.Repeat(map[string]func(*rapid.T){
			"accept": func(t *rapid.T) {
				s := sample(number.Draw(t, "seq"))
				require.NoError(t, l.Accept(t.Context(), s))
				if model.tasks[s.Seq] == nil {
					model.tasks[s.Seq] = &naiveTask{r: task.Record{Task: s, State: task.Queued}}
				}
				model.next = max(model.next, s.Seq+1)
			},
			"accept another body": func(t *rapid.T) {
				taken := slices.Sorted(maps.Keys(model.tasks))
				if len(taken) == 0 { // there is no number yet that somebody has
					return
				}
				s := sample(rapid.SampledFrom(taken).Draw(t, "seq"))
				s.ID = "another"
				require.ErrorIs(t, l.Accept(t.Context(), s), ErrTaken)
			},
			"dispatch": func(t *rapid.T) {
				seq := number.Draw(t, "seq")
				d := dispatched(sample(seq))
				d.ReplicaID = rapid.SampledFrom([]string{"default-0", "default-1"}).Draw(t, "replica")
				err := l.Dispatch(t.Context(), d)
				e := model.tasks[seq]
				switch {
				case e == nil:
					require.ErrorIs(t, err, ErrUnknown)
				case e.r.State.Final():
					require.ErrorIs(t, err, ErrEnded)
				default:
					require.NoError(t, err)
					if e.start == 0 {
						model.starts++
						e.start, e.r.StartedAt = model.starts, d.At
					}
					e.r.State, e.r.ReplicaID, e.r.Fingerprint = task.Running, d.ReplicaID, d.Fingerprint
				}
			},
			"checkpoint": func(t *rapid.T) {
				seq, c := number.Draw(t, "seq"), mark(rapid.IntRange(0, 50).Draw(t, "event"))
				l.Checkpoint(id(seq), c)
				settleRapid(t, l)
				if e := model.tasks[seq]; e != nil && !e.r.State.Final() && (c.Event > e.r.Checkpoint.Event || e.r.Checkpoint == task.Checkpoint{}) {
					e.r.Checkpoint = c
				}
			},
			"finish": func(t *rapid.T) {
				seq := number.Draw(t, "seq")
				state := rapid.SampledFrom([]task.State{task.Completed, task.Failed, task.StateCanceled}).Draw(t, "state")
				text := rapid.SliceOfN(rapid.String(), 0, 5).Draw(t, "tokens")
				r := ended(sample(seq), state, text...)
				r.FinishedAt = now
				err := l.Finish(t.Context(), r)
				model.next = max(model.next, seq+1)
				switch e := model.tasks[seq]; {
				case e == nil:
					require.NoError(t, err)
					model.tasks[seq] = &naiveTask{r: r}
				case !e.r.State.Final():
					require.NoError(t, err)
					r.Checkpoint = e.r.Checkpoint
					e.r = r
				case e.r.State == state && e.r.LastEventID == r.LastEventID:
					require.NoError(t, err)
				default:
					require.ErrorIs(t, err, ErrEnded)
				}
			},
			"get": func(t *rapid.T) {
				seq := number.Draw(t, "seq")
				r, ok, err := l.Get(t.Context(), id(seq))
				require.NoError(t, err)
				e := model.tasks[seq]
				require.Equal(t, e != nil, ok)
				if ok {
					require.Equal(t, e.r, r)
				}
			},
			"list": func(t *rapid.T) {
				state := rapid.SampledFrom([]task.State{"", task.Completed, task.Failed, task.Queued}).Draw(t, "state")
				limit := rapid.IntRange(0, 13).Draw(t, "limit")
				found, err := l.List(t.Context(), state, limit)
				require.NoError(t, err)
				want := model.list(state)
				require.Equal(t, append([]task.Record(nil), want[:min(limit, len(want))]...), found)
			},
			"time": func(*rapid.T) { now = now.Add(25 * time.Minute) },
			"sweep": func(t *rapid.T) {
				require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(*writer) error { return nil }, then: func() {
					for {
						if removed, err := l.w.remove(0, now.Add(-time.Hour)); err != nil || removed == 0 {
							break
						}
					}
				}}))
				for seq, e := range model.tasks {
					if e.r.State.Final() && now.Sub(e.r.FinishedAt) > time.Hour {
						delete(model.tasks, seq)
					}
				}
			},
			"close": func(t *rapid.T) {
				require.NoError(t, l.Close())
				l, err = Open(o)
				require.NoError(t, err)
			},
			"kill": func(t *rapid.T) {
				// Between two commits the files are what a killed process leaves.
				o.Path = filepath.Join(dir, fmt.Sprint(round, "-", time.Now().UnixNano()), FileName)
				require.NoError(t, os.Mkdir(filepath.Dir(o.Path), 0o700))
				for _, part := range []string{"", "-wal"} {
					data, err := os.ReadFile(l.o.Path + part)
					if errors.Is(err, os.ErrNotExist) {
						continue
					}
					require.NoError(t, err)
					require.NoError(t, os.WriteFile(o.Path+part, data, 0o600))
				}
				require.NoError(t, l.Close())
				l, err = Open(o)
				require.NoError(t, err)
			},
			"": same,
		})
	})
}

func settleRapid(t *rapid.T, l *SQLite) {
	require.NoError(t, l.submit(t.Context(), &op{kind: opAccept, run: func(*writer) error { return nil }}))
}
