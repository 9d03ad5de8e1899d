// SPDX-License-Identifier: GPL-3.0-or-later

package main

import "github.com/llama-orch/llama-orch/sdk"

type hostsCmd struct{}

// Run shows the servers that share the record of tasks, and their pools.
func (hostsCmd) Run(a *app) error {
	hosts, err := a.client.Hosts(a.ctx)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(sdk.HostList{Hosts: hosts})
	}
	rows := [][]string{{"HOST", "STATE", "ADDRESS", "VERSION", "LAST SEEN", "POOL", "QUEUE", "MODEL"}}
	for _, h := range hosts {
		row := []string{h.Name, hostState(h), dash(h.Address), h.Version, h.SeenAt.Local().Format("15:04:05")}
		for _, p := range h.Pools {
			queue := "stands by"
			if p.Holds {
				queue = "holds"
			}
			rows = append(rows, append(row, p.PoolID, queue, p.ModelID))
			row = []string{"-", "-", "-", "-", "-"}
		}
		if len(h.Pools) == 0 {
			rows = append(rows, append(row, "-", "-", "-"))
		}
	}
	return a.tables(rows)
}

func hostState(h sdk.Host) string {
	state := "down"
	if h.Up {
		state = "up"
	}
	if h.Here {
		state += ", asked"
	}
	return state
}
