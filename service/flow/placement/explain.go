// SPDX-License-Identifier: GPL-3.0-or-later

package placement

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Verdict says why a replica was chosen or was not (LO-502). Without a replica it is about the whole pool.
type Verdict struct {
	PoolID, ReplicaID string
	Chosen            bool
	Reasons           []string
	Active            int
	FreeVRAM          int64
}

// Explanation is a dry run's answer. PoolID is empty where no pool can serve the request, or where the one that would is not in
// service, so that admission would refuse it. ReplicaID is empty where none of the
// pool's replicas can take it now.
type Explanation struct {
	PoolID, ReplicaID string
	Verdicts          []Verdict
}

// Explain routes and places a request as Route and Place would, and says why (LO-502). Replicas gives those of a pool; warm is the id
// of the one with the KV of the request's session. An unknown model or pool is an error. That no pool can serve a request is not: it
// is explained.
func Explain(pools []Pool, replicas func(poolID string) []Replica, req task.Request, warm string) (Explanation, error) {
	var e Explanation
	routing, err := Route(pools, req)
	if task.HasCode(err, task.NotFound) || task.HasCode(err, task.ModelNotFound) {
		return e, err
	}
	at := slices.IndexFunc(pools, func(p Pool) bool { return err == nil && p.ID == routing.PoolID && p.serves() })
	for _, p := range withModel(pools, req.ModelRef) {
		if at < 0 || p.ID != routing.PoolID {
			e.Verdicts = append(e.Verdicts, Verdict{PoolID: p.ID, Reasons: p.against(pools, at, req)})
		}
	}
	if at < 0 {
		return e, nil
	}
	chosen := pools[at]
	e.PoolID = chosen.ID
	list := replicas(chosen.ID)
	need := Need{Strict: req.Determinism == task.Strict || req.Determinism == task.Unset && chosen.Strict, Warm: warm, Ctx: req.Ctx}
	need = need.among(list)
	best, considered := Place(list, need)
	for i := range list {
		r := &list[i]
		v := Verdict{PoolID: chosen.ID, ReplicaID: r.ID, Active: r.Active, FreeVRAM: r.FreeVRAM, Chosen: i == best}
		switch {
		case i == best:
			e.ReplicaID = r.ID
			v.Reasons = r.forIt(list, best, considered, need)
		case best >= 0 && r.takes(need):
			v.Reasons = []string{r.behind(&list[best], need)}
		default:
			v.Reasons = r.against(need)
		}
		e.Verdicts = append(e.Verdicts, v)
	}
	switch {
	case best < 0 && chosen.OnDemand && !chosen.Ready:
		e.Verdicts = append(e.Verdicts, Verdict{PoolID: chosen.ID, Reasons: []string{chosen.absent()}})
	case len(list) == 0:
		e.Verdicts = append(e.Verdicts, Verdict{PoolID: chosen.ID, Reasons: []string{"no engine has registered with it"}})
	}
	return e, nil
}

// absent says what a task of an on-demand pool without a Ready replica would wait for.
func (p Pool) absent() string {
	switch p.Standing.State {
	case task.PoolLoading, task.PoolFetching:
		return "its model is " + string(p.Standing.State) + ": the task would wait for that"
	case task.PoolDraining:
		return "it is draining: the task would bring it back once what runs there has ended"
	case task.PoolReady, task.PoolUnloaded, task.PoolDrained, task.PoolFailed:
	}
	return "its model is not loaded: the task would load it, and wait for that"
}

// against says why a pool that holds the model was not chosen. The chosen one is pools[chosen]; below 0 there is none.
func (p Pool) against(pools []Pool, chosen int, req task.Request) []string {
	var why []string
	if slices.Contains(req.Placement.Avoid, p.ID) {
		why = append(why, "it is to be avoided")
	}
	if p.Retired {
		why = append(why, "its model was retired")
	}
	if reason := misfit(p, req); reason != "" {
		why = append(why, reason)
	}
	if err := p.Refusal(); err != nil {
		why = append(why, task.AsError(err).Message)
	}
	if chosen < 0 || len(why) > 0 {
		return why
	}
	c := pools[chosen]
	switch {
	case req.Placement.Mode != task.Auto && req.Placement.PoolID == c.ID:
		return []string{"the request asks for pool '" + c.ID + "'"}
	case p.Wait != c.Wait:
		return []string{fmt.Sprintf("a task would wait %s, and %s in pool '%s'", spoken(p.Wait), spoken(c.Wait), c.ID)}
	case c.Home && !p.Home:
		return []string{"the session's last turn ran in pool '" + c.ID + "'"}
	case p.Backlog != c.Backlog:
		return []string{fmt.Sprintf("it has %d tasks, and pool '%s' %d", p.Backlog, c.ID, c.Backlog)}
	}
	if p.Bits != c.Bits && p.Bits > 0 && c.Bits > 0 {
		return []string{fmt.Sprintf("its model is in %s, and that of pool '%s' in %s, which has more bits a weight", p.Quantisation, c.ID, c.Quantisation)}
	}
	return []string{"all else equal, pool '" + c.ID + "' is first by its id"}
}

func (r *Replica) against(need Need) []string {
	var why []string
	if !r.Ready {
		why = append(why, "it is not Ready but "+r.State)
	}
	if r.Ready && r.InDoubt {
		why = append(why, "its engine broke off a task, and gets none before it has answered again")
	}
	if r.Ready && r.Active >= r.Slots {
		why = append(why, fmt.Sprintf("all of its %d slots are busy", r.Slots))
	}
	if r.Ready && !r.holds(need) {
		why = append(why, fmt.Sprintf("its context of %d tokens is smaller than the %d asked for", r.Ctx, need.Ctx))
	}
	if need.Strict && r.Ready && !r.Strict {
		why = append(why, "its engine has several slots, and strict determinism needs one")
	}
	return why
}

func (r *Replica) forIt(list []Replica, best, considered int, need Need) []string {
	if considered == 1 {
		return []string{"it is the only one that can take the task now"}
	}
	if need.warm(r) {
		return []string{"it holds the KV of the session's last turn"}
	}
	for i := range list { // what decided between it and the best of the others
		if i != best && list[i].takes(need) && list[i].FreeVRAM == r.FreeVRAM {
			if list[i].busy() == r.busy() {
				return []string{"all else equal, it is first by its id"}
			}
			return []string{"of those with the most free VRAM its engine has the least to do: " + r.load()}
		}
	}
	return []string{fmt.Sprintf("it has the most free VRAM: %s", gigabytes(r.FreeVRAM))}
}

func (r *Replica) behind(best *Replica, need Need) string {
	switch {
	case need.warm(best):
		return best.ID + " holds the KV of the session's last turn"
	case r.FreeVRAM != best.FreeVRAM:
		return fmt.Sprintf("it has %s of free VRAM, and %s has %s", gigabytes(r.FreeVRAM), best.ID, gigabytes(best.FreeVRAM))
	case r.busy() != best.busy():
		return fmt.Sprintf("it has %s, and %s has %s", r.load(), best.ID, best.load())
	}
	return "all else equal, " + best.ID + " is first by its id"
}

// load is how much the engine has to do, in words.
func (r *Replica) load() string {
	load := strconv.Itoa(r.Active) + " active tasks"
	if r.Others > 0 {
		load += fmt.Sprintf(" and %d requests of others", r.Others)
	}
	return load
}

func gigabytes(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }

func spoken(d time.Duration) string { return d.Round(time.Millisecond).String() }
