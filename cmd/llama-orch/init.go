// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/setup"
)

// initCmd needs no server.
type initCmd struct {
	Source string   `arg:"" optional:"" help:"With --from llama-swap: its configuration; - reads it from stdin."`
	From   string   `enum:",llama-swap,ollama" default:"" placeholder:"WHAT" help:"Take over from llama-swap or ollama, instead of everything that is found here."`
	Output string   `short:"o" default:"llama-orch.yaml" placeholder:"FILE" help:"The file to write (default: llama-orch.yaml); - prints it."`
	Force  bool     `help:"Replace the file if it is there."`
	Models []string `sep:"none" placeholder:"FOLDER" help:"A further folder with models; may be repeated."`
}

const (
	fromSwap   = "llama-swap"
	fromOllama = "ollama"
	maxConfig  = 1 << 20
)

// Run looks at this machine, and writes a configuration.
func (c *initCmd) Run(a *app) error {
	if (c.From == fromSwap) != (c.Source != "") {
		return usagef("llama-swap's configuration is to be named with --from llama-swap, and only then: llama-orch init --from llama-swap FILE")
	}
	proposal, err := c.propose(a)
	if err != nil {
		c.left(a, proposal)
		return err
	}
	text := proposal.YAML()
	if c.Output == "-" {
		if err := setup.Check("llama-orch.yaml", text, a.env); err != nil {
			return err
		}
		c.left(a, proposal)
		_, err := a.out.Write(text)
		return err
	}
	path, err := filepath.Abs(c.Output)
	if err != nil {
		return fmt.Errorf("where this program runs: %w", err)
	}
	switch err := setup.Write(path, text, c.Force, a.env); {
	case errors.Is(err, setup.ErrExists):
		return usagef("%s is there already, and stays as it is: name another file with --output, print with --output -, or replace it with --force", c.Output)
	case err != nil:
		return err
	}
	return c.report(a, path, proposal)
}

// propose makes the configuration.
func (c *initCmd) propose(a *app) (setup.Proposal, error) {
	o := setup.Options{Env: a.env, Bundled: bundled()}
	for _, folder := range c.Models {
		path, err := filepath.Abs(folder)
		if at, statErr := os.Stat(path); err != nil || statErr != nil || !at.IsDir() {
			return setup.Proposal{}, usagef("%s is no folder", folder)
		}
		o.Folders = append(o.Folders, setup.At(path))
	}
	seen := setup.Look(a.ctx, o)
	switch c.From {
	case fromSwap:
		raw, err := readFile(a.stdin, c.Source, maxConfig)
		if err != nil {
			return setup.Proposal{}, err
		}
		folder := "."
		if c.Source != "-" {
			folder = filepath.Dir(c.Source)
		}
		if folder, err = filepath.Abs(folder); err != nil {
			return setup.Proposal{}, fmt.Errorf("where this program runs: %w", err)
		}
		return setup.Swap(raw, seen, folder, a.env)
	case fromOllama:
		seen.Ollama(a.env)
	}
	return setup.Propose(seen)
}

// bundled is where the model that comes with this program may be: beside it, or here.
func bundled() []string {
	below := filepath.Join("models", "haiku", "haiku.gguf")
	var all []string
	if exe, err := os.Executable(); err == nil {
		all = append(all, filepath.Join(filepath.Dir(filepath.Dir(exe)), below))
	}
	if here, err := filepath.Abs(below); err == nil {
		all = append(all, here)
	}
	return all
}

// left says on stderr what could not be taken along.
func (c *initCmd) left(a *app, p setup.Proposal) {
	if a.json {
		return
	}
	for _, l := range p.Left {
		a.note("left out: %s", l)
	}
}

// poolReport is what --json says of a pool.
type poolReport struct {
	ID        string   `json:"id"`
	Model     string   `json:"model"`
	Ref       string   `json:"ref"`
	Device    string   `json:"device"`
	Ctx       int      `json:"ctx"`
	Lifecycle string   `json:"lifecycle"`
	Why       []string `json:"why"`
}

func (c *initCmd) report(a *app, path string, p setup.Proposal) error {
	var pools []poolReport
	rows := [][]string{{"POOL", "MODEL", "DEVICE", "CTX", "LIFECYCLE"}}
	for _, pool := range p.Pools {
		r := poolReport{pool.ID, pool.Model.ID, pool.Model.Ref, string(pool.Device), pool.Ctx, pool.Lifecycle, pool.Whys}
		if r.Lifecycle == "" {
			r.Lifecycle = "pinned"
		}
		pools = append(pools, r)
		ctx := ""
		if r.Ctx > 0 {
			ctx = strconv.Itoa(r.Ctx)
		}
		rows = append(rows, []string{r.ID, r.Model, r.Device, ctx, r.Lifecycle})
	}
	if a.json {
		left := p.Left
		if left == nil {
			left = []setup.Left{}
		}
		return a.printJSON(map[string]any{"file": path, "pools": pools, "left_out": left})
	}
	c.left(a, p)
	if err := a.table(rows); err != nil {
		return err
	}
	_, err := io.WriteString(a.out, strings.Join([]string{
		"", "Written: " + path + ". It says why each pool is as it is. Next:", "  orchestratord check --config " + c.Output, "  orchestratord serve --config " + c.Output, "",
	}, "\n"))
	return err
}
