// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
)

type poolsCmd struct {
	ID string `arg:"" optional:"" help:"Show this pool with its replicas and GPUs."`
}

// Run lists the pools, or shows one.
func (c *poolsCmd) Run(a *app) error {
	if c.ID != "" {
		return showPool(a, c.ID)
	}
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(&sdk.PoolList{Pools: pools})
	}
	return a.table(poolRows(pools...))
}

// poolCmd holds the commands for one pool.
type poolCmd struct {
	Health poolHealthCmd `cmd:"" help:"Show a pool with its replicas and GPUs."`
	Drain  poolDrainCmd  `cmd:"" help:"Have a pool take no more tasks from its queue, and let running tasks finish."`
	Resume poolResumeCmd `cmd:"" help:"End a drain: bring a pool back."`
	Load   poolLoadCmd   `cmd:"" help:"Load an on-demand pool now, or have a pool that failed try again."`
	Unload poolUnloadCmd `cmd:"" help:"Let an on-demand pool's workers go once their tasks have ended."`
	Reload poolReloadCmd `cmd:"" help:"Swap a pool's model. This also brings a drained pool back."`
}

type poolHealthCmd struct {
	ID string `arg:"" help:"The pool's id."`
}

// Run shows one pool.
func (c *poolHealthCmd) Run(a *app) error { return showPool(a, c.ID) }

type poolDrainCmd struct {
	ID       string        `arg:"" help:"The pool's id."`
	Deadline time.Duration `default:"30s" placeholder:"TIME" help:"Tasks that still run after this time wait in line again (default: 30s; at most 24h)."`
}

// maxDeadline is the contract's limit.
const maxDeadline = 24 * time.Hour

// Run drains a pool. It does not wait until the pool is empty.
func (c *poolDrainCmd) Run(a *app) error {
	if c.Deadline < 0 || c.Deadline > maxDeadline {
		return usagef("--deadline must be from 0s to %s, not %s", maxDeadline, c.Deadline)
	}
	s, err := a.client.Drain(a.ctx, c.ID, c.Deadline)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(s)
	}
	return a.table([][]string{
		{"POOL", "DRAINING", "RUNNING", "QUEUED", "DEADLINE"},
		{s.PoolID, yesNo(s.Draining), strconv.Itoa(s.Running), strconv.Itoa(s.Queued), "in " + duration(s.DeadlineMS)},
	})
}

type poolResumeCmd struct {
	ID string `arg:"" help:"The pool's id."`
}

// Run ends a drain. It does not wait until the pool is ready.
func (c *poolResumeCmd) Run(a *app) error { return showStanding(a)(a.client.Resume(a.ctx, c.ID)) }

type poolLoadCmd struct {
	ID string `arg:"" help:"The pool's id."`
}

// Run loads a pool. It does not wait until the pool is ready.
func (c *poolLoadCmd) Run(a *app) error { return showStanding(a)(a.client.Load(a.ctx, c.ID)) }

type poolUnloadCmd struct {
	ID string `arg:"" help:"The pool's id."`
}

// Run unloads a pool. It does not wait until its tasks have ended.
func (c *poolUnloadCmd) Run(a *app) error { return showStanding(a)(a.client.Unload(a.ctx, c.ID)) }

// showStanding returns what prints how a pool stands after a command.
func showStanding(a *app) func(*sdk.PoolStanding, error) error {
	return func(s *sdk.PoolStanding, err error) error {
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(s)
		}
		return a.table([][]string{
			{"POOL", "STATE", "RUNNING", "QUEUED"},
			{s.PoolID, string(s.State), strconv.Itoa(s.Running), strconv.Itoa(s.Queued)},
		})
	}
}

type poolReloadCmd struct {
	ID  string `arg:"" help:"The pool's id."`
	Ref string `arg:"" help:"The new model, as in the configuration; file:PATH is relative to that file's folder, and below a folder of catalog.folders or beside a pool's own model."`
}

