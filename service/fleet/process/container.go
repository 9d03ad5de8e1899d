// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/gguf"
)

// removeWithin bounds the command that removes a container.
const removeWithin = 15 * time.Second

// Container is the command that runs a program in a container. In Argv, {name} stands for the container's name, {port} for the loopback port at
// which the program is reached, and {model} for a file of the model on this machine. The argument with {model}, and the one before it, mount that
// file at Model; they are there once for each part of a model.
type Container struct {
	Name string   // set by Named
	Argv []string // up to the image
	// GPUs are the arguments, before the image, that give it the cards: once for all with {cards}, or once for each with {card}.
	GPUs  []string
	Model string // the path inside of the model, or of its first part
	Port  int    // on which the program listens inside
}

// Named fills in the name, the port and the files of the model of one worker's container.
func (c Container) Named(name, port string, model []string) Container {
	inside := gguf.Alias(c.Model, max(len(model), 1))
	fill := strings.NewReplacer("{name}", name, "{port}", port)
	var argv []string
	for i, arg := range c.Argv {
		if !strings.Contains(arg, "{model}") {
			argv = append(argv, fill.Replace(arg))
			continue
		}
		if len(model) == 0 { // nothing is mounted
			argv = argv[:len(argv)-1]
		}
		for n, file := range model {
			if n > 0 {
				argv = append(argv, c.Argv[i-1])
			}
			files := []string{"{model}", file}
			if len(model) > 1 {
				files = append(files, c.Model, inside[n])
			}
			argv = append(argv, strings.NewReplacer(files...).Replace(arg))
		}
	}
	c.Name, c.Argv, c.Model = name, argv, inside[0]
	return c
}

// Args are the arguments that run the image with these cards and with the program's own arguments. The card "all" stands for all cards.
func (c Container) Args(image string, cards, own []string) []string {
	args := append([]string(nil), c.Argv[1:]...)
	switch {
	case len(cards) == 0 || len(c.GPUs) == 0:
	case strings.Contains(strings.Join(c.GPUs, " "), "{card}"):
		for _, card := range cards {
			for _, arg := range c.GPUs {
				args = append(args, strings.ReplaceAll(arg, "{card}", card))
			}
		}
	default:
		for _, arg := range c.GPUs {
			if cards[0] == "all" {
				arg = strings.ReplaceAll(arg, `"device={cards}"`, "all")
			}
			args = append(args, strings.ReplaceAll(arg, "{cards}", strings.Join(cards, ",")))
		}
	}
	return append(append(args, image), own...)
}

// ContainerName names a worker's container. No other orchestrator on this machine uses that name.
func (l *Launcher) ContainerName(owner string) string { return containerName(l.o.RunDir, owner) }

func containerName(runDir, owner string) string {
	sum := sha256.Sum256([]byte(runDir))
	clean := strings.Map(func(c rune) rune {
		if c == '-' || c == '.' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '_'
	}, owner)
	return "llama-orch-" + hex.EncodeToString(sum[:4]) + "-" + clean
}

// containerRef is a container and the program that runs it. The zero value is none.
type containerRef struct{ runtime, name string }

func (c *Container) ref() containerRef {
	if c == nil {
		return containerRef{}
	}
	return containerRef{c.Argv[0], c.Name}
}

// remove removes the container, whether there is one or not.
func (c containerRef) remove() error {
	if c.name == "" {
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), removeWithin)
	defer stop()
	cmd := exec.CommandContext(ctx, c.runtime, "rm", "--force", c.name)
	cmd.Env = ContainerEnv()
	cmd.WaitDelay = straysWait
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("remove the container with %s: %w: %.300s", filepath.Base(c.runtime), err, out)
	}
	return nil
}
