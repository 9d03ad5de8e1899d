// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/utils/applet"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// checker collects what is wrong with a blueprint.
type checker struct {
	file     string
	catalog  applet.Catalog
	lines    map[string]int // by path
	problems []Problem
}

// Check checks a blueprint of a Go program. Its error is a *CheckError.
func (b *Blueprint) Check(catalog applet.Catalog) error {
	_, err := b.checked(catalog)
	return err
}

// checked is the blueprint as a file would have it.
func (b *Blueprint) checked(catalog applet.Catalog) (*Blueprint, error) {
	b, err := b.plain()
	if err != nil {
		return nil, err
	}
	c := &checker{catalog: catalog}
	c.check(b)
	return b, c.err()
}

func (c *checker) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return a.Line - b.Line })
	return &CheckError{File: c.file, Problems: c.problems}
}

// problem notes what is wrong at a path, with the line of it or of what is around it.
func (c *checker) problem(path, format string, args ...any) {
	at := path
	line, ok := c.lines[at]
	for !ok && at != "" {
		at = at[:max(strings.LastIndexAny(at, ".["), 0)]
		line, ok = c.lines[at]
	}
	c.problems = append(c.problems, Problem{Line: line, Path: path, Problem: fmt.Sprintf(format, args...)})
}

// form notes what the file's schema does not allow.
func (c *checker) form(p schema.Problem) {
	problem := p.Problem
	name := p.Path[strings.LastIndexByte(p.Path, '.')+1:]
	known := schema.Of[Step]().Fields()
	if strings.Contains(p.Path, "repeat.") {
		known = schema.Of[Repeat]().Fields()
	} else if strings.HasPrefix(p.Path, "inputs.") {
		known = schema.Of[Input]().Fields()
	}
	if like := nearest.Name(name, known); strings.Contains(problem, "no such field") && !strings.Contains(problem, "mean") && like != "" {
		problem += fmt.Sprintf("; did you mean %q?", like)
	}
	c.problem(p.Path, "%s", problem)
}

// seen is what references may mean at one place.
type seen struct {
	parent *seen
	inputs map[string]Input
	steps  map[string]*Step
	each   bool
	repeat bool
}

func (s *seen) step(id string) *Step {
	for at := s; at != nil; at = at.parent {
		if step, ok := at.steps[id]; ok {
			return step
		}
	}
	return nil
}

func (s *seen) has(is func(*seen) bool) bool {
	for at := s; at != nil; at = at.parent {
		if is(at) {
			return true
		}
	}
	return false
}

func (s *seen) names() (inputs, steps []string) {
	for at := s; at != nil; at = at.parent {
		inputs = slices.AppendSeq(inputs, maps.Keys(at.inputs))
		steps = slices.AppendSeq(steps, maps.Keys(at.steps))
	}
	slices.Sort(inputs)
	slices.Sort(steps)
	return inputs, steps
}

func (c *checker) check(b *Blueprint) {
	around := &seen{inputs: b.Inputs}
	in := c.graph(b.Steps, around, "")
	c.refs(b.Result, in, "result")
}

// refs checks the references in a value.
func (c *checker) refs(value any, in *seen, path string) {
	switch v := value.(type) {
	case []any:
		for i, one := range v {
			c.refs(one, in, fmt.Sprintf("%s[%d]", path, i))
		}
	case map[string]any:
		for name, one := range v {
			c.refs(one, in, join(path, name))
		}
	default:
		all, wrong := refs(value)
		for _, err := range wrong {
			c.problem(path, "%s", err)
		}
		for _, r := range all {
			c.ref(r, in, path)
		}
	}
}

func (c *checker) ref(r ref, in *seen, path string) {
	switch name := r.name(); r.root {
	case "inputs":
		if !in.has(func(s *seen) bool { _, ok := s.inputs[name]; return ok }) {
			inputs, _ := in.names()
			c.problem(path, "${%s}: there is no input %q%s", r.text, name, meant(name, inputs))
		}
	case "steps":
		step := in.step(name)
		if step == nil {
			_, steps := in.names()
			c.problem(path, "${%s}: there is no step %q here%s", r.text, name, meant(name, steps))
			return
		}
		c.result(r, step, path)
	case "item", "index":
		if !in.has(func(s *seen) bool { return s.each }) {
			c.problem(path, "${%s} is only there in a step with each", r.text)
		}
	case "last":
		if !in.has(func(s *seen) bool { return s.repeat }) {
			c.problem(path, "${%s} is only there in a step with repeat", r.text)
		}
	}
}

// result checks what a reference picks from a step's result.
func (c *checker) result(r ref, step *Step, path string) {
	parts := r.parts[1:]
	if step.Each != nil && len(parts) > 0 {
		if parts[0][0] != '[' {
			c.problem(path, "${%s}: the result of %q is a list, since it has each: write ${steps.%s[*]%s}", r.text, step.ID, step.ID, strings.Join(parts, ""))
			return
		}
		parts = parts[1:]
	}
	if len(parts) == 0 || step.Use == "" {
		return
	}
	a, err := c.catalog.Find(step.Use)
	if err != nil || len(a.Out.Fields()) == 0 { // the step has its own problem
		return
	}
	if name := strings.TrimPrefix(parts[0], "."); !slices.Contains(a.Out.Fields(), name) {
		c.problem(path, "${%s}: the result of %s has no field %q%s", r.text, step.Use, name, meant(name, a.Out.Fields()))
	}
}

func meant(name string, known []string) string {
	if like := nearest.Name(name, known); like != "" {
		return fmt.Sprintf("; did you mean %q?", like)
	}
	if len(known) == 0 {
		return ""
	}
	return "; there are " + strings.Join(known, ", ")
}

