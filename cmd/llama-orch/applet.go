// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/utils/applet"
	"github.com/llama-orch/llama-orch/utils/exec"
	"github.com/llama-orch/llama-orch/utils/fs"
	"github.com/llama-orch/llama-orch/utils/guard"
)

// maxAppletInput bounds the JSON that an applet is given.
const maxAppletInput = 16 << 20

// appletCmd holds the commands for the functions of the utils.
type appletCmd struct {
	List appletListCmd `cmd:"" default:"withargs" help:"List the applets."`
	Show appletShowCmd `cmd:"" help:"Show an applet with the JSON schemas of its input and its result."`
	Run  appletRunCmd  `cmd:"" help:"Run an applet: JSON in, JSON out."`
}

type appletListCmd struct{}

// Run lists the applets.
func (appletListCmd) Run(a *app) error {
	all := applet.All()
	if a.json {
		return a.printJSON(all)
	}
	rows := [][]string{{"APPLET", "INPUT", "DOES"}}
	for _, one := range all {
		rows = append(rows, []string{one.Name, fields(one), one.Doc})
	}
	return a.table(rows)
}

// fields lists the fields of an applet's input, with those in brackets that may be left out.
func fields(a applet.Applet) string {
	needed := map[string]bool{}
	for _, name := range a.In.Required() {
		needed[name] = true
	}
	var all []string
	for _, name := range a.In.Fields() {
		if !needed[name] {
			name = "[" + name + "]"
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

type appletShowCmd struct {
	Name string `arg:"" help:"The applet's name, such as fs.read."`
}

// Run shows an applet.
func (c *appletShowCmd) Run(a *app) error {
	one, err := findApplet(c.Name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(one)
	}
	fmt.Fprintf(a.out, "%s: %s\n", one.Name, one.Doc)
	for _, part := range []struct {
		title  string
		schema any
	}{{"input", one.In}, {"result", one.Out}} {
		text, err := json.MarshalIndent(part.schema, "", "  ")
		if err != nil {
			return fmt.Errorf("writing the schema: %w", err)
		}
		if _, err := fmt.Fprintf(a.out, "\n%s:\n%s\n", part.title, text); err != nil {
			return fmt.Errorf("printing the schema: %w", err)
		}
	}
	return nil
}

// appletEnv are the flags that say what applets may do.
type appletEnv struct {
	Root    string        `placeholder:"DIR" type:"path" help:"The folder whose files fs.* may use. Default: none."`
	Golden  string        `placeholder:"DIR" type:"path" help:"The folder of golden transcripts of determinism.*. Default: none."`
	Allow   []string      `placeholder:"COMMAND" help:"A command that exec.run may run; again for more. Default: none."`
	Timeout time.Duration `default:"10s" placeholder:"TIME" help:"How long a command may take (default: 10s)."`

	MaxCalls  int           `placeholder:"N" help:"How many tasks may be submitted. Default: any number."`
	MaxTokens int64         `placeholder:"N" help:"How many tokens all tasks together may take, in and out. Default: any number."`
	MaxTime   time.Duration `placeholder:"TIME" help:"How long tasks may be submitted and run, such as 5m. Default: for ever."`
	MaxJoules float64       `placeholder:"J" help:"How many joules cards may take for the tasks, as far as the server tells, before the next one is refused. Default: any number."`
}

// waiting says once in a while why nothing happens: a server that refuses for now, or that is not there.
func (a *app) waiting(cause error, wait time.Duration) {
	if a.json || wait < time.Second {
		return
	}
	message, _, _, _ := a.explain(cause)
	a.note("waiting %s: %s", duration(wait.Milliseconds()), message)
}

// open makes the environment. close is to be called when all has run.
func (e *appletEnv) open(a *app) (env *applet.Env, closes func() error, err error) {
	if e.MaxCalls < 0 || e.MaxTokens < 0 || e.MaxTime < 0 || e.MaxJoules < 0 {
		return nil, nil, usagef("a budget is a number above 0: --max-calls, --max-tokens, --max-time, --max-joules")
	}
	env = &applet.Env{Caller: a.client, Golden: e.Golden, Wait: a.waiting}
	closes = func() error { return nil }
	if e.Root != "" {
		if env.Root, err = fs.Open(e.Root, fs.Limits{}); err != nil {
			return nil, nil, usageError{err}
		}
		closes = env.Root.Close
	}
	if len(e.Allow) > 0 {
		env.Exec = &exec.Policy{Allow: e.Allow, Time: e.Timeout}
	}
	if e.MaxCalls > 0 || e.MaxTokens > 0 || e.MaxTime > 0 || e.MaxJoules > 0 { // files and commands are held to --root and --allow already
		env.Guard = guard.New(guard.Rules{Calls: e.MaxCalls, Tokens: e.MaxTokens, Time: e.MaxTime, Joules: e.MaxJoules, Paths: []string{"."}, Commands: e.Allow})
	}
	return env, closes, nil
}

type appletRunCmd struct {
	Name  string `arg:"" help:"The applet's name, such as fs.read."`
	Input string `arg:"" optional:"" placeholder:"JSON" help:"Its input (default: read from stdin)."`
	appletEnv
}

// Run runs an applet. Its result is JSON, also without --json.
func (c *appletRunCmd) Run(a *app) error {
	one, err := findApplet(c.Name)
	if err != nil {
		return err
	}
	in := []byte(c.Input)
	if c.Input == "" {
		if in, err = io.ReadAll(io.LimitReader(a.stdin, maxAppletInput+1)); err != nil {
			return fmt.Errorf("reading the input: %w", err)
		}
		if len(in) > maxAppletInput {
			return usagef("the input is larger than %d bytes", maxAppletInput)
		}
	}
	env, closes, err := c.open(a)
	if err != nil {
		return err
	}
	out, err := one.Run(a.ctx, env, in)
	err = errors.Join(err, closes())
	if wrong, ok := errors.AsType[*applet.InputError](err); ok {
		return usageError{wrong}
	}
	if need, ok := errors.AsType[*applet.NeedError](err); ok {
		return usagef("%w, by --root, --allow, --golden or --addr", need)
	}
	if err != nil {
		return err
	}
	return a.printJSON(out)
}

func findApplet(name string) (applet.Applet, error) {
	one, err := applet.All().Find(name)
	if err != nil {
		return one, usageError{err}
	}
	return one, nil
}
