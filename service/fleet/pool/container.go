// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
)

// Prepared is an engine that Options.Prepare has made ready.
type Prepared struct {
	Path     string // of the program; of a container the image, by its id
	Digest   string // of a container's image
	BuildRef string
	Flags    []string // that it was built with
}

func (r *replica) planContainer(ctx context.Context, facts Facts, ready Prepared) (*plan, error) {
	spec, c := r.spec, r.spec.Container
	exe, err := exec.LookPath(c.Argv[0])
	if err != nil {
		return nil, fixable("there is no such program to run containers with: install it, or correct `provisioning.runtime`", c.Argv[0], err)
	}
	if strings.ContainsAny(spec.ModelPath, ",\"\n") {
		return nil, fixable("the model's path holds a comma, a quote or a line feed, and cannot be mounted: give the file another name", spec.ModelPath, nil)
	}
	facts.EngineDigest = ready.Digest
	address, port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	named := c.Named(r.m.launcher.ContainerName(r.id), port, spec.ModelPath)
	args, withCtx, facts := r.serverArgs(facts, c.Model, "0.0.0.0", strconv.Itoa(c.Port))
	return &plan{exe: exe, address: address, facts: facts, container: &named, image: ready.Path, args: args, withCtx: withCtx}, nil
}

// cardNames are the cards that a worker's container gets.
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
