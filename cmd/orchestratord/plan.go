// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// planCmd prints how engines would be prepared (ORCH-3200).
type planCmd struct {
	configFlag
	Pool string `help:"Only this pool's." placeholder:"ID"`
	JSON bool   `name:"json" help:"Print JSON."`
}

// planView is a plan, with what this machine lacks for it.
type planView struct {
	provision.Plan
	Missing string `json:"missing,omitempty"`
}

// Run prints.
func (c planCmd) Run() error {
	config, err := c.load()
	if err != nil {
		return err
	}
	plans, err := control.EnginePlans(config)
	if err != nil {
		return exit{exitUsage, err}
	}
	views := []planView{}
	for _, p := range plans {
		if c.Pool == "" || c.Pool == p.Pool {
			views = append(views, planView{p, control.Missing(p)})
		}
	}
	if len(views) == 0 {
		return exit{exitUsage, fmt.Errorf("there is no pool %.80q in %s", c.Pool, config.Path)}
	}
	if c.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		return out.Encode(views)
	}
	var b strings.Builder
	for i, v := range views {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(v.String())
		if v.Missing != "" {
			fmt.Fprintf(&b, "  %s\n", v.Missing)
		}
	}
	_, err = os.Stdout.WriteString(b.String())
	return err
}
