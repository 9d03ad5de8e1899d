// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"os/exec"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/gguf"
)

func (r *replica) planContainer(ctx context.Context, spec Spec, facts Facts, ready Prepared) (*plan, error) {
	c := spec.Container
	exe, err := exec.LookPath(c.Argv[0])
	if err != nil {
		return nil, fixable("there is no such program to run containers with: install it, or correct `provisioning.runtime`", c.Argv[0], err)
	}
	var parts []string
	switch {
	case spec.NoModel:
	case r.kind.Start.Files != nil:
		parts = []string{spec.ModelPath}
	default:
		if parts, err = gguf.Parts(spec.ModelPath); err != nil {
			return nil, err
		}
	}
	if strings.ContainsAny(spec.ModelPath, ",\"\n") {
		return nil, fixable("the model's path holds a comma, a quote or a line feed, and cannot be mounted: give the file another name", spec.ModelPath, nil)
	}
	facts.EngineDigest = ready.Digest
	address, port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	run := c.Named(r.m.launcher.ContainerName(r.id), port, parts)
	told := spec.worker()
	told.Inside = true
	told.Threads, told.Model, told.Host, told.Port, told.Scratch = facts.Threads, run.Model, "0.0.0.0", strconv.Itoa(c.Port), "/tmp"
	p := newPlan(exe, facts, r.kind.Start.Command(told))
	p.address, p.container, p.image = address, &run, ready.Path
	return p, nil
}

// cardNames are the cards that a worker gets, as its container is told.
func cardNames(spec Spec, granted []int) (names []string) {
	for _, card := range granted {
		names = append(names, strconv.Itoa(card))
	}
	switch {
	case spec.Device == "cpu":
		return nil
	case len(names) > 0:
		return names
	case spec.Device == "auto":
		return []string{"all"}
	}
	return strings.Split(spec.Device, ",")
}
