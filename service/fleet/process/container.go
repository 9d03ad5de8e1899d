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
)

// removeWithin bounds the command that removes a container.
const removeWithin = 15 * time.Second

// Container is the command that runs a program in a container. In Argv and Remove, {name} stands for the container's name. In Argv, {port}
// stands for the loopback port at which the program is reached, and {model} for the model's file on this machine.
type Container struct {
	Argv []string // up to the image
	// GPUs are the arguments, before the image, that give it the cards: once for all with {cards}, or once for each with {card}.
	GPUs   []string
	Model  string // the model's path inside
	Port   int    // on which the program listens inside
	Remove []string
}

// Named fills in the name, the port and the model of one worker's container.
func (c Container) Named(name, port, model string) Container {
	fill := strings.NewReplacer("{name}", name, "{port}", port, "{model}", model)
	c.Argv, c.Remove = filled(c.Argv, fill), filled(c.Remove, fill)
	return c
}

func filled(args []string, fill *strings.Replacer) (out []string) {
	for _, arg := range args {
		out = append(out, fill.Replace(arg))
	}
	return out
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
func (l *Launcher) ContainerName(owner string) string {
	sum := sha256.Sum256([]byte(l.o.RunDir))
	clean := strings.Map(func(c rune) rune {
		if c == '-' || c == '.' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '_'
	}, owner)
	return "llama-orch-" + hex.EncodeToString(sum[:4]) + "-" + clean
}

// remove runs the command that removes a container, whether there is one or not.
func remove(argv []string) error {
	if len(argv) == 0 {
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), removeWithin)
	defer stop()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = ContainerEnv()
	cmd.WaitDelay = straysWait
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("remove the container with %s: %w: %.300s", filepath.Base(argv[0]), err, out)
	}
	return nil
}
