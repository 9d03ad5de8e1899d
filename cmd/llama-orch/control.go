// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/sdk"
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
	if list.Problem != "" {
		fmt.Fprintln(a.out, "no GPU can be used: "+oneLine(list.Problem))
	} else {
		fmt.Fprintln(a.out, oneLine(driver(list)))
	}
	if len(list.GPUs) > 0 {
		fmt.Fprintln(a.out)
	}
	return a.tables(gpuRows(list.GPUs), holderRows(list.GPUs))
}

func driver(list *sdk.GPUList) string {
	return "driver " + dash(list.DriverVersion) + ", CUDA " + dash(list.CudaVersion)
}

func gpuRows(gpus []sdk.GPU) [][]string {
	rows := [][]string{{"GPU", "NAME", "HEALTHY", "VRAM USED", "PROMISED", "OTHERS", "FREE", "OF", "BUSY", "TEMP", "POWER", "ENERGY", "LAST ERROR"}}
	for _, g := range gpus {
		temperature, power, energy := "", "", ""
		if v := g.TemperatureC; v != nil {
			temperature = fmt.Sprintf("%d °C", *v)
		}
		if v := g.PowerW; v != nil {
			power = fmt.Sprintf("%.0f W", *v)
		}
		if v := g.EnergyJ; v != nil {
			energy = joules(*v)
		}
		rows = append(rows, []string{
			strconv.Itoa(g.Index), strings.TrimPrefix(g.Name, "NVIDIA "), yesNo(g.Healthy), mib(g.VRAMUsedBytes), mib(g.VRAMPromisedBytes), mib(g.VRAMOtherBytes),
			mib(g.VRAMFreeBytes), mib(g.VRAMTotalBytes), fmt.Sprintf("%.0f %%", g.Utilization*100), temperature, power, energy, g.LastError,
		})
	}
	return rows
}

// joules is an amount of energy, in the unit that suits it.
func joules(v float64) string {
	switch {
	case v >= 3_600_000:
		return fmt.Sprintf("%.1f kWh", v/3_600_000)
	case v >= 10_000:
		return fmt.Sprintf("%.1f kJ", v/1000)
	default:
		return fmt.Sprintf("%.1f J", v)
	}
}

func holderRows(gpus []sdk.GPU) [][]string {
	rows := [][]string{{"GPU", "HELD BY", "PID", "USED", "PROMISED"}}
	for _, g := range gpus {
		for _, h := range g.Holders {
			pid := ""
			if h.PID != nil {
				pid = strconv.Itoa(*h.PID)
			}
			rows = append(rows, []string{strconv.Itoa(g.Index), cmp.Or(h.ReplicaID, "another program"), pid, mib(h.UsedBytes), mib(h.PromisedBytes)})
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
	switch {
	case e.ReplicaID != "":
		fmt.Fprintf(a.out, "would run on %s of pool %s\n", oneLine(e.ReplicaID), e.PoolID)
	case e.PoolID != "":
		fmt.Fprintf(a.out, "would wait in pool %s\n", e.PoolID)
	default:
		fmt.Fprintln(a.out, "would be refused")
	}
	rows := [][]string{{"CHOSEN", "POOL", "REPLICA", "BUSY", "VRAM FREE", "WHY"}}
	for _, r := range e.Candidates {
		mark, busy := "", ""
		if r.Chosen {
			mark = "yes"
		}
		if r.Active != nil {
			busy = strconv.Itoa(*r.Active)
		}
		rows = append(rows, []string{mark, r.PoolID, r.ReplicaID, busy, optMiB(r.VRAMFreeBytes), strings.Join(r.Reasons, "; ")})
	}
	evictions := [][]string{{"WOULD BE UNLOADED", "POOL", "FREES"}}
	for _, r := range e.Evictions {
		evictions = append(evictions, []string{r.ReplicaID, r.PoolID, mib(r.FreesBytes)})
	}
	if len(rows)+len(evictions) > 2 {
		fmt.Fprintln(a.out)
	}
	return a.tables(rows, evictions)
}

func (c *explainCmd) request() (*sdk.ExplainRequest, error) {
	switch {
	case c.Pool != "" && c.Prefer != "":
		return nil, usagef("--pool and --prefer exclude each other")
	case c.Ctx < 0:
		return nil, usagef("--ctx must not be negative")
	}
	request := &sdk.ExplainRequest{
		ModelRef: c.Model, Workload: sdk.Workload(c.Workload), Engine: sdk.EngineName(c.Engine), Determinism: sdk.Determinism(c.Determinism), Ctx: c.Ctx,
	}
	wish := sdk.PlacementWish{Mode: sdk.PlacementWishModeAuto, Avoid: c.Avoid}
	switch {
	case c.Pool != "":
		wish.Mode, wish.PoolID = sdk.PlacementWishModePin, c.Pool
	case c.Prefer != "":
		wish.Mode, wish.PoolID = sdk.PlacementWishModePrefer, c.Prefer
	}
	if wish.PoolID != "" || len(wish.Avoid) > 0 {
		request.Placement = &wish
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
