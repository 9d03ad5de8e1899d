// SPDX-License-Identifier: GPL-3.0-or-later

package placement

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// OC-CTRL-2013: a pin to what is to be avoided is a contradiction, and no pool is taken for it.
func TestAPinToAnAvoidedPoolIsRefused(t *testing.T) {
	req := request()
	req.Placement = task.Placement{Mode: task.Pin, PoolID: "small", Avoid: []string{"small"}}
	_, err := Route(pools(), req)
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "is to avoid it")
	req.Placement.Avoid = []string{"big"}
	got, err := Route(pools(), req)
	require.NoError(t, err)
	require.Equal(t, Routing{PoolID: "small", Pinned: true}, got)
}

// OC-CTRL-2013, OC-CORE-1016: a pin does not make a pool serve what it cannot.
func TestAPinToAPoolThatDoesNotFitIsRefused(t *testing.T) {
	req := request()
	req.Ctx = 2000
	req.Placement = task.Placement{Mode: task.Pin, PoolID: "small"}
	_, err := Route(pools(), req)
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "the task is pinned, and pool 'small' has a context of 1024 tokens")
}

// OC-CORE-1016: each thing that is asked for is held against the pool, up to its bound and no further.
func TestMisfit(t *testing.T) {
	pool := Pool{ID: "p", Engine: "vllm", Workload: task.Completion, Profile: "v1", Ctx: 100, Strict: true, Ready: true}
	for name, c := range map[string]struct {
		change func(*Pool, *task.Request)
		says   string
	}{
		"nothing is asked for":           {func(*Pool, *task.Request) {}, ""},
		"all that it has":                {func(_ *Pool, r *task.Request) { r.Engine, r.SamplerProfile, r.Ctx = "vllm", "v1", 100 }, ""},
		"one token more":                 {func(_ *Pool, r *task.Request) { r.Ctx = 101 }, "has a context of 100 tokens"},
		"its context is not known yet":   {func(p *Pool, r *task.Request) { p.Ctx, p.OnDemand, r.Ctx = 0, true, 101 }, ""},
		"a context of one token":         {func(p *Pool, r *task.Request) { p.Ctx, r.Ctx = 1, 2 }, "has a context of 1 tokens"},
		"one token of it, and none told": {func(p *Pool, r *task.Request) { p.Ctx, r.Ctx = 0, 1 }, "does not tell its context"},
		"a path below a route":           {opaque("/v1/audio/*", "/v1/audio/speech"), ""},
		"a path that is a route":         {opaque("/v1/audio", "/v1/audio"), ""},
		"a path below none":              {opaque("/v1/audio/*", "/v1/images"), "takes no requests for /v1/images"},
		"a path longer than a route":     {opaque("/v1/audio", "/v1/audio/speech"), "takes no requests for /v1/audio/speech"},
		"strict":                         {func(_ *Pool, r *task.Request) { r.Determinism = task.Strict }, ""},
		"strict of many slots":           {func(p *Pool, r *task.Request) { p.Strict, r.Determinism = false, task.Strict }, "computes several tasks at once"},
	} {
		t.Run(name, func(t *testing.T) {
			p, r := pool, task.Request{Workload: task.Completion}
			c.change(&p, &r)
			if got := misfit(p, r); c.says == "" {
				require.Empty(t, got)
			} else {
				require.Contains(t, got, c.says)
			}
		})
	}
}

func opaque(route, path string) func(*Pool, *task.Request) {
	return func(p *Pool, r *task.Request) {
		p.Workload, p.Routes, r.Workload, r.Path = task.Opaque, []string{route}, task.Opaque, path
	}
}

// LO-501: it can run the task, whether a slot of it is free or not.
func TestSuited(t *testing.T) {
	list := []Replica{{ID: "small", Ready: true, Slots: 1, Active: 1, Ctx: 100}, {ID: "large", Ready: true, Slots: 1, Ctx: 200}}
	require.True(t, Suited(list, Need{Ctx: 100}, "small"))
	require.False(t, Suited(list, Need{Ctx: 150}, "small"))
	require.True(t, Suited(list, Need{Ctx: 150}, "large"))
	require.True(t, Suited(list, Need{Ctx: 300}, "large"), "nobody holds it, so its engine says so")
	require.False(t, Suited(list, Need{}, "gone"))
}