// graph checks steps that refer to each other.
func (c *checker) graph(steps []Step, around *seen, path string) *seen {
	in := &seen{parent: around, steps: map[string]*Step{}}
	for i := range steps {
		s := &steps[i]
		if in.step(s.ID) != nil {
			c.problem(fmt.Sprintf("%s[%d].id", join(path, "steps"), i), "there is another step %q here, or around this one: give it another name", s.ID)
		}
		in.steps[s.ID] = s
	}
	for i := range steps {
		c.step(&steps[i], in, fmt.Sprintf("%s[%d]", join(path, "steps"), i))
	}
	c.cycle(steps, path)
	return in
}

func (c *checker) step(s *Step, in *seen, path string) {
	for i, id := range s.After {
		if in.steps[id] == nil {
			c.problem(fmt.Sprintf("%s.after[%d]", path, i), "there is no step %q in this graph%s", id, meant(id, slices.Sorted(maps.Keys(in.steps))))
		}
	}
	c.test(s.If, in, path+".if")
	c.refs(s.Each, in, path+".each")
	switch each := s.Each.(type) {
	case nil, []any:
	case string:
		if begin, end := find(each); begin < 0 || each[begin:end] != strings.TrimSpace(each) {
			c.problem(path+".each", "it has to be a list, or one reference to a list")
		}
	default:
		c.problem(path+".each", "it has to be a list, or one reference to a list")
	}
	inside := &seen{parent: in, each: s.Each != nil, repeat: s.Repeat != nil}
	if s.Repeat != nil {
		c.test(s.Repeat.Until, inside, path+".repeat.until")
	}
	if (s.Use == "") == (len(s.Steps) == 0) {
		c.problem(path, "a step has either use, the name of an applet, or steps of its own")
		return
	}
	if s.Use == "" {
		if len(s.With) > 0 {
			c.problem(path+".with", "a group has no input: its steps refer to what they need")
		}
		c.refs(s.Result, c.graph(s.Steps, inside, path), path+".result")
		return
	}
	if s.Result != nil {
		c.problem(path+".result", "the result of an applet is its own: only groups have this")
	}
	c.with(s, inside, path)
}

// with checks a step's input.
func (c *checker) with(s *Step, in *seen, path string) {
	c.refs(s.With, in, path+".with")
	a, err := c.catalog.Find(s.Use)
	if err != nil {
		c.problem(path+".use", "%s", err)
		return
	}
	known := a.In.Fields()
	for _, name := range slices.Sorted(maps.Keys(s.With)) {
		if len(known) > 0 && !slices.Contains(known, name) {
			c.problem(join(path+".with", name), "%s has no field %q%s", s.Use, name, meant(name, known))
		}
	}
	for _, name := range a.In.Required() {
		if _, ok := s.With[name]; !ok {
			c.problem(path+".with", "%s needs %q", s.Use, name)
		}
	}
	if all, wrong := refs(s.With); len(all)+len(wrong) > 0 { // its types are known when it runs
		return
	}
	raw, err := plainjson.Encode(s.With)
	if err != nil {
		c.problem(path+".with", "it cannot be written as JSON: %v", err)
		return
	}
	if wrong, ok := errors.AsType[*schema.MismatchError](a.In.Check(raw)); ok {
		for _, p := range wrong.Problems {
			if !strings.Contains(p.Problem, "missing") && !strings.Contains(p.Problem, "no such field") {
				c.problem(join(path+".with", p.Path), "%s", p.Problem)
			}
		}
	}
}

func (c *checker) test(text string, in *seen, path string) {
	if text == "" {
		return
	}
	t, err := parseTest(text)
	if err != nil {
		c.problem(path, "%s", err)
		return
	}
	c.ref(t.of, in, path)
}

// needs lists the steps of its own graph that a step waits for.
func (s *Step) needs(graph map[string]int) []string {
	var all []string
	var walk func(s *Step)
	walk = func(s *Step) {
		values := []any{s.With, s.Each, s.If, s.Result}
		if s.Repeat != nil {
			values = append(values, s.Repeat.Until)
		}
		found, _ := refs(values)
		for _, r := range found {
			if r.root == "steps" {
				all = append(all, r.name())
			}
		}
		for i := range s.Steps {
			walk(&s.Steps[i])
		}
	}
	walk(s)
	all = append(all, s.After...)
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(id string) bool {
		_, ok := graph[id]
		return !ok
	})
}

func index(steps []Step) map[string]int {
	graph := make(map[string]int, len(steps))
	for i := range steps {
		graph[steps[i].ID] = i
	}
	return graph
}

// cycle finds steps that wait for each other, and names them in their order.
func (c *checker) cycle(steps []Step, path string) {
	graph := index(steps)
	state := make([]int, len(steps)) // 1: on the way, 2: done
	var way []string
	var visit func(i int) bool
	visit = func(i int) bool {
		way = append(way, steps[i].ID)
		defer func() { way = way[:len(way)-1] }()
		switch state[i] {
		case 1:
			from := slices.Index(way, steps[i].ID)
			c.problem(fmt.Sprintf("%s[%d]", join(path, "steps"), i), "steps wait for each other: %s; have one of them refer to something else", strings.Join(way[from:], " → "))
			return true
		case 2:
			return false
		}
		state[i] = 1
		for _, id := range steps[i].needs(graph) {
			if visit(graph[id]) {
				return true
			}
		}
		state[i] = 2
		return false
	}
	for i := range steps {
		if visit(i) {
			return
		}
	}
}
