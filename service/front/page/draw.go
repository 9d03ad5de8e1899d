// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/a-h/templ"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

const (
	firstWaiting = 20  // of each pool's queue
	tailBytes    = 400 // of what a running task has said
	recentTasks  = 12
	someSessions = 20
	someModels   = 200
	modelsEvery  = 5 * time.Second
)

// emptyKey is that of what a list shows that has no rows. No id has a space.
const emptyKey = "no rows"

// drawer makes rows of what the server shows. One look at a time uses it.
type drawer struct {
	views  Views
	clock  func() time.Time
	shown  steady
	ends   uint64 // as of recent
	recent []task.Status
	known  bool // recent was read

	models   []api.CatalogModel
	modelsAt time.Time // when they were read
}

func newDrawer(v Views, clock func() time.Time) drawer {
	return drawer{views: v, clock: clock, shown: steady{}}
}

// draw is everything that changes on the page, in the same groups each time. Busy: tasks run.
func (d *drawer) draw(ctx context.Context) (all []group, busy bool) {
	pools, gpus, live := d.views.Pools(), d.views.GPUs(), d.views.Live(firstWaiting, tailBytes)
	d.readRecent(ctx)
	now, starts := d.clock(), steady{}
	running, waiting := list{name: "running"}, list{name: "waiting"}
	for _, t := range live {
		if t.State == task.Running {
			running.add(ctx, t.ID, runningRow(t))
			continue
		}
		t.StartsAt = d.shown.of(t.ID, t.StartsAt, now).Truncate(time.Second)
		starts[t.ID] = t.StartsAt
		waiting.add(ctx, t.ID, waitingRow(t))
	}
	d.shown.keep(starts)
	poolCards, poolRows := list{name: "pools"}, list{name: "switches"}
	for i := range pools {
		p := &pools[i]
		poolCards.add(ctx, p.Pool.ID, poolCard(*p))
		poolRows.add(ctx, p.Pool.ID, switchRow(p.Pool))
		if n := p.Pool.Queue.Interactive + p.Pool.Queue.Batch; n > firstWaiting {
			waiting.add(ctx, "more "+p.Pool.ID, moreRow(p.Pool.ID, n-firstWaiting))
		}
	}
	cards := list{name: "cards"}
	for _, g := range gpus.GPUs {
		cards.add(ctx, fmt.Sprint(g.Index), card(g, models(pools)))
	}
	recent := list{name: "recent"}
	for _, t := range d.recent {
		recent.add(ctx, t.ID, recentRow(t))
	}
	swaps := list{name: "swaps"}
	for _, s := range d.views.Swaps() {
		swaps.add(ctx, fmt.Sprint(s.At.UnixNano(), s.PoolID), swapRow(s))
	}
	sessions := list{name: "sessions"}
	for _, s := range d.views.Sessions(someSessions) {
		sessions.add(ctx, s.ID, sessionRow(s))
	}
	catalog := list{name: "models"}
	for _, m := range d.catalog(now) {
		catalog.add(ctx, m.ID, modelRow(m))
	}
	for _, empty := range []struct {
		l    *list
		cols int
		text string
	}{
		{&running, 6, "Nothing runs. Send a task, or try the playground."},
		{&waiting, 6, "Nobody waits."},
		{&recent, 6, "No task has ended yet."},
		{&sessions, 5, "No session is open. A task opens one when it names a session_id."},
		{&catalog, 5, "The catalog is empty. Pools that name a file do not need it; add a model with llama-orch models add."},
	} {
		if len(empty.l.rows) == 0 {
			empty.l.add(ctx, emptyKey, emptyRow(empty.cols, empty.text))
		}
	}
	if len(cards.rows) == 0 {
		cards.add(ctx, emptyKey, emptyItem(orElse(gpus.Problem, "No GPU. Pools with device: cpu do not need one.")))
	}
	if len(swaps.rows) == 0 {
		swaps.add(ctx, emptyKey, emptyItem("No model was loaded or unloaded since the start. Pools with lifecycle: on_demand take turns."))
	}
	return []group{
		d.totals(ctx, pools, gpus), group(poolCards), group(poolRows), group(cards), group(running), group(waiting), group(recent), group(swaps),
		group(sessions), d.outlook(ctx), group(catalog),
	}, running.rows[0].key != emptyKey
}

