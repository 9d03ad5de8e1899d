// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/gen"
)

type gpusCmd struct{}

// Run shows the GPUs.
func (gpusCmd) Run(a *app) error {
	list, err := a.client.GPUs(a.ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(list)
	}
	if problem, ok := list.Problem.Get(); ok {
		fmt.Fprintln(a.out, "no GPU can be used: "+oneLine(problem))
	} else {
		fmt.Fprintln(a.out, oneLine(driver(list)))
	}
	if len(list.Gpus) > 0 {
		fmt.Fprintln(a.out)
	}
	return a.tables(gpuRows(list.Gpus), holderRows(list.Gpus))
}

func driver(list *gen.GPUList) string {
	return "driver " + dash(list.DriverVersion.Or("")) + ", CUDA " + dash(list.CudaVersion.Or(""))
}

func gpuRows(gpus []gen.GPU) [][]string {
	rows := [][]string{{"GPU", "NAME", "HEALTHY", "VRAM USED", "PROMISED", "OTHERS", "FREE", "OF", "BUSY", "TEMP", "POWER", "LAST ERROR"}}
	for _, g := range gpus {
		temperature, power := "", ""
		if v, ok := g.TemperatureC.Get(); ok {
			temperature = fmt.Sprintf("%d °C", v)
		}
		if v, ok := g.PowerW.Get(); ok {
			power = fmt.Sprintf("%.0f W", v)
		}
		rows = append(rows, []string{
			strconv.Itoa(g.Index), strings.TrimPrefix(g.Name, "NVIDIA "), yesNo(g.Healthy), mib(g.VramUsedBytes), mib(g.VramPromisedBytes), mib(g.VramOtherBytes),
			mib(g.VramFreeBytes), mib(g.VramTotalBytes), fmt.Sprintf("%.0f %%", g.Utilization*100), temperature, power, g.LastError.Or(""),
		})
	}
	return rows
}

func holderRows(gpus []gen.GPU) [][]string {
	rows := [][]string{{"GPU", "HELD BY", "PID", "USED", "PROMISED"}}
	for _, g := range gpus {
		for _, h := range g.Holders {
			pid := ""
			if v, ok := h.Pid.Get(); ok {
				pid = strconv.Itoa(v)
			}
			rows = append(rows, []string{strconv.Itoa(g.Index), h.ReplicaID.Or("another program"), pid, mib(h.UsedBytes), mib(h.PromisedBytes)})
		}
	}
	return rows
}

type explainCmd struct {
	Model       string   `short:"m" required:"" placeholder:"REF" help:"The task's model."`
	Pool        string   `placeholder:"ID" help:"This pool or none."`
	Prefer      string   `placeholder:"ID" help:"This pool if it can serve, else another."`
	Avoid       []string `placeholder:"ID" help:"Not this pool; may be repeated."`
	Workload    string   `enum:"completion,embedding,rerank" default:"completion" help:"completion, embedding or rerank."`
	Engine      string   `placeholder:"NAME" help:"With this engine only."`
	Determinism string   `enum:",strict,best_effort" default:"" placeholder:"KIND" help:"strict or best_effort (default: strict where possible)."`
	Ctx         int      `placeholder:"N" help:"With at least this context, in tokens."`
}

// Run explains. If no pool fits, that is an answer and no error.
func (c *explainCmd) Run(a *app) error {
	request, err := c.request()
	if err != nil {
		return err
	}
	e, err := a.client.Explain(a.ctx, request)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(e)
	}
	pool, fits := e.PoolID.Get()
	replica, placed := e.ReplicaID.Get()
	switch {
	case placed:
		fmt.Fprintf(a.out, "would run on %s of pool %s\n", oneLine(replica), pool)
	case fits:
		fmt.Fprintf(a.out, "would wait in pool %s\n", pool)
	default:
		fmt.Fprintln(a.out, "would be refused")
	}
	rows := [][]string{{"CHOSEN", "POOL", "REPLICA", "BUSY", "VRAM FREE", "WHY"}}
	for _, r := range e.Candidates {
		mark, busy := "", ""
		if r.Chosen {
			mark = "yes"
		}
		if n, ok := r.Active.Get(); ok {
			busy = strconv.Itoa(n)
		}
		rows = append(rows, []string{mark, string(r.PoolID), r.ReplicaID.Or(""), busy, optMiB(r.VramFreeBytes), strings.Join(r.Reasons, "; ")})
	}
	evictions := [][]string{{"WOULD BE UNLOADED", "POOL", "FREES"}}
	for _, r := range e.Evictions {
		evictions = append(evictions, []string{r.ReplicaID, string(r.PoolID), mib(r.FreesBytes)})
	}
	if len(rows)+len(evictions) > 2 {
		fmt.Fprintln(a.out)
	}
	return a.tables(rows, evictions)
}

func (c *explainCmd) request() (*gen.ExplainRequest, error) {
	switch {
	case c.Pool != "" && c.Prefer != "":
		return nil, usagef("--pool and --prefer exclude each other")
	case c.Ctx < 0:
		return nil, usagef("--ctx must not be negative")
	}
	request := &gen.ExplainRequest{
		ModelRef: gen.ModelRef(c.Model), Workload: gen.NewOptExplainRequestWorkload(gen.ExplainRequestWorkload(c.Workload)),
	}
	if c.Engine != "" {
		request.Engine.SetTo(gen.EngineName(c.Engine))
	}
	if c.Determinism != "" {
		request.Determinism.SetTo(gen.Determinism(c.Determinism))
	}
	if c.Ctx > 0 {
		request.Ctx.SetTo(c.Ctx)
	}
	wish := gen.PlacementWish{Mode: gen.NewOptPlacementWishMode(gen.PlacementWishModeAuto)}
	switch {
	case c.Pool != "":
		wish.Mode.SetTo(gen.PlacementWishModePin)
		wish.PoolID.SetTo(gen.PoolID(c.Pool))
	case c.Prefer != "":
		wish.Mode.SetTo(gen.PlacementWishModePrefer)
		wish.PoolID.SetTo(gen.PoolID(c.Prefer))
	}
	for _, id := range c.Avoid {
		wish.Avoid = append(wish.Avoid, gen.PoolID(id))
	}
	if wish.PoolID.Set || len(wish.Avoid) > 0 {
		request.Placement.SetTo(wish)
	}
	return request, nil
}

// configCmd holds the commands for the server's configuration.
type configCmd struct {
	Reload configReloadCmd `cmd:"" help:"Read the file again; pools that did not change are not touched, and an invalid file changes nothing."`
}

type configReloadCmd struct{}

// Run reloads the configuration.
func (configReloadCmd) Run(a *app) error {
	change, err := a.client.ReloadConfig(a.ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(change)
	}
	if len(change.Changed)+len(change.RestartRequired) == 0 {
		fmt.Fprintln(a.out, "nothing has changed")
		return nil
	}
	for _, name := range change.Changed {
		fmt.Fprintln(a.out, "changed         "+oneLine(name))
	}
	for _, name := range change.RestartRequired {
		fmt.Fprintln(a.out, "needs a restart "+oneLine(name))
	}
	return nil
}
