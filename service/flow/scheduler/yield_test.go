// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

func (r *rig) interruptions() float64 {
	return testutil.ToFloat64(r.s.o.Metrics.yields.WithLabelValues("default"))
}

// history are the prompts in the order of their runs, and what each run went on behind.
func (r *rig) history() (order, went []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.order), slices.Clone(r.went)
}

// written is what the rig's engines answer to a prompt.
func written(prompt string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprint(&b, prompt, i, " ")
	}
	return b.String()
}

// LO-444: an interactive task does not wait for a line's end, and nothing of the line is lost.
func TestALineGivesWay(t *testing.T) {
	for _, c := range []struct {
		name   string
		change []func(*task.Task)
		went   []string
	}{
		{"strict", []func(*task.Task){ofBatch, tokens(100)}, []string{"", "", ""}},
		{"best effort", []func(*task.Task){ofBatch, tokens(100), bestEffort}, []string{"", "", written("l", 20)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, 1, nil, func(t *testing.T, r *rig) {
				r.must("l", c.change...)
				time.Sleep(205 * time.Millisecond)
				require.Zero(t, r.must("i").PredictedStart, "a line that runs is in nobody's way")
				time.Sleep(15 * time.Millisecond)
				require.Equal(t, 1, r.status("i").TokensOut)
				require.Equal(t, task.Running, r.status("l").State)
				require.Contains(t, r.read("i"), "event: end\n")
				time.Sleep(2 * time.Second)
				l := r.answer("l")
				require.Equal(t, written("l", 100), l.Transcript.Text)
				order, went := r.history()
				require.Equal(t, []string{"l", "i", "l"}, order)
				require.Equal(t, c.went, went)
				require.InDelta(t, 1, r.interruptions(), 0)
				require.InDelta(t, 0, testutil.ToFloat64(r.s.o.Metrics.failovers.WithLabelValues("default", "resumed")), 0, "no worker was lost")
				require.InDelta(t, 0, testutil.ToFloat64(r.s.o.Metrics.failovers.WithLabelValues("default", "continued")), 0)
			})
		})
	}
}

// LO-444: one line gives way for one task: the one that has written least, where the task can run.
func TestOneLineGivesWayForOneTask(t *testing.T) {
	run(t, 3, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[2].ctx = 50 })
		for _, id := range []string{"a", "b", "c"} {
			r.must(id, ofBatch, tokens(40))
			time.Sleep(50 * time.Millisecond)
		}
		r.must("i", tokens(90), func(t *task.Task) { t.PromptTokens = 3 }) // too large for the last, which has written least
		time.Sleep(45 * time.Millisecond)
		require.Equal(t, 4, r.status("i").TokensOut)
		order, _ := r.history()
		require.Equal(t, "abci", strings.Join(order, ""))
		time.Sleep(5 * time.Second)
		order, _ = r.history()
		require.Equal(t, "abcib", strings.Join(order, ""))
		require.InDelta(t, 1, r.interruptions(), 0)
		for _, id := range []string{"a", "b", "c"} {
			require.Equal(t, written(id, 40), r.answer(id).Transcript.Text)
		}
	})
}

// LO-444: behind the third time a line keeps its slot. Until then it waits behind all interactive tasks, however long that is.
func TestALineGivesWayThreeTimes(t *testing.T) {
	run(t, 1, func(p *Pool) { p.Capacity = 100 }, func(t *testing.T, r *rig) {
		r.must("l", ofBatch, tokens(100))
		for n := range yields {
			time.Sleep(105 * time.Millisecond)
			for i := range 3 {
				r.must(fmt.Sprint("i", n, i), tokens(4500)) // 45 s each: longer in all than a task waits for another replica
			}
			time.Sleep(3 * 45 * time.Second)
		}
		time.Sleep(105 * time.Millisecond)
		require.InDelta(t, yields, r.interruptions(), 0)
		require.Positive(t, r.must("late").PredictedStart)
		time.Sleep(2 * time.Second)
		order, _ := r.history()
		require.Equal(t, []string{"l", "late"}, order[len(order)-2:])
		require.Equal(t, written("l", 100), r.answer("l").Transcript.Text)
		require.InDelta(t, yields, r.interruptions(), 0)
	})
}

// LO-444: a line that is not recorded yet gives way once it is.
func TestALineThatIsNotRecordedGivesWay(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.book.hangs.Store(true)
		for id, change := range map[string]func(*task.Task){"l": ofBatch, "i": func(*task.Task) {}} {
			go func() { _, _ = r.submit(id, change, tokens(100)) }()
			synctest.Wait()
		}
		time.Sleep(50 * time.Millisecond)
		r.book.hangs.Store(false)
		time.Sleep(5 * time.Second)
		require.Equal(t, written("i", 100), r.answer("i").Transcript.Text)
		require.Equal(t, written("l", 100), r.answer("l").Transcript.Text)
	})
}

// LO-444: nothing gives way but batches' lines, and nothing makes them but interactive tasks.
func TestOnlyLinesGiveWay(t *testing.T) {
	for name, c := range map[string]struct{ runs, comes []func(*task.Task) }{
		"a task of batch priority":    {[]func(*task.Task){batch}, nil},
		"an interactive task":         {nil, nil},
		"for a task of low priority":  {[]func(*task.Task){ofBatch}, []func(*task.Task){batch}},
		"for a line of another batch": {[]func(*task.Task){ofBatch}, []func(*task.Task){ofBatch}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 1, nil, func(t *testing.T, r *rig) {
				r.must("a", append(c.runs, tokens(100))...)
				time.Sleep(100 * time.Millisecond)
				r.must("b", c.comes...)
				time.Sleep(5 * time.Second)
				order, _ := r.history()
				require.Equal(t, []string{"a", "b"}, order)
				require.InDelta(t, 0, r.interruptions(), 0)
			})
		})
	}
}

// LO-444: a line in the middle of what no engine can go on with ends with an error that a new try helps.
func TestALineThatCannotGoOnIsLost(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.set(func() { r.replicas[0].kinds = []task.EventKind{task.EventToolCall} })
		r.must("l", ofBatch, bestEffort, tokens(100), func(t *task.Task) { t.Request.Messages = []task.Message{{Role: task.RoleUser, Content: "hi"}} })
		s, err := r.s.Subscribe(t.Context(), "l", "")
		require.NoError(t, err)
		defer s.Close()
		time.Sleep(105 * time.Millisecond)
		for range 3 { // who reads it has a part of the call
			_, err := s.Next(t.Context(), nil)
			require.NoError(t, err)
			s.Written()
		}
		r.must("i")
		time.Sleep(time.Second)
		l := r.status("l")
		require.Equal(t, task.Failed, l.State)
		require.Equal(t, task.WorkerReset, l.Err.Code)
		require.Contains(t, l.Err.Message, "gave way to an interactive one")
		require.True(t, l.Err.Retriable)
	})
}
