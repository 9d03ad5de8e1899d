// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// removeWithin bounds the command that removes a container.
const removeWithin = 15 * time.Second

// Prepared is an engine that Options.Prepare has made ready.
type Prepared struct {
	Path     string // of the program; of a container the image, by its id
	Digest   string // of a container's image
	BuildRef string
	Flags    []string // that it was built with
}

// ContainerRun is how llama-server is run in one. In Argv and Remove {name} stands for the container's name, in Argv {port} for
// the port of the loopback that it is to be reached at, and {model} for the model's file on this machine.
type ContainerRun struct {
	Argv []string // up to the image
	// GPUs are the arguments that give it the cards, before the image: once with {cards}, or for each with {card}.
	GPUs   []string
	Model  string // the model's path inside
	Port   int    // that llama-server listens on inside
	Remove []string
}

// containerName is unlike that of any other orchestrator's replicas on this machine.
func (r *replica) containerName() string {
	sum := sha256.Sum256([]byte(r.m.opts.RunDir))
	clean := strings.Map(func(c rune) rune {
		if c == '-' || c == '.' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '_'
	}, r.id)
	return "llama-orch-" + hex.EncodeToString(sum[:4]) + "-" + clean
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
	fill := strings.NewReplacer("{name}", r.containerName(), "{port}", port, "{model}", spec.ModelPath)
	args, withCtx, facts := r.serverArgs(facts, c.Model, "0.0.0.0", strconv.Itoa(c.Port))
	p := &plan{exe: exe, address: address, facts: facts, image: ready.Path, after: args, withCtx: withCtx}
	for _, arg := range c.Argv[1:] {
		p.args = append(p.args, fill.Replace(arg))
	}
	for _, arg := range c.Remove {
		p.remove = append(p.remove, fill.Replace(arg))
	}
	return p, nil
}

// contain gives the container's command its cards, which are known last.
func (p *plan) contain(spec Spec, cards []int) {
	var names []string
	for _, card := range cards {
		names = append(names, strconv.Itoa(card))
	}
	switch {
	case len(names) > 0:
	case spec.Device == "auto":
		names = []string{"all"}
	default:
		names = strings.Split(spec.Device, ",")
	}
	if spec.Device == "cpu" {
		names = nil
	}
	gpus := spec.Container.GPUs
	switch {
	case len(names) == 0 || len(gpus) == 0:
	case strings.Contains(strings.Join(gpus, " "), "{card}"):
		for _, name := range names {
			for _, arg := range gpus {
				p.args = append(p.args, strings.ReplaceAll(arg, "{card}", name))
			}
		}
	default:
		for _, arg := range gpus {
			if names[0] == "all" {
				arg = strings.ReplaceAll(arg, `"device={cards}"`, "all")
			}
			p.args = append(p.args, strings.ReplaceAll(arg, "{cards}", strings.Join(names, ",")))
		}
	}
	p.args = append(append(p.args, p.image), p.after...)
}

// remove runs the command that removes a container, whether there is one or not.
func remove(argv []string) error {
	if len(argv) == 0 {
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), removeWithin)
	defer stop()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = containerEnv()
	cmd.WaitDelay = straysWait
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("remove the container with %s: %w: %.300s", filepath.Base(argv[0]), err, out)
	}
	return nil
}
