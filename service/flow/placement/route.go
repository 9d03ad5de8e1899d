// SPDX-License-Identifier: GPL-3.0-or-later

// Package placement decides: Route picks a task's pool when it is admitted, Place picks its replica when it is dispatched.
// Both are pure functions of a snapshot: the same snapshot always gives the same answer (OC-CORE-1017).
package placement

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Pool is what Route knows of a pool.
type Pool struct {
	ID       string
	Engine   string
	ModelID  string
	Ref      string // the model's normalised ref
	Workload task.Workload
	Routes   []string // of the opaque requests that it takes
	Ctx      int      // tokens a slot's context holds
	Strict   bool     // its tasks get the same bytes again
	Profile  string   // its sampler profile
	Ready    bool
	OnDemand bool // a task loads it
	// Features are what all of its engines can do of what only some can. Of a model that is not loaded, they may be what its engine can have.
	Features []task.Feature
	// Retired: its model was. NoTemplate: its model is known to have no chat template.
	Retired, NoTemplate bool
	// Quantisation is what its weights are in, and Bits how many each has on average; empty and 0: not known.
	Quantisation string
	Bits         float64
	Standing     task.Standing // how it stands, where no replica is Ready
	Wait         time.Duration // predicted for a task queued now
	Backlog      int           // tasks that wait or run
	Home         bool          // the session's last turn ran there
}

// Routing is Route's answer. Fallback: the preferred pool could not be used.
type Routing struct {
	PoolID   string
	Pinned   bool
	Fallback bool
}

// Route picks the pool for a request, of those that hold its model and can serve it. A pool that is Ready or loads on demand goes
// before others; then the one with the shortest wait, the one where the session's last turn ran, the one with the fewest tasks,
// the one with the most bits a weight, and the first by its id. The request's model_ref is the id or the canonical ref of a pool's model. A
// pin never falls back (OC-CTRL-2013). A request that no pool can serve is refused with the reason (OC-CORE-1016).
func Route(pools []Pool, req task.Request) (Routing, error) {
	holding := withModel(pools, req.ModelRef)
	if len(holding) == 0 {
		return Routing{}, task.Errorf(task.ModelNotFound, "no pool serves the model %.80q: %s", req.ModelRef, known(pools))
	}
	holding = slices.DeleteFunc(holding, func(p Pool) bool { return p.Retired })
	if len(holding) == 0 {
		return Routing{}, task.Errorf(task.ModelDeprecated, "the model %.80q was retired, and takes no new tasks: %s", req.ModelRef, known(pools))
	}
	if req.Placement.Mode == task.Pin {
		return pin(pools, holding, req)
	}
	var fit []Pool
	var why []string
	for _, p := range holding {
		if slices.Contains(req.Placement.Avoid, p.ID) {
			why = append(why, "pool '"+p.ID+"' is to be avoided")
		} else if reason := misfit(p, req); reason != "" {
			why = append(why, reason)
		} else {
			fit = append(fit, p)
		}
	}
	if len(fit) == 0 {
		return Routing{}, task.Errorf(task.InvalidParams, "no pool can serve this task: %s", strings.Join(why, "; "))
	}
	best := slices.MinFunc(fit, func(a, b Pool) int {
		return cmp.Or(trueFirst(a.serves(), b.serves()), cmp.Compare(a.Wait, b.Wait), trueFirst(a.Home, b.Home), cmp.Compare(a.Backlog, b.Backlog), cmp.Compare(b.Bits, a.Bits), cmp.Compare(a.ID, b.ID))
	})
	if req.Placement.Mode != task.Prefer {
		return Routing{PoolID: best.ID}, nil
	}
	for _, p := range fit {
		if p.ID == req.Placement.PoolID && p.serves() {
			return Routing{PoolID: p.ID}, nil
		}
	}
	return Routing{PoolID: best.ID, Fallback: best.ID != req.Placement.PoolID}, nil
}

