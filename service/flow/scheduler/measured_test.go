// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// restarted is a start that keeps what it measures in a file, which an earlier one may have left.
func restarted(t *testing.T, file string, change func(r *rig)) *rig {
	t.Helper()
	r := newUnstartedRig(t, &book{records: map[string]task.Record{}}, 1, nil)
	t.Cleanup(r.stop)
	if change != nil {
		change(r)
	}
	r.s.o.MeasuredFile = file
	r.s.recall()
	require.NoError(t, r.s.Start(t.Context()))
	return r
}

// second predicts the start of a second task, b, behind one that has the only slot.
func second(r *rig) time.Duration {
	r.must("a")
	synctest.Wait()
	return r.must("b").PredictedStart
}

// ORCH-2001: the first task after a restart is told what was measured before it.
func TestWhatWasMeasuredHoldsOverARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rates.json")
	synctest.Test(t, func(t *testing.T) {
		r := restarted(t, file, nil)
		require.Zero(t, second(r), "nothing was measured yet")
		r.read("b") // 10 tokens at 10 ms
		r.stop()

		r = restarted(t, file, nil)
		require.Equal(t, 100*time.Millisecond, second(r))
		r.stop()

		r = restarted(t, file, func(r *rig) { r.replicas[0].ready = false })
		r.must("a")
		require.Equal(t, 100*time.Millisecond, r.must("b").PredictedStart, "no replica is met yet")
		r.stop()
		require.Contains(t, text(t, file), `"default-0"`, "what was not met is kept on")
	})
}

// ORCH-2001: what was measured of another model counts for nothing.
func TestWhatWasMeasuredOfAnotherModelIsForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rates.json")
	synctest.Test(t, func(t *testing.T) {
		r := restarted(t, file, nil)
		r.must("w")
		r.read("w")
		r.stop()

		r = restarted(t, file, func(r *rig) { r.replicas[0].build, r.replicas[0].every = "2", 30*time.Millisecond })
		require.Zero(t, second(r))
		r.read("b")
		require.Equal(t, 300*time.Millisecond, r.s.lane("default").rates.perTask())
		r.stop()
		require.NotContains(t, text(t, file), `"decode": 0.01`)

		r = restarted(t, file, func(r *rig) { r.replicas[0].build = "2" })
		require.Equal(t, 300*time.Millisecond, second(r))
		r.stop()
	})
}

// ORCH-2001: a process that is killed has written what it measured until half a minute ago. A file that is as it was is not written again.
func TestWhatIsMeasuredIsWrittenNowAndThen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rates.json")
	synctest.Test(t, func(t *testing.T) {
		r := restarted(t, file, nil)
		time.Sleep(measuredEvery + time.Second)
		require.NoFileExists(t, file, "nothing was measured")
		r.must("w")
		r.read("w")
		time.Sleep(measuredEvery)
		synctest.Wait()
		var kept measuredFile
		require.NoError(t, json.Unmarshal([]byte(text(t, file)), &kept))
		require.InDelta(t, 0.1, kept.Pools["default"].Task, 1e-9)
		require.InDelta(t, 10, kept.Pools["default"].Answer, 1e-9)
		require.InDelta(t, 0.01, kept.Pools["default"].Replicas["default-0"].Decode, 1e-9)
		require.NoError(t, os.Remove(file))
		time.Sleep(3 * measuredEvery)
		synctest.Wait()
		require.NoFileExists(t, file)
		r.stop()
	})
}

// ORCH-2001: a replica that has another model is measured anew, also without a restart.
func TestAReplicaWithAnotherModelIsMeasuredAnew(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("old")
		r.read("old")
		r.set(func() { r.replicas[0].build, r.replicas[0].every = "2", 30*time.Millisecond })
		r.must("new")
		r.read("new")
		p := r.s.lane("default").rates.measured().Replicas["default-0"]
		require.InDelta(t, 0.03, p.Decode, 1e-9, "the newest alone, and no mean with the other model's")
	})
}

// ORCH-2001: figures that make no sense are not predicted from.
func TestFiguresThatMakeNoSenseAreRefused(t *testing.T) {
	good := measuredPool{Task: 1, Answer: 2, Replicas: map[string]measuredPace{"r": {Prefill: 1, Decode: 1}}}
	file := func(change func(p *measuredPool)) measuredFile {
		p := good
		p.Replicas = map[string]measuredPace{"r": good.Replicas["r"]}
		change(&p)
		return measuredFile{measuredVersion, map[string]measuredPool{"p": p}}
	}
	require.NoError(t, file(func(*measuredPool) {}).check())
	for _, change := range []func(p *measuredPool){
		func(p *measuredPool) { p.Task = -1 },
		func(p *measuredPool) { p.Answer = math.NaN() },
		func(p *measuredPool) { p.Replicas["r"] = measuredPace{Decode: math.Inf(1)} },
		func(p *measuredPool) { p.Replicas["r"] = measuredPace{Prefill: 1e12} },
	} {
		require.ErrorContains(t, file(change).check(), "pool 'p' makes no sense")
	}
	require.ErrorContains(t, measuredFile{Version: 2}.check(), "version 2")
}

func text(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(data)
}

// ORCH-2001: the self-test's short answers are nobody's typical task, but show how fast a replica is.
func TestTheSelfTestMeasuresThePaceAlone(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		r.must("s", func(t *task.Task) { t.Request.Actor = task.SelfTester })
		r.read("s")
		p := r.s.lane("default").rates.measured()
		require.Zero(t, p.Task)
		require.Zero(t, p.Answer)
		require.InDelta(t, 0.01, p.Replicas["default-0"].Decode, 1e-9)
	})
}
