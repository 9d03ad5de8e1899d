// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/utils/applet"
)

// DefaultParallel is how many applets run at once.
const DefaultParallel = 4

// Runner runs blueprints. Catalog and Dir are required.
type Runner struct {
	Catalog  applet.Catalog
	Env      applet.Env
	Dir      string // what is kept, and the record of the run
	Parallel int    // applets at once; default DefaultParallel
	// Proof, if set, fetches a task's proof bundle; nil if there is none.
	Proof func(ctx context.Context, taskID string) ([]byte, error)
	// Step, if set, is told of each step that has ended, from several goroutines.
	Step func(Entry)
}

// StepError says which step failed.
type StepError struct {
	Path string
	Use  string
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("step %s (%s): %v", e.Path, e.Use, e.Err) }

func (e *StepError) Unwrap() error { return e.Err }

// InputError says what is wrong with the inputs of a run. Nothing has run.
type InputError struct{ Problem string }

func (e *InputError) Error() string { return e.Problem }

// Run checks a blueprint, runs it, and returns its result as JSON. Where the last run in the folder was of the same blueprint and inputs and did not end, it goes on
// with that one. Inputs are what JSON has.
func (r *Runner) Run(ctx context.Context, b *Blueprint, inputs map[string]any) (_ json.RawMessage, err error) {
	if b, err = b.checked(r.Catalog); err != nil {
		return nil, err
	}
	inputs, err = b.given(inputs)
	if err != nil {
		return nil, err
	}
	raw, err := plainjson.Encode([]any{b, inputs})
	if err != nil {
		return nil, err
	}
	s, err := open(r.Dir, b.Name, sum(raw))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	e := &execution{Runner: *r, store: s, slots: make(chan struct{}, cmp.Or(max(r.Parallel, 0), DefaultParallel)), applets: map[string]applet.Applet{}}
	for _, a := range r.Catalog {
		e.applets[a.Name] = a
	}
	in, err := e.graph(ctx, b.Steps, &scope{inputs: inputs})
	var result []byte
	if err == nil {
		result, err = plainjson.Encode(in.give(b.Result))
	}
	if err == nil {
		err = s.write(resultName, append(result, '\n'))
	}
	if err != nil {
		return nil, errors.Join(err, s.note(Entry{State: Failed, Error: err.Error()}))
	}
	return result, s.note(Entry{State: Done, Digest: sum(result)})
}

// given returns the inputs of a run, with the defaults of those that were not given.
func (b *Blueprint) given(inputs map[string]any) (map[string]any, error) {
	all := map[string]any{}
	known := slices.Sorted(maps.Keys(b.Inputs))
	for name := range inputs {
		if _, ok := b.Inputs[name]; !ok {
			return nil, &InputError{Problem: fmt.Sprintf("the blueprint has no input %q%s", name, meant(name, known))}
		}
	}
	for _, name := range known {
		value, ok := inputs[name]
		if !ok {
			value = b.Inputs[name].Default
		}
		if !ok && value == nil {
			return nil, &InputError{Problem: fmt.Sprintf("the input %q has no default: give it a value (%s)", name, cmp.Or(b.Inputs[name].Doc, "it has no description"))}
		}
		raw, err := plainjson.Encode(value)
		if err == nil {
			all[name], err = decode(raw)
		}
		if err != nil {
			return nil, &InputError{Problem: fmt.Sprintf("the input %q cannot be written as JSON: %v", name, err)}
		}
	}
	return all, nil
}

// execution is one run.
type execution struct {
	Runner
	store   *store
	slots   chan struct{} // one for each applet that may run
	applets map[string]applet.Applet
}

// give returns the result of a graph: what was asked for, or the results of all its steps.
func (s *scope) give(result any) any {
	if result != nil {
		return s.fill(result)
	}
	all := make(map[string]any, len(s.result))
	for id, one := range s.result {
		all[id] = *one
	}
	return all
}

