// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// Whatever is done to it, and however often it is closed or copied as a kill would leave it, the ledger holds what the plain
// one in memory does.
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
		store := ledgertest.NewStore()
		model := store.Open()
		number := rapid.Uint64Range(1, 12)
		same := func(t *rapid.T) {
			want, err := model.Live(t.Context())
			require.NoError(t, err)
			left, err := l.Live(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, left)
		}
		agree := func(t *rapid.T, do func(ledger.Ledger) error) {
			want := do(model)
			require.ErrorIs(t, do(l), want)
		}
		t.Repeat(map[string]func(*rapid.T){
			"accept": func(t *rapid.T) {
				s := sample(number.Draw(t, "seq"))
				agree(t, func(l ledger.Ledger) error { return l.Accept(t.Context(), s) })
			},
			"accept another": func(t *rapid.T) {
				s := sample(number.Draw(t, "seq"))
				if _, taken, _ := model.Get(t.Context(), s.ID); taken {
					s.ID = "another"
					agree(t, func(l ledger.Ledger) error { return l.Accept(t.Context(), s) })
				}
			},
			"number": func(t *rapid.T) {
				got, err := l.NextSeq()
				require.NoError(t, err)
				_, taken, err := model.Get(t.Context(), id(got))
				require.NoError(t, err)
				require.False(t, taken)
			},
			"dispatch": func(t *rapid.T) {
				d := dispatched(sample(number.Draw(t, "seq")))
				d.ReplicaID = rapid.SampledFrom([]string{"default-0", "default-1"}).Draw(t, "replica")
				if rapid.Bool().Draw(t, "noted") {
					model.Started(d)
					l.Started(d)
					settle(t, l)
					return
				}
				agree(t, func(l ledger.Ledger) error { return l.Dispatch(t.Context(), d) })
			},
			"checkpoint": func(t *rapid.T) {
				event := rapid.IntRange(0, 50).Draw(t, "event")
				seq, c := number.Draw(t, "seq"), task.Checkpoint{Event: event, Sum: [32]byte{byte(event)}}
				model.Checkpoint(id(seq), c)
				l.Checkpoint(id(seq), c)
				settle(t, l)
			},
			"finish": func(t *rapid.T) {
				state := rapid.SampledFrom([]task.State{task.Completed, task.Failed, task.StateCanceled}).Draw(t, "state")
				text := rapid.SliceOfN(rapid.String(), 0, 5).Draw(t, "tokens")
				r := ended(sample(number.Draw(t, "seq")), state, text...)
				r.FinishedAt = now
				agree(t, func(l ledger.Ledger) error { return l.Finish(t.Context(), r) })
			},
			"get": func(t *rapid.T) {
				seq := number.Draw(t, "seq")
				want, there, err := model.Get(t.Context(), id(seq))
				require.NoError(t, err)
				r, ok, err := l.Get(t.Context(), id(seq))
				require.NoError(t, err)
				require.Equal(t, there, ok)
				require.Equal(t, want, r)
			},
			"list": func(t *rapid.T) {
				state := rapid.SampledFrom([]task.State{"", task.Completed, task.Failed, task.Queued}).Draw(t, "state")
				limit := rapid.IntRange(0, 13).Draw(t, "limit")
				want, err := model.List(t.Context(), state, limit)
				require.NoError(t, err)
				found, err := l.List(t.Context(), state, limit)
				require.NoError(t, err)
				require.Equal(t, want, found)
			},
			"time": func(*rapid.T) { now = now.Add(25 * time.Minute) },
			"sweep": func(t *rapid.T) {
				forget(t, l, now.Add(-time.Hour))
				store.Sweep(now.Add(-time.Hour))
			},
			"close": func(t *rapid.T) {
				require.NoError(t, l.Close())
				l, err = Open(o)
				require.NoError(t, err)
			},
			"kill": func(t *rapid.T) {
				o.Path = filepath.Join(dir, fmt.Sprint(round, "-", time.Now().UnixNano()), FileName)
				require.NoError(t, os.Mkdir(filepath.Dir(o.Path), 0o700))
				leave(t, l, o.Path)
				require.NoError(t, l.Close())
				l, err = Open(o)
				require.NoError(t, err)
			},
			"": same,
		})
	})
}
