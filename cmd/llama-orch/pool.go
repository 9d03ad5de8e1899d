// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strconv"

	"github.com/llama-orch/llama-orch/gen"
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
		return a.printJSON(&gen.PoolList{Pools: pools})
	}
	return a.table(poolRows(pools...))
}

func showPool(a *app, id string) error {
	health, err := a.client.PoolHealth(a.ctx, id)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(health)
	}
	if err := a.table(poolRows(health.Pool)); err != nil {
		return err
	}
	rows := [][]string{{"REPLICA", "STATE", "DEVICE", "BUSY", "RESTARTS", "ENGINE VERSION", "LAST ERROR"}}
	for _, r := range health.Replicas {
		rows = append(rows, []string{
			r.ID, r.State, r.Device, fmt.Sprintf("%d/%d", r.Active, r.Slots), strconv.Itoa(r.Restarts), r.EngineVersion, r.LastError.Or(""),
		})
	}
	fmt.Fprintln(a.out)
	if err := a.table(rows); err != nil || len(health.Gpus) == 0 {
		return err
	}
	rows = [][]string{{"GPU", "NAME", "HEALTHY", "VRAM USED", "OF"}}
	for _, g := range health.Gpus {
		rows = append(rows, []string{strconv.Itoa(g.Index), g.Name, yesNo(g.Healthy), mib(g.VramUsedBytes), mib(g.VramTotalBytes)})
	}
	fmt.Fprintln(a.out)
	return a.table(rows)
}

func poolRows(pools ...gen.Pool) [][]string {
	rows := [][]string{{"POOL", "MODEL", "WORKLOAD", "ENGINE", "DEVICE", "STATE", "REPLICAS", "QUEUE", "CTX", "LAST ERROR"}}
	for _, p := range pools {
		state := "unready"
		switch {
		case p.Draining:
			state = "draining"
		case p.Ready:
			state = "ready"
		}
		rows = append(rows, []string{
			string(p.ID), p.Model.ID, string(p.Workload), p.Engine, p.Device, state, fmt.Sprintf("%d/%d", p.ReplicasReady, p.Replicas),
			fmt.Sprintf("%d/%d", p.Queue.Depth, p.Queue.Capacity), strconv.Itoa(p.Ctx), p.LastError.Or(""),
		})
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