// Run reloads a pool, and waits until the new model serves, or the old one does again.
func (c *poolReloadCmd) Run(a *app) error {
	if c.Ref == "" {
		return usagef("the new model's ref is empty")
	}
	r, err := a.client.Reload(a.ctx, c.ID, c.Ref)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	return a.table([][]string{
		{"POOL", "MODEL", "REF", "BEFORE", "TOOK"},
		{r.PoolID, r.Model.ID, r.Model.Ref, r.PreviousModelRef, duration(r.TookMS)},
	})
}

func showPool(a *app, id string) error {
	health, err := a.client.PoolHealth(a.ctx, id)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(health)
	}
	if err := a.tables(poolRows(health.Pool), replicaRows(health), hostRows(health), routeRows(health.Pool), gpuRows(health.GPUs)); err != nil {
		return err
	}
	for _, r := range health.Replicas {
		if r.State == sdk.ReplicaStateReady || len(r.LogTail) == 0 {
			continue
		}
		fmt.Fprintf(a.out, "\nlast lines of %s:\n", oneLine(r.ID))
		for _, line := range r.LogTail {
			fmt.Fprintln(a.out, "  "+oneLine(line))
		}
	}
	return nil
}

func poolRows(pools ...sdk.Pool) [][]string {
	rows := [][]string{{"POOL", "MODEL", "WORKLOAD", "ENGINE", "DEVICE", "STATE", "LIFECYCLE", "LOADED", "REPLICAS", "QUEUE", "CTX", "LAST ERROR"}}
	for _, p := range pools {
		rows = append(rows, []string{
			p.ID, p.Model.ID, string(p.Workload), p.Engine, p.Device, poolState(p), strings.ReplaceAll(string(p.Lifecycle), "_", " "),
			yesNo(p.Loaded), fmt.Sprintf("%d/%d", p.ReplicasReady, p.Replicas), fmt.Sprintf("%d/%d", p.Queue.Depth, p.Queue.Capacity),
			strconv.Itoa(p.Ctx), p.LastError,
		})
	}
	return rows
}

func poolState(p sdk.Pool) string {
	if p.Progress != nil {
		return fmt.Sprintf("%s %.0f %%", p.State, 100**p.Progress)
	}
	return string(p.State)
}

func replicaRows(pools ...*sdk.PoolHealth) [][]string {
	rows := [][]string{{"REPLICA", "STATE", "DEVICE", "GPU", "CTX", "BUSY", "RESTARTS", "EXPECTED", "TAKEN", "LOADED IN", "ENGINE VERSION", "LAST ERROR"}}
	for _, p := range pools {
		for _, r := range p.Replicas {
			cards := make([]string, len(r.Cards))
			for i, card := range r.Cards {
				cards[i] = strconv.Itoa(card)
			}
			loaded := ""
			if r.LoadMS != nil {
				loaded = duration(*r.LoadMS)
			}
			rows = append(rows, []string{
				r.ID, string(r.State), r.Device, strings.Join(cards, ","), positive(r.Ctx), fmt.Sprintf("%d/%d", r.Active, r.Slots), strconv.Itoa(r.Restarts),
				optMiB(r.EstimateBytes), optMiB(r.ObservedBytes), loaded, r.EngineVersion, r.LastError,
			})
		}
	}
	return rows
}

// hostRows are the other hosts that compute a part of a replica's model.
func hostRows(p *sdk.PoolHealth) [][]string {
	rows := [][]string{{"HOST", "REPLICA", "WAS FREE", "TAKEN"}}
	for _, r := range p.Replicas {
		for _, h := range r.Hosts {
			rows = append(rows, []string{h.Host, r.ID, optMiB(h.FreeBytes), optMiB(h.UsedBytes)})
		}
	}
	return rows
}

// routeRows are the paths of the requests that are passed to the pool's server.
func routeRows(p sdk.Pool) [][]string {
	rows := [][]string{{"ROUTE"}}
	for _, route := range p.Routes {
		rows = append(rows, []string{route})
	}
	return rows
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func mib(bytes int64) string { return fmt.Sprintf("%d MiB", bytes>>20) }

func optMiB(bytes *int64) string {
	if bytes == nil {
		return ""
	}
	return mib(*bytes)
}
