// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// whole is what the rig's engines answer a best-effort task of ten tokens.
const whole = "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 "

// answer is the record of a task that completed.
func (r *rig) answer(id string) task.Record {
	r.t.Helper()
	synctest.Wait()
	record, ok, err := r.book.Get(r.t.Context(), id)
	require.NoError(r.t, err)
	require.True(r.t, ok)
	require.NotNil(r.t, record.End, "%v", record.Err)
	require.Equal(r.t, record.Transcript.Digest(), record.End.Receipt.TranscriptSHA256)
	return record
}

// LO-209: another replica, of whatever fingerprint, goes on behind what was sent, and whoever reads gets one stream.
func TestABestEffortTaskGoesOn(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		r.set(func() {
			r.replicas[0].dies, r.replicas[1].dies, r.replicas[2].build = 4, 2, "x"
		})
		r.must("a", bestEffort)
		got := r.read("a")
		require.Equal(t, 10, strings.Count(got, "event: token\n"))
		require.Contains(t, got, `"continued_at":[5,7]`)
		a := r.answer("a")
		require.Equal(t, whole, a.Transcript.Text)
		require.Equal(t, []int{5, 7}, a.End.Receipt.ContinuedAt)
		require.Equal(t, "fpx", a.End.Receipt.Fingerprint)
		require.Equal(t, task.BestEffort, a.End.Receipt.Determinism)
		require.Equal(t, 10, a.End.TokensOut)
		require.Equal(t, int64(60), a.End.DecodeTimeMS, "what the runs that broke off decoded: 4 tokens and 2")
		require.Equal(t, []string{"", "a0 a1 a2 a3 ", "a0 a1 a2 a3 a4 a5 "}, r.went)
		require.InDelta(t, 1, testutil.ToFloat64(r.s.o.Metrics.failovers.WithLabelValues("default", "continued")), 0)
	})
}

// LO-209, LO-430: what a client was told that asks now and then is not taken back, and neither is an event that it could resume behind.
func TestWhatWasToldIsNotTakenBack(t *testing.T) {
	for _, told := range []bool{false, true} {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			r.set(func() {
				r.replicas[0].dies = 4
				r.replicas[0].starts, r.replicas[1].starts = true, true
				r.replicas[1].says = "other "
			})
			r.must("a", bestEffort)
			time.Sleep(35 * time.Millisecond)
			seen := r.status("a")
			require.Equal(t, 3, seen.TokensOut)
			if told {
				record, _, err := r.s.Record(t.Context(), "a")
				require.NoError(t, err)
				require.Equal(t, "a0 a1 a2 ", record.Transcript.Text)
				require.Regexp(t, "^3-", r.status("a").LastEventID)
			}
			time.Sleep(time.Second)
			record, _, err := r.s.Record(t.Context(), "a")
			require.NoError(t, err)
			if told {
				require.Equal(t, "a0 a1 a2 a3 ", record.Transcript.Text)
				require.Equal(t, task.WorkerReset, record.Err.Code)
			} else {
				require.Equal(t, task.Completed, record.State)
				require.Equal(t, 10, strings.Count(r.readAfter("a", seen.LastEventID), "event: token\n"), seen.LastEventID)
			}
		})
	}
}

// ORCH-2001: a run that goes on reads more than the prompt and answers less than the task, so nothing is measured by it.
func TestARunThatGoesOnIsNoMeasure(t *testing.T) {
	run(t, 2, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].dies = 4 })
		r.must("a", bestEffort)
		r.read("a")
		require.Equal(t, whole, r.answer("a").Transcript.Text)
		rates := &r.s.lane("default").rates
		require.Empty(t, rates.runs)
		require.Equal(t, []mean{{}, {}}, []mean{rates.service, rates.answer})
		require.Empty(t, rates.replicas)
		r.must("b", bestEffort)
		r.read("b")
		require.InDelta(t, 10, rates.answer.value, 0)
	})
}

// LO-209, LO-839: a run that broke off because this process lacked something has decoded until then, and not while it waited.
func TestAWaitIsNoDecoding(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.replicas[0].fail = task.Errorf(task.WorkerReset, "no descriptors").Because(syscall.EMFILE).Retry(0)
		r.onMove = func(string) { r.replicas[0].fail = nil }
		r.must("a", bestEffort)
		r.read("a")
		a := r.answer("a")
		require.Equal(t, []int{3}, a.End.Receipt.ContinuedAt)
		require.Equal(t, int64(20), a.End.DecodeTimeMS)
	})
}

