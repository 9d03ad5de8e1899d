// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// rpc checks the hosts that compute a part of a pool's model, and gives each one spelling (LO-470).
func (c *Config) rpc(ps *problems, p *Pool, path string) {
	if len(p.RPC) == 0 {
		return
	}
	at := func(field string) position { return c.where.of(path + "." + field) }
	for i, text := range p.RPC {
		if text == "" { // was reported already
			continue
		}
		host, port, err := net.SplitHostPort(text)
		n, bad := strconv.ParseUint(port, 10, 16)
		if err != nil || host == "" || strings.ContainsAny(host, " ,/@[]") || bad != nil || n == 0 {
			ps.add(at(fmt.Sprintf("rpc[%d]", i)), fmt.Sprintf("%q is no HOST:PORT", task.Clip(text, maxQuote)), "write it like 192.168.1.20:50052")
			continue
		}
		p.RPC[i] = net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(n, 10))
		if slices.Contains(p.RPC[:i], p.RPC[i]) {
			ps.add(at(fmt.Sprintf("rpc[%d]", i)), p.RPC[i]+" is named twice", "name each host once: it brings all of its devices")
		}
	}
	if p.Engine != "" && p.Engine != task.LlamaCpp {
		ps.add(at("rpc"), fmt.Sprintf("rpc has no effect in a pool of engine %s", p.Engine), "remove it: it is a back end of llama.cpp")
	}
	if p.Replicas > 1 {
		ps.add(at("replicas"), "a pool with rpc has one replica", "remove replicas: a host serves one worker at a time; a further pool may have other hosts")
	}
	if strings.Contains(string(p.Device), ",") {
		ps.add(at("device"), "a pool with rpc gets one card of this machine at most", "write device: auto, one card, or cpu")
	}
	if len(p.TensorSplit) > 0 {
		ps.add(at("tensor_split"), "tensor_split and rpc do not go together", "remove tensor_split: llama-server divides the model by what each host has free")
	}
}

// hosts refuses a host that is in two pools: a ggml-rpc-server serves one worker at a time, and a second one would wait for ever.
func (c *Config) hosts(ps *problems) {
	of := map[string]string{}
	for i, p := range c.Pools {
		for k, host := range p.RPC {
			if first, taken := of[host]; taken && first != p.ID {
				ps.add(c.where.of(fmt.Sprintf("pools[%d].rpc[%d]", i, k)), fmt.Sprintf("%s computes for pool %s already", host, first), "give each pool hosts of its own")
			}
			of[host] = p.ID
		}
	}
}
