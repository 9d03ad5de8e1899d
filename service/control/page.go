// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/fleet/residency"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/front/page"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/task"
)

// PageViews implements page.Views: what the API shows, and beside it what only the page does.
type PageViews struct {
	*scheduler.Scheduler

	shown     api.Pools
	residency *residency.Manager
	sessions  *Sessions
	shelf     *Shelf
	caller    string // the identity of the callers with the token; empty: there is no token
	folder    string // of the data
}

var _ page.Views = PageViews{}

// NewPageViews makes them.
func NewPageViews(shown api.Pools, s *scheduler.Scheduler, r *residency.Manager, sessions *Sessions, shelf *Shelf, caller, folder string) PageViews {
	return PageViews{s, shown, r, sessions, shelf, caller, folder}
}

// Pools implements page.Views.
func (v PageViews) Pools() []api.HealthView {
	list := v.shown.Pools()
	out := make([]api.HealthView, 0, len(list))
	for i := range list {
		if h, err := v.shown.Health(list[i].ID); err == nil { // else it was removed just now
			out = append(out, h)
		}
	}
	return out
}

// GPUs implements page.Views.
func (v PageViews) GPUs() api.GPUsView { return v.shown.GPUs() }

// Swaps implements page.Views.
func (v PageViews) Swaps() []task.Swap { return v.residency.Swaps() }

// Sessions implements page.Views.
func (v PageViews) Sessions(most int) []task.SessionStatus { return v.sessions.List(most) }

// Budget implements page.Views.
func (v PageViews) Budget() task.Budgets { return v.sessions.Rests("", v.caller) }

// Host implements page.Views.
func (v PageViews) Host() (h page.Host) {
	h.MemoryFree, _ = process.MemAvailable()
	h.DiskFree, _, _ = fetch.Disk(v.folder)
	return h
}

// Models implements page.Views.
func (v PageViews) Models() []api.CatalogModel { return v.shelf.Models("") }