// graph runs steps, each when those that it waits for have ended.
func (e *execution) graph(ctx context.Context, steps []Step, around *scope) (*scope, error) {
	in := &scope{parent: around, result: map[string]*any{}, salt: around.salt, path: around.path}
	graph := index(steps)
	waits, next := make([]atomic.Int64, len(steps)), make([][]int, len(steps)) // for how many a step waits; which wait for it
	var ready []int
	for i := range steps {
		in.result[steps[i].ID] = new(any)
		needs := steps[i].needs(graph)
		waits[i].Store(int64(len(needs)))
		for _, id := range needs {
			next[graph[id]] = append(next[graph[id]], i)
		}
		if len(needs) == 0 {
			ready = append(ready, i)
		}
	}
	all, ctx := errgroup.WithContext(ctx)
	var start func(i int)
	start = func(i int) {
		all.Go(func() error {
			for i >= 0 {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				result, err := e.step(ctx, &steps[i], in)
				if err != nil {
					return err
				}
				*in.result[steps[i].ID] = result
				then := -1 // the first that may begin now goes on here: a goroutine of its own would cost it a stack
				for _, after := range next[i] {
					switch {
					case waits[after].Add(-1) > 0:
					case then < 0:
						then = after
					default:
						start(after)
					}
				}
				i = then
			}
			return nil
		})
	}
	for _, i := range ready {
		start(i)
	}
	return in, all.Wait()
}

// step runs a step with its condition and its loops.
func (e *execution) step(ctx context.Context, s *Step, in *scope) (any, error) {
	path := join(in.path, s.ID)
	if s.If != "" {
		t, err := parseTest(s.If)
		if err != nil {
			return nil, err
		}
		if !t.holds(in) {
			return nil, e.ends(Entry{Path: path, State: Skipped, Use: s.Use})
		}
	}
	if s.Each == nil {
		return e.tried(ctx, s, &scope{parent: in, salt: in.salt, path: path})
	}
	items, ok := in.fill(s.Each).([]any)
	if !ok || len(items) > MaxItems {
		return nil, &StepError{Path: path, Use: s.Use, Err: fmt.Errorf("each needs a list of at most %d items: look at what it refers to", MaxItems)}
	}
	results := make([]any, len(items))
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(cap(e.slots))
	for i, item := range items {
		all.Go(func() (err error) {
			results[i], err = e.tried(ctx, s, &scope{
				parent: in, salt: in.salt, path: path + "[" + strconv.Itoa(i) + "]", vars: map[string]any{"item": item, "index": json.Number(strconv.Itoa(i))},
			})
			return err
		})
	}
	return results, all.Wait()
}

// tried runs a step again where it fails.
func (e *execution) tried(ctx context.Context, s *Step, in *scope) (any, error) {
	for try := 1; ; try++ {
		at := in
		if try > 1 && s.Use == "" { // what the group's steps gave the first time would lead to the same end
			at = &scope{parent: in, salt: in.salt + "/try " + strconv.Itoa(try), path: in.path}
		}
		result, err := e.repeated(ctx, s, at, try)
		if err == nil || try > s.Retry || ctx.Err() != nil || !again(err) {
			return result, err
		}
	}
}

// again says whether a step that failed so may do better.
func again(err error) bool {
	_, input := errors.AsType[*applet.InputError](err)
	_, need := errors.AsType[*applet.NeedError](err)
	return !input && !need
}

// repeated runs a step until its condition holds.
func (e *execution) repeated(ctx context.Context, s *Step, in *scope, try int) (any, error) {
	if s.Repeat == nil {
		return e.once(ctx, s, in, try)
	}
	t, err := parseTest(s.Repeat.Until)
	if err != nil {
		return nil, err
	}
	var last any
	for n := 1; n <= s.Repeat.Most; n++ {
		at := &scope{parent: in, salt: in.salt, path: in.path + "#" + strconv.Itoa(n), vars: map[string]any{"last": last}}
		if n > 1 {
			at.salt += "/time " + strconv.Itoa(n)
		}
		if last, err = e.once(ctx, s, at, try); err != nil {
			return nil, err
		}
		if t.holds(&scope{parent: in, vars: map[string]any{"last": last}}) {
			break
		}
	}
	return last, nil
}