func pin(pools, holding []Pool, req task.Request) (Routing, error) {
	id := req.Placement.PoolID
	at := slices.IndexFunc(pools, func(p Pool) bool { return p.ID == id })
	if at < 0 {
		return Routing{}, task.Errorf(task.NotFound,
			"the task is pinned to pool %.80q, which does not exist: pin it to one of %s, or leave the mode at auto", id, ids(pools))
	}
	if slices.Contains(req.Placement.Avoid, id) {
		return Routing{}, task.Errorf(task.InvalidParams, "the task is pinned to pool '%s' and is to avoid it: leave one of the two out", id)
	}
	if pools[at].Retired {
		return Routing{}, task.Errorf(task.ModelDeprecated,
			"the task is pinned to pool '%s', whose model was retired: leave the mode at auto, or activate the model again", id)
	}
	if !slices.ContainsFunc(holding, func(p Pool) bool { return p.ID == id }) {
		return Routing{}, task.Errorf(task.InvalidParams,
			"the task is pinned to pool '%s', which serves '%s', not %.80q", id, pools[at].ModelID, req.ModelRef)
	}
	if reason := misfit(pools[at], req); reason != "" {
		return Routing{}, task.Errorf(task.InvalidParams, "the task is pinned, and %s", reason)
	}
	if !pools[at].serves() {
		return Routing{}, pools[at].Refusal()
	}
	return Routing{PoolID: id, Pinned: true}, nil
}

// serves reports whether a task for the pool can be run, if need be once its model is loaded.
func (p Pool) serves() bool { return p.Ready || p.OnDemand && p.Standing.State != task.PoolFailed }

// Takes reports whether one of the pool's routes is for a path: it is that path, or ends with /* and stands for all below.
func (p Pool) Takes(path string) bool { return Takes(p.Routes, path) }

// Takes is the same of routes alone.
func Takes(routes []string, path string) bool {
	return slices.ContainsFunc(routes, func(route string) bool {
		below, all := strings.CutSuffix(route, "*")
		return route == path || all && strings.HasPrefix(path, below)
	})
}

// Refusal says why the pool takes no task now, or returns nil where it takes one.
func (p Pool) Refusal() error {
	if p.serves() {
		return nil
	}
	return p.Standing.Refusal(p.ID, p.Engine)
}

// withModel finds the pools for a model_ref: by model id, else by canonical ref; nothing else.
func withModel(pools []Pool, ref string) []Pool {
	var byID, byRef []Pool
	for _, p := range pools {
		if p.ModelID == ref {
			byID = append(byID, p)
		}
		if p.Ref == ref {
			byRef = append(byRef, p)
		}
	}
	if len(byID) > 0 {
		return byID
	}
	return byRef
}

// misfit says why a pool cannot serve a request, or nothing.
func misfit(p Pool, req task.Request) string {
	pool := "pool '" + p.ID + "' "
	switch {
	case req.Workload == task.Opaque && !p.Takes(req.Path):
		return pool + "takes no requests for " + task.Clip(req.Path, 100)
	case p.Workload != req.Workload:
		return pool + "serves " + string(p.Workload) + " tasks, not " + string(req.Workload)
	case req.Engine != "" && req.Engine != p.Engine:
		return pool + "runs the engine " + p.Engine
	case req.SamplerProfile != "" && req.SamplerProfile != p.Profile:
		return pool + "uses the sampler profile " + p.Profile
	case req.Ctx > 0 && p.Ctx == 0 && !p.OnDemand: // of a model that is not loaded it may be unknown
		return pool + "does not tell its context: set `ctx` in its configuration"
	case req.Ctx > p.Ctx && p.Ctx > 0:
		return pool + "has a context of " + strconv.Itoa(p.Ctx) + " tokens, fewer than the " + strconv.Itoa(req.Ctx) + " asked for"
	case req.Quantisation != "" && !strings.HasPrefix(strings.ToLower(p.Quantisation), strings.ToLower(req.Quantisation)):
		return pool + "has weights in " + cmp.Or(p.Quantisation, "something unknown") + ", not in " + req.Quantisation
	case len(req.Messages) > 0 && p.NoTemplate:
		return pool + "has a model without a chat template: send a prompt"
	case task.Missing(req.Needs(), p.Features) != "":
		return pool + task.Missing(req.Needs(), p.Features)
	case req.Determinism == task.Strict && !p.Strict:
		return pool + "computes several tasks at once, or is of an engine that does not promise the same bytes again, and strict determinism needs one slot of an engine that does: leave `determinism` out or ask for best_effort"
	}
	return ""
}

func known(pools []Pool) string {
	var models []string
	for _, p := range pools {
		if !p.Retired && !slices.Contains(models, p.ModelID) {
			models = append(models, p.ModelID)
		}
	}
	if len(models) == 0 {
		return "there is no other"
	}
	slices.Sort(models)
	return "use one of " + strings.Join(models, ", ")
}

func ids(pools []Pool) string {
	names := make([]string, len(pools))
	for i, p := range pools {
		names[i] = p.ID
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
