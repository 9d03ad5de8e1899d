// SPDX-License-Identifier: GPL-3.0-or-later

// Package applet is the catalogue of the utils: each is a function from one struct to another, with a name, a sentence and the JSON schemas of both, so
// that the command line and blueprints run it by JSON (LO-910). Go programs call the packages themselves.
package applet

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/utils/exec"
	"github.com/llama-orch/llama-orch/utils/fs"
	"github.com/llama-orch/llama-orch/utils/guard"
	"github.com/llama-orch/llama-orch/utils/llm"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// Env is what applets work with. What is nil is not there, and an applet that needs it says so.
type Env struct {
	Root   *fs.Root     // of fs.*
	Exec   *exec.Policy // of exec.run
	Caller llm.Caller   // of llm.* and whatever else asks a server, which an *sdk.Client is
	Golden string       // the folder of determinism.record and replay
	Guard  *guard.Guard // of everything; nil allows all
	// Task, if set, is told the id of each task that an applet submits, from any goroutine.
	Task func(id string)
	// Wait, if set, is told that a server does not take a task yet, why, and when it is asked again, from any goroutine.
	Wait func(cause error, wait time.Duration)
}

// Applet is one function of the catalogue.
type Applet struct {
	Name string         `json:"name"`
	Doc  string         `json:"doc"` // one sentence
	In   *schema.Schema `json:"in"`
	Out  *schema.Schema `json:"out"`
	// Acts says that running it twice is not the same as running it once, or that what it gives depends on more than its input: files, the machine.
	Acts bool `json:"acts,omitempty"`

	run func(ctx context.Context, env *Env, in json.RawMessage) (json.RawMessage, error)
}

// InputError says that an applet's input is not what its schema allows. Nothing has happened.
type InputError struct {
	Applet string
	Err    error // *schema.MismatchError or *schema.BrokenError
}

func (e *InputError) Error() string {
	return fmt.Sprintf("the input of %s: %v; `llama-orch applet show %s` has its fields", e.Applet, e.Err, e.Applet)
}

func (e *InputError) Unwrap() error { return e.Err }

// UnknownError says that there is no applet of a name.
type UnknownError struct{ Name, Nearest string }

func (e *UnknownError) Error() string {
	if e.Nearest != "" {
		return fmt.Sprintf("there is no applet %q; did you mean %q?", e.Name, e.Nearest)
	}
	return fmt.Sprintf("there is no applet %q; `llama-orch applet list` has all", e.Name)
}

// NeedError says that an applet needs something that it was not given.
type NeedError struct{ Applet, What string }

func (e *NeedError) Error() string { return fmt.Sprintf("applet %s needs %s", e.Applet, e.What) }

// New makes an applet of a function.
func New[In, Out any](name, doc string, f func(ctx context.Context, env *Env, in In) (Out, error)) Applet {
	return Applet{
		Name: name, Doc: doc, In: schema.Of[In](), Out: schema.Of[Out](),
		run: func(ctx context.Context, env *Env, raw json.RawMessage) (json.RawMessage, error) {
			in, err := schema.Decode[In](raw)
			if err != nil {
				return nil, &InputError{Applet: name, Err: err}
			}
			out, err := f(ctx, env, in)
			if err != nil {
				return nil, err
			}
			return marshal(out)
		},
	}
}

func acting(a Applet) Applet {
	a.Acts = true
	return a
}

func marshal(value any) (json.RawMessage, error) {
	plain, err := plainjson.Encode(value)
	if err != nil {
		return nil, fmt.Errorf("write the result: %w", err)
	}
	return plain, nil
}

// Run runs the applet.
func (a Applet) Run(ctx context.Context, env *Env, in json.RawMessage) (json.RawMessage, error) {
	if env == nil {
		env = &Env{}
	}
	return a.run(ctx, env, in)
}

// Catalog is a list of applets, sorted by name.
type Catalog []Applet

// All has every applet of the utils.
func All() Catalog {
	all := slices.Concat(files(), extracts(), schemas(), commands(), prompts(), models(), servers(), replays(), proofs())
	slices.SortFunc(all, func(a, b Applet) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Find returns the applet of a name. Its error is an *UnknownError.
func (c Catalog) Find(name string) (Applet, error) {
	names := make([]string, len(c))
	for i, a := range c {
		if a.Name == name {
			return a, nil
		}
		names[i] = a.Name
	}
	like := nearest.Name(name, names)
	if like == "" { // the last part is what people remember
		if at := slices.IndexFunc(names, func(known string) bool { return strings.HasSuffix(known, "."+name) }); at >= 0 {
			like = names[at]
		}
	}
	return Applet{}, &UnknownError{Name: name, Nearest: like}
}

// Nothing is the result of an applet that has none.
type Nothing struct{}