// once runs a group, or an applet.
func (e *execution) once(ctx context.Context, s *Step, in *scope, try int) (any, error) {
	if s.Use == "" {
		inside, err := e.graph(ctx, s.Steps, in)
		if err != nil {
			return nil, err
		}
		return inside.give(s.Result), nil
	}
	with := s.With
	if with == nil {
		with = map[string]any{}
	}
	raw, err := plainjson.Encode(in.fill(with))
	if err != nil {
		return nil, err
	}
	entry := Entry{Path: in.path, Use: s.Use, Tries: try, Digest: sum([]byte(s.Use+"\n"+in.salt+"\n"), raw)}
	a := e.applets[s.Use]
	if k, ok := e.store.get(entry.Digest); ok && (!a.Acts || e.store.before[entry.Path] == entry.Digest) {
		value, err := decode(k.Out)
		if err != nil {
			return nil, err
		}
		entry.State, entry.Tasks, entry.Tries = Kept, k.Tasks, 0
		return value, e.ends(entry)
	}
	select {
	case e.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-e.slots }()
	began := time.Now()
	out, tasks, err := e.call(ctx, a, raw)
	entry.Micros, entry.Tasks = time.Since(began).Microseconds(), tasks
	if err = errors.Join(err, e.proofs(ctx, tasks)); err != nil {
		entry.State, entry.Error = Failed, err.Error()
		return nil, errors.Join(&StepError{Path: in.path, Use: s.Use, Err: err}, e.ends(entry))
	}
	value, err := decode(out)
	if err == nil {
		err = e.store.put(entry.Digest, out, tasks)
	}
	if err != nil {
		return nil, err
	}
	entry.State = Done
	return value, e.ends(entry)
}

func (e *execution) ends(entry Entry) error {
	if e.Step != nil {
		e.Step(entry)
	}
	return e.store.note(entry)
}

// call runs an applet, and gathers the tasks that it submits. A panic in it is an error.
func (e *execution) call(ctx context.Context, a applet.Applet, in json.RawMessage) (out json.RawMessage, tasks []string, err error) {
	var mu sync.Mutex
	env := e.Env
	env.Task = func(id string) {
		mu.Lock()
		defer mu.Unlock()
		tasks = append(tasks, id)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it broke: %v\n%s", p, debug.Stack())
		}
	}()
	out, err = a.Run(ctx, &env, in)
	mu.Lock()
	defer mu.Unlock()
	return out, slices.Clone(tasks), err
}

// fileName is what a task's id has to be so that it can name a file.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// proofs fetches the proof bundles of tasks.
func (e *execution) proofs(ctx context.Context, tasks []string) error {
	if e.Proof == nil {
		return nil
	}
	for _, id := range tasks {
		if !fileName.MatchString(id) {
			continue
		}
		bundle, err := e.Proof(ctx, id)
		if err != nil {
			return fmt.Errorf("fetch the proof bundle of task %s: %w", id, err)
		}
		if bundle == nil {
			continue
		}
		if err := e.store.write(filepath.Join(proofsDir, id+".json"), bundle); err != nil {
			return err
		}
	}
	return nil
}

// Planned is a step of a plan.
type Planned struct {
	Path  string   `json:"path"`
	Use   string   `json:"use,omitempty"` // "" for a group
	After []string `json:"after,omitempty"`
	Notes []string `json:"notes,omitempty"` // its condition and its loops
}

// Plan lists the steps in an order in which they may run.
func (b *Blueprint) Plan() []Planned {
	var all []Planned
	var walk func(steps []Step, path string)
	walk = func(steps []Step, path string) {
		graph := index(steps)
		listed := make([]bool, len(steps))
		var visit func(i int)
		visit = func(i int) {
			if listed[i] {
				return
			}
			listed[i] = true
			s := &steps[i]
			needs := s.needs(graph)
			for _, id := range needs {
				visit(graph[id])
			}
			all = append(all, Planned{Path: join(path, s.ID), Use: s.Use, After: needs, Notes: s.notes()})
			walk(s.Steps, join(path, s.ID))
		}
		for i := range steps {
			visit(i)
		}
	}
	walk(b.Steps, "")
	return all
}

func (s *Step) notes() []string {
	var all []string
	if s.If != "" {
		all = append(all, "if "+strings.TrimSpace(s.If))
	}
	switch each := s.Each.(type) {
	case nil:
	case []any:
		all = append(all, fmt.Sprintf("each of %d", len(each)))
	default:
		all = append(all, "each of "+text(each))
	}
	if s.Repeat != nil {
		all = append(all, fmt.Sprintf("until %s, at most %d times", s.Repeat.Until, s.Repeat.Most))
	}
	if s.Retry > 0 {
		all = append(all, fmt.Sprintf("up to %d more tries", s.Retry))
	}
	return all
}
