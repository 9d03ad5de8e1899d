// SPDX-License-Identifier: GPL-3.0-or-later

package placement

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-502, LO-203
func TestExplain(t *testing.T) {
	replicas := func(list ...Replica) func(string) []Replica { return func(string) []Replica { return list } }
	ready := func(id string, free int64, active int) Replica {
		return Replica{ID: id, State: "ready", Ready: true, Slots: 2, Active: active, FreeVRAM: free}
	}
	others := func(r Replica, n int) Replica {
		r.Others = n
		return r
	}
	for name, c := range map[string]struct {
		change   func(*task.Request, []Pool)
		replicas func(string) []Replica
		pool, id string
		says     []string // pool/replica: reason
	}{
		"most free VRAM": {func(*task.Request, []Pool) {}, replicas(ready("a", 8e9, 0), ready("b", 12e9, 1)), "big", "b", []string{
			"small/: a task would wait 2s, and 1s in pool 'big'", "big/a: it has 8.0 GB of free VRAM, and b has 12.0 GB", "big/b: it has the most free VRAM: 12.0 GB",
		}},
		"others' requests": {func(*task.Request, []Pool) {}, replicas(others(ready("a", 8e9, 0), 3), ready("b", 8e9, 1)), "big", "b", []string{
			"big/a: it has 0 active tasks and 3 requests of others, and b has 1 active tasks", "big/b: of those with the most free VRAM its engine has the least to do: 1 active tasks",
		}},
		"fewest active": {func(*task.Request, []Pool) {}, replicas(ready("a", 8e9, 1), ready("b", 8e9, 0)), "big", "b", []string{
			"big/a: it has 1 active tasks, and b has 0 active tasks", "big/b: of those with the most free VRAM its engine has the least to do: 0 active tasks",
		}},
		"by id": {func(*task.Request, []Pool) {}, replicas(ready("b", 8e9, 0), ready("a", 8e9, 0)), "big", "a", []string{
			"big/b: all else equal, a is first by its id", "big/a: all else equal, it is first by its id",
		}},
		"the only one": {func(*task.Request, []Pool) {}, replicas(ready("a", 8e9, 2), Replica{ID: "b", State: "loading"}, ready("c", 1e9, 1)), "big", "c", []string{
			"big/a: all of its 2 slots are busy", "big/b: it is not Ready but loading", "big/c: it is the only one that can take the task now",
		}},
		"in doubt": {func(*task.Request, []Pool) {}, replicas(Replica{ID: "a", State: "ready", Ready: true, Slots: 2, InDoubt: true}, ready("b", 1e9, 1)), "big", "b", []string{
			"big/a: its engine broke off a task, and gets none before it has answered again", "big/b: it is the only one that can take the task now",
		}},
		"pinned": {pinTo("small"), replicas(ready("a", 0, 0)), "small", "", []string{
			"big/: the request asks for pool 'small'", "small/a: its engine has several slots, and strict determinism needs one",
		}},
		"nothing fits": {func(r *task.Request, _ []Pool) { r.Ctx, r.Placement.Avoid = 9000, []string{"small"} }, replicas(), "", "", []string{
			"big/: pool 'big' has a context of 4096 tokens, fewer than the 9000 asked for", "small/: it is to be avoided",
		}},
		"on demand": {func(_ *task.Request, p []Pool) { p[0].Ready, p[0].OnDemand = false, true }, replicas(Replica{ID: "a", State: "stopped"}), "big", "", []string{
			"big/a: it is not Ready but stopped", "big/: its model is not loaded: the task would load it, and wait for that",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			req, p := request(), pools()
			c.change(&req, p)
			got, err := Explain(p, c.replicas, req, "")
			require.NoError(t, err)
			require.Equal(t, c.pool, got.PoolID)
			require.Equal(t, c.id, got.ReplicaID)
			var said []string
			for _, v := range got.Verdicts {
				require.Equal(t, v.ReplicaID != "" && v.ReplicaID == c.id, v.Chosen)
				said = append(said, v.PoolID+"/"+v.ReplicaID+": "+strings.Join(v.Reasons, "; "))
			}
			for _, want := range c.says {
				require.Contains(t, strings.Join(said, "\n"), want)
			}
		})
	}
	_, err := Explain(pools(), replicas(), task.Request{ModelRef: "gpt"}, "")
	require.True(t, task.HasCode(err, task.ModelNotFound))
}

// LO-502, LO-842: the dry run decides what Route and Place decide, and gives everyone a reason.
func TestPropertyExplainDecidesAsPlacementDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := pools()
		for i := range p {
			p[i].Ready, p[i].OnDemand = rapid.Bool().Draw(t, "ready"), rapid.Bool().Draw(t, "on demand")
			p[i].Wait = time.Duration(rapid.IntRange(0, 2).Draw(t, "wait")) * time.Second
		}
		var list []Replica
		for i := range rapid.IntRange(0, 5).Draw(t, "n") {
			list = append(list, Replica{
				ID: string(rune('a' + i)), State: "ready", Ready: rapid.Bool().Draw(t, "ready"), Slots: 2, Active: rapid.IntRange(0, 2).Draw(t, "active"),
				Strict: rapid.Bool().Draw(t, "strict"), FreeVRAM: rapid.Int64Range(0, 2).Draw(t, "free"),
			})
		}
		req := request()
		req.Determinism = rapid.SampledFrom([]task.Determinism{task.Strict, task.BestEffort}).Draw(t, "determinism")
		got, err := Explain(p, func(string) []Replica { return list }, req, "")
		require.NoError(t, err)
		routing, err := Route(p, req)
		if err != nil {
			require.Empty(t, got.PoolID)
			return
		}
		if at := slices.IndexFunc(p, func(p Pool) bool { return p.ID == routing.PoolID }); p[at].Refusal() != nil {
			require.Empty(t, got.PoolID, "admission refuses it (LO-842)")
			return
		}
		require.Equal(t, routing.PoolID, got.PoolID)
		at, _ := Place(list, Need{Strict: req.Determinism == task.Strict})
		if at >= 0 {
			require.Equal(t, list[at].ID, got.ReplicaID)
		} else {
			require.Empty(t, got.ReplicaID)
		}
		for _, v := range got.Verdicts {
			require.NotEmpty(t, v.Reasons, v)
		}
	})
}

// LO-502, LO-501
func TestASmallContextIsAReason(t *testing.T) {
	pools := []Pool{{ID: "a", ModelID: "m", Workload: task.Completion, Ctx: 8192, Strict: true, Ready: true}}
	list := []Replica{{ID: "a-0", Ready: true, Slots: 1, Strict: true, Ctx: 4096}, {ID: "a-1", Ready: true, Slots: 1, Strict: true, Ctx: 8192}}
	e, err := Explain(pools, func(string) []Replica { return list }, task.Request{ModelRef: "m", Workload: task.Completion, Ctx: 5000}, "")
	require.NoError(t, err)
	require.Equal(t, "a-1", e.ReplicaID)
	require.Equal(t, []string{"its context of 4096 tokens is smaller than the 5000 asked for"}, e.Verdicts[0].Reasons)
}