// readRecent reads the tasks that have ended, where that changed.
func (d *drawer) readRecent(ctx context.Context) {
	ends := d.views.Ends()
	if d.known && ends == d.ends {
		return
	}
	if recent, err := d.views.Recent(ctx, recentTasks); err == nil { // else what was read before is shown
		d.recent, d.ends, d.known = recent, ends, true
	}
}

// catalog is the first models of the catalog. To list a large one takes a while, so it is listed now and then, and at each look while one is being fetched.
func (d *drawer) catalog(now time.Time) []api.CatalogModel {
	fetching := slices.ContainsFunc(d.models, func(m api.CatalogModel) bool { return m.Progress != nil })
	if fetching || now.Sub(d.modelsAt).Abs() >= modelsEvery {
		all := d.views.Models()
		d.models, d.modelsAt = all[:min(someModels, len(all))], now
	}
	return d.models
}

// totals are the figures at the top.
func (d *drawer) totals(ctx context.Context, pools []api.HealthView, gpus api.GPUsView) group {
	waiting, active, slots, ready, replicas := 0, 0, 0, 0, 0
	for i := range pools {
		p := &pools[i]
		waiting += p.Pool.Queue.Interactive + p.Pool.Queue.Batch
		ready += p.Pool.ReplicasReady
		replicas += p.Pool.Replicas
		for _, r := range p.Replicas {
			active += r.Active
			if r.State == "ready" {
				slots += r.Slots
			}
		}
	}
	var used, total int64
	watts := 0.0
	for _, g := range gpus.GPUs {
		used += g.VRAMUsed
		total += g.VRAMTotal
		watts += g.PowerW
	}
	l := list{name: "totals"}
	l.add(ctx, "waiting", figure("Waiting", fmt.Sprint(waiting), plural(waiting, "task")))
	l.add(ctx, "running", figure("Busy slots", fmt.Sprintf("%d of %d", active, slots), ""))
	l.add(ctx, "ready", figure("Replicas ready", fmt.Sprintf("%d of %d", ready, replicas), ""))
	if total > 0 {
		l.add(ctx, "vram", figure("GPU memory", fmt.Sprintf("%s of %s", gib(used), gib(total)), "GiB"))
	}
	if watts > 0 {
		l.add(ctx, "power", figure("Power", fmt.Sprintf("%.0f", watts), "W"))
	}
	h := d.views.Host()
	if h.MemoryFree > 0 {
		l.add(ctx, "memory", figure("Host memory free", gib(h.MemoryFree), "GiB"))
	}
	if h.DiskFree > 0 {
		l.add(ctx, "disk", figure("Host disk free", gib(h.DiskFree), "GiB"))
	}
	if b := d.views.Budget(); !b.Tokens.IsZero() || !b.TimeMS.IsZero() || !b.Cost.IsZero() || !b.Joules.IsZero() {
		l.add(ctx, "budget", figure("Token's budget left", budget(b), ""))
	}
	return group(l)
}

// outlook is how predictions have come true.
func (d *drawer) outlook(ctx context.Context) group {
	o, l := d.views.Outlook(), list{name: "outlook"}
	if o.Starts == 0 {
		l.add(ctx, emptyKey, emptyItem("No task has started yet, so there is nothing to compare."))
		return group(l)
	}
	l.add(ctx, "starts", startsItem(o))
	for i, c := range o.Chances {
		if c.Tasks > 0 {
			l.add(ctx, fmt.Sprint("chance", i), chanceItem(c))
		}
	}
	return group(l)
}

// list is a group that is being made.
type list group

func (l *list) add(ctx context.Context, key string, c templ.Component) {
	var b strings.Builder
	if err := keyed(key, c).Render(ctx, &b); err != nil {
		return // a builder takes all
	}
	l.rows = append(l.rows, row{key, b.String()})
}