// ORCH-3046, LO-203: bytes go on only on a replica that makes the same ones.
func TestAnotherFingerprintContinuesNothing(t *testing.T) {
	list := []Replica{{ID: "a", Ready: true, Slots: 1, FreeVRAM: 9, Fingerprint: "build 1"}, {ID: "b", Ready: true, Slots: 1, Fingerprint: "build 2"}}
	at, considered := Place(list, Need{Fingerprint: "build 2"})
	require.Equal(t, 1, at)
	require.Equal(t, 1, considered)
	at, _ = Place(list, Need{Fingerprint: "build 3"})
	require.Equal(t, -1, at)
	at, considered = Place(list, Need{})
	require.Zero(t, at)
	require.Equal(t, 2, considered)
}

// LO-502: a pool that was not chosen is told why, each time with the figure that decided.
func TestWhyAnotherPoolWasChosen(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*task.Request, []Pool)
		says   string
	}{
		"retired":        {func(_ *task.Request, p []Pool) { p[1].Retired = true }, "small: its model was retired"},
		"not in service": {func(_ *task.Request, p []Pool) { p[1].Ready = false }, "small: " + task.AsError(Pool{ID: "small", Engine: "llamacpp"}.Refusal()).Message},
		"home":           {func(_ *task.Request, p []Pool) { p[1].Wait, p[0].Home, p[1].Backlog = p[0].Wait, true, 1 }, "small: the session's last turn ran in pool 'big'"},
		"home of both": {func(_ *task.Request, p []Pool) {
			p[1].Wait, p[0].Home, p[1].Home, p[1].Backlog = p[0].Wait, true, true, 1
		}, "small: it has 1 tasks, and pool 'big' 0"},
		"no home":      {func(_ *task.Request, p []Pool) { p[1].Wait, p[1].Backlog = p[0].Wait, 1 }, "small: it has 1 tasks, and pool 'big' 0"},
		"equal bits":   {func(_ *task.Request, p []Pool) { p[1].Wait, p[0].Bits, p[1].Bits = p[0].Wait, 4, 4 }, "small: all else equal, pool 'big' is first by its id"},
		"unknown bits": {func(_ *task.Request, p []Pool) { p[1].Wait, p[0].Bits = p[0].Wait, 4 }, "small: all else equal, pool 'big' is first by its id"},
		"one bit":      {func(_ *task.Request, p []Pool) { p[1].Wait, p[0].Bits, p[1].Bits = p[0].Wait, 4, 1 }, "which has more bits a weight"},
		"preferred, but another is taken": {func(r *task.Request, p []Pool) { prefer("small")(r, p); p[1].Ready = false }, "small: " +
			task.AsError(Pool{ID: "small", Engine: "llamacpp"}.Refusal()).Message},
	} {
		t.Run(name, func(t *testing.T) {
			req, p := request(), pools()
			c.change(&req, p)
			got, err := Explain(p, func(string) []Replica { return nil }, req, "")
			require.NoError(t, err)
			require.Equal(t, "big", got.PoolID)
			require.Contains(t, got.Verdicts[0].PoolID+": "+strings.Join(got.Verdicts[0].Reasons, "; "), c.says)
		})
	}
}

// LO-502: where no replica takes the task, the last verdict is about the pool itself.
func TestAPoolWithoutAReplicaForTheTaskSaysSo(t *testing.T) {
	last := func(p []Pool, list ...Replica) Verdict {
		got, err := Explain(p, func(string) []Replica { return list }, request(), "")
		require.NoError(t, err)
		return got.Verdicts[len(got.Verdicts)-1]
	}
	full, free := Replica{ID: "a", State: "ready", Ready: true, Slots: 1, Active: 1}, Replica{ID: "a", State: "ready", Ready: true, Slots: 1}
	require.Equal(t, []string{"no engine has registered with it"}, last(pools()).Reasons)
	require.Equal(t, []string{"all of its 1 slots are busy"}, last(pools(), full).Reasons, "it is Ready: nothing is to be loaded")
	unloaded := pools()
	unloaded[0].Ready, unloaded[0].OnDemand = false, true
	require.Equal(t, []string{"it is the only one that can take the task now"}, last(unloaded, free).Reasons)
	require.Empty(t, last(unloaded, Replica{ID: "a", State: "stopped"}).ReplicaID)
	unloaded[0].Standing.State = task.PoolFetching
	require.Equal(t, []string{"its model is fetching: the task would wait for that"}, last(unloaded).Reasons)
}

// LO-502: a replica that is away has that reason alone.
func TestAReplicaThatIsAwayHasOneReason(t *testing.T) {
	away := Replica{State: "loading", Slots: 1, Active: 1, InDoubt: true, Ctx: 10}
	require.Equal(t, []string{"it is not Ready but loading"}, away.against(Need{Strict: true, Ctx: 20}))
	many := Replica{Ready: true, Slots: 2}
	require.Empty(t, many.against(Need{}))
	require.Equal(t, "0 active tasks and 1 requests of others", (&Replica{Others: 1}).load())
}