// LO-209: three runs, and a minute for a replica.
func TestABestEffortTaskHasThreeRuns(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		r.set(func() {
			for _, x := range r.replicas {
				x.dies = 2
			}
		})
		r.must("a", bestEffort)
		got := r.read("a")
		require.Equal(t, 6, strings.Count(got, "event: token\n"))
		require.Contains(t, got, `"code":"WORKER_RESET"`)
		require.Contains(t, got, "so were the workers that tried it again")
		require.InDelta(t, 1, testutil.ToFloat64(r.s.o.Metrics.failovers.WithLabelValues("default", "exhausted")), 0)
	})
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].dies = 2 })
		r.must("a", bestEffort)
		s, err := r.s.Subscribe(t.Context(), "a", "")
		require.NoError(t, err)
		defer s.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		m, ok := s.Metrics()
		require.True(t, ok)
		require.Equal(t, task.PhaseMoving, m.Phase)
		require.Equal(t, 0, m.Failover)
		began := time.Now()
		require.Contains(t, r.read("a"), "no replica that can go on with it was ready in time")
		require.InDelta(t, time.Minute, time.Since(began), float64(2*time.Second))
	})
}

// LO-209: where an engine cannot go on, the task is decoded anew, unless somebody has a token of it.
func TestWhatCannotGoOn(t *testing.T) {
	starts := func(r *rig) {
		r.set(func() {
			r.replicas[0].dies = 4
			r.replicas[0].starts, r.replicas[1].starts = true, true
			r.replicas[1].says = "other "
		})
	}
	const other = "other a0 other a1 other a2 other a3 other a4 other a5 other a6 other a7 other a8 other a9 "
	t.Run("and was not read", func(t *testing.T) {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			starts(r)
			r.must("a", bestEffort)
			time.Sleep(time.Second)
			a := r.answer("a")
			require.Equal(t, other, a.Transcript.Text)
			require.Empty(t, a.End.Receipt.ContinuedAt)
			require.Equal(t, []string{"", ""}, r.went)
			require.Equal(t, 10, strings.Count(r.read("a"), "event: token\n"))
			require.InDelta(t, 1, testutil.ToFloat64(r.s.o.Metrics.failovers.WithLabelValues("default", "resumed")), 0)
		})
	})
	t.Run("and is read at its end", func(t *testing.T) {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			starts(r)
			r.must("a", bestEffort)
			s, err := r.s.Subscribe(t.Context(), "a", "")
			require.NoError(t, err)
			defer s.Close()
			s.AtEnd()
			e, news, err := s.NextEvents(t.Context(), nil)
			require.NoError(t, err)
			require.True(t, news)
			require.True(t, e.Ended())
			require.Equal(t, other, e.Transcript().Text)
			s.Written()
			_, _, err = s.NextEvents(t.Context(), nil)
			require.ErrorIs(t, err, io.EOF)
		})
	})
	t.Run("and was read", func(t *testing.T) {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			starts(r)
			r.must("a", bestEffort)
			got := r.read("a")
			require.Equal(t, 4, strings.Count(got, "event: token\n"))
			require.Contains(t, got, `"code":"WORKER_RESET"`)
			require.Contains(t, got, "no other one can go on in the middle of this answer")
			require.Contains(t, got, `"retriable":true`)
		})
	})
	t.Run("since it was a call", func(t *testing.T) {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			r.set(func() {
				r.replicas[0].dies, r.replicas[0].kinds = 2, []task.EventKind{task.EventText, task.EventToolCall}
			})
			r.must("a", bestEffort, func(t *task.Task) { t.Request.Messages = []task.Message{{Role: task.RoleUser, Content: "hi"}} })
			require.Contains(t, r.read("a"), `"code":"WORKER_RESET"`)
		})
	})
	t.Run("since its worker's files changed", func(t *testing.T) {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			r.set(func() {
				r.replicas[0].dies, r.replicas[0].changed = 2, task.Errorf(task.WorkerReset, "cut").Because(errors.New("short"))
			})
			r.must("a", bestEffort)
			require.Contains(t, r.read("a"), `"code":"WORKER_RESET"`)
		})
	})
	t.Run("before its first token", func(t *testing.T) {
		run(t, 2, nil, func(t *testing.T, r *rig) {
			r.set(func() { r.replicas[0].dies = -1 })
			r.must("a", bestEffort)
			require.Equal(t, 10, strings.Count(r.read("a"), "event: token\n"))
			require.Empty(t, r.answer("a").End.Receipt.ContinuedAt)
		})
	})
}
