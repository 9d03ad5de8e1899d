// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
)

type capabilitiesCmd struct{}

// Run shows what the server can do.
func (capabilitiesCmd) Run(a *app) error {
	c, err := a.client.Capabilities(a.ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(c)
	}
	err = a.table([][]string{
		{"server", c.ServerVersion},
		{"API", c.APIVersion},
		{"features", strings.Join(c.Features, ", ")},
		{"largest body", fmt.Sprintf("%d bytes", c.Limits.MaxBodyBytes)},
		{"longest prompt", fmt.Sprintf("%d bytes, with messages and inputs", c.Limits.MaxPromptBytes)},
		{"most inputs", fmt.Sprintf("%d, or %d messages", c.Limits.MaxInputs, c.Limits.MaxMessages)},
		{"longest deadline", duration(c.Limits.MaxDeadlineMS)},
	})
	if err != nil {
		return err
	}
	rows := [][]string{{"POOL", "MODEL", "WORKLOAD", "ENGINE", "ENGINE VERSION", "CTX", "SLOTS", "REPLICAS"}}
	for _, p := range c.Pools {
		rows = append(rows, []string{
			p.ID, p.Model.ID, string(p.Workload), p.Engine, p.EngineVersion, strconv.Itoa(p.Ctx), strconv.Itoa(p.Slots),
			fmt.Sprintf("%d/%d", p.ReplicasReady, p.Replicas),
		})
	}
	fmt.Fprintln(a.out)
	if err := a.table(rows); err != nil {
		return err
	}
	rows = [][]string{{"OPERATION", "PLANE", "STATUS", "METHOD", "PATH"}}
	for _, o := range c.Operations {
		rows = append(rows, []string{o.ID, string(o.Plane), string(o.Status), o.Method, o.Path})
	}
	fmt.Fprintln(a.out)
	return a.table(rows)
}

type versionCmd struct{}

// Run shows this program's version. The server's version is among its capabilities.
func (versionCmd) Run(a *app) error {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if a.json {
		return a.printJSON(map[string]string{"version": version, "go": runtime.Version(), "platform": platform})
	}
	_, err := fmt.Fprintf(a.out, "llama-orch %s (%s, %s)\n", version, runtime.Version(), platform)
	return err
}
