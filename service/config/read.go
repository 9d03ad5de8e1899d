// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
	"github.com/invopop/jsonschema"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/service/task"
)

// A reader turns a YAML tree into Go values, guided by the JSON Schema, and notes the place of every value.
type reader struct {
	*problems
	where *positions
}

// shorthands names the field that stands for a whole struct where the file has no mapping for it.
var shorthands = map[reflect.Type]string{
	reflect.TypeFor[Fronts](): "serve",
	reflect.TypeFor[Alias]():  "model",
}

// read reads one value. If the file leaves the value out, node is nil, and the schema's default is used.
func (r *reader) read(node ast.Node, s *jsonschema.Schema, v reflect.Value, path string) {
	if node == nil {
		r.absent(s, v, path)
		return
	}
	r.where.values[path] = at(node)
	if name, short := shorthands[v.Type()]; short && !isMapping(node) {
		r.absent(s, v, path)
		sub, _ := s.Properties.Get(name)
		r.read(node, sub, fields(v)[name], path)
		return
	}
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.read(node, s, v.Elem(), path)
	case v.Type() == reflect.TypeFor[time.Duration]():
		r.duration(node, s, v, path)
	case v.Type() == reflect.TypeFor[Device]():
		r.device(node, v, path)
	case v.Kind() == reflect.Struct, v.Kind() == reflect.Map:
		r.mapping(node, s, v, path)
	case v.Kind() == reflect.Slice:
		r.sequence(node, s, v, path)
	case v.Kind() == reflect.String:
		r.text(node, s, v, path)
	case v.Kind() == reflect.Bool:
		if b, ok := node.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			r.mistyped(node, path, "true or false")
		}
	case v.Kind() == reflect.Int:
		r.whole(node, s, v, path)
	case v.Kind() == reflect.Float64:
		if f, ok := number(node); ok {
			if r.inRange(node, s, f, path) {
				v.SetFloat(f)
			}
		} else {
			r.mistyped(node, path, "a number")
		}
	default:
		r.add(at(node), path+" cannot be read", "this is a mistake in the program, please report it")
	}
}

// absent fills in defaults. If a required value is missing, the mapping around it reports that.
func (r *reader) absent(s *jsonschema.Schema, v reflect.Value, path string) {
	if v.Kind() == reflect.Struct {
		for name, field := range fields(v) {
			if sub, ok := s.Properties.Get(name); ok {
				r.read(nil, sub, field, join(path, name))
			}
		}
		return
	}
	switch d := s.Default.(type) {
	case bool:
		v.SetBool(d)
	case string:
		if v.Type() == reflect.TypeFor[time.Duration]() {
			span, _ := time.ParseDuration(d) // a test reads every default
			v.SetInt(int64(span))
		} else {
			v.SetString(d)
		}
	case json.Number:
		if v.Kind() == reflect.Int {
			n, _ := d.Int64()
			v.SetInt(n)
		} else {
			f, _ := d.Float64()
			v.SetFloat(f)
		}
	}
}

// fields gives a struct's fields by their names in the file.
func fields(v reflect.Value) map[string]reflect.Value {
	out := make(map[string]reflect.Value)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			out[name] = v.Field(i)
		}
	}
	return out
}

func (r *reader) mapping(node ast.Node, s *jsonschema.Schema, v reflect.Value, path string) {
	var entries []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		r.mistyped(node, path, "a mapping of names to values")
		return
	}
	seen := make(map[string]ast.Node)
	for _, e := range entries {
		key, ok := e.Key.(*ast.StringNode)
		if !ok {
			r.add(at(e.Key), "a name is expected here", "write `name: value`, the name in quotes if it looks like a number")
			continue
		}
		if first, double := seen[key.Value]; double {
			r.add(at(key), fmt.Sprintf("%s stands here for the second time, the first is in line %d", task.Clip(join(path, key.Value), maxQuote), at(first).line),
				"keep one of the two")
			continue
		}
		seen[key.Value] = key
		if v.Kind() == reflect.Map {
			r.entry(key, e.Value, s, v, path)
			continue
		}
		sub, known := s.Properties.Get(key.Value)
		if !known {
			r.unknown(key, s, path)
			continue
		}
		r.read(e.Value, sub, fields(v)[key.Value], join(path, key.Value))
	}
	if v.Kind() == reflect.Map {
		return
	}
	for name, field := range fields(v) {
		if seen[name] != nil {
			continue
		}
		if slices.Contains(s.Required, name) {
			r.add(at(node), join(path, name)+" is missing", "add it; "+hint(s, name))
		}
		if sub, ok := s.Properties.Get(name); ok {
			r.read(nil, sub, field, join(path, name))
		}
	}
}

func isMapping(node ast.Node) bool {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

// entry reads one entry of a map whose names the user chooses.
func (r *reader) entry(key *ast.StringNode, value ast.Node, s *jsonschema.Schema, v reflect.Value, path string) {
	if s.PropertyNames != nil && !matches(s.PropertyNames.Pattern, key.Value) {
		remedy := "use letters, digits, dots, dashes and underscores, at most 63"
		if s.PropertyNames.Pattern == aliasPattern {
			remedy = "use letters, digits, and . _ : / -, at most 128, or * alone"
		}
		r.add(at(key), fmt.Sprintf("%q is not a name", task.Clip(key.Value, maxQuote)), remedy)
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	item := reflect.New(v.Type().Elem()).Elem()
	r.read(value, s.AdditionalProperties, item, join(path, key.Value))
	v.SetMapIndex(reflect.ValueOf(key.Value), item)
}

func (r *reader) unknown(key *ast.StringNode, s *jsonschema.Schema, path string) {
	var known []string
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		known = append(known, p.Key)
	}
	remedy := "remove it; known here: " + strings.Join(known, ", ")
	if best := nearest.Name(key.Value, known); best != "" {
		remedy = fmt.Sprintf("did you mean %s? Otherwise %s", best, remedy)
	}
	r.add(at(key), "unknown field "+task.Clip(join(path, key.Value), maxQuote), remedy)
}

func (r *reader) sequence(node ast.Node, s *jsonschema.Schema, v reflect.Value, path string) {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		r.mistyped(node, path, "a list")
		return
	}
	n := len(list.Values)
	if s.MinItems != nil && uint64(n) < *s.MinItems || s.MaxItems != nil && uint64(n) > *s.MaxItems {
		least, most := uint64(0), uint64(math.MaxInt32)
		if s.MinItems != nil {
			least = *s.MinItems
		}
		if s.MaxItems != nil {
			most = *s.MaxItems
		}
		r.add(at(node), fmt.Sprintf("%s has %d entries", path, n), fmt.Sprintf("give from %d to %d", least, most))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i, item := range list.Values {
		r.read(item, s.Items, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (r *reader) text(node ast.Node, s *jsonschema.Schema, v reflect.Value, path string) {
	text, ok := str(node)
	if !ok {
		r.mistyped(node, path, "text")
		return
	}
	switch length := uint64(utf8.RuneCountInString(text)); {
	case s.Enum != nil && !slices.Contains(s.Enum, any(text)):
		var known []string
		for _, e := range s.Enum {
			known = append(known, fmt.Sprint(e))
		}
		remedy := "use " + strings.Join(known, " or ")
		if best := nearest.Name(text, known); best != "" && len(known) > 1 {
			remedy = fmt.Sprintf("did you mean %s? Known: %s", best, strings.Join(known, ", "))
		}
		r.add(at(node), fmt.Sprintf("%s cannot be %q", path, task.Clip(text, maxQuote)), remedy)
	case s.Pattern != "" && !matches(s.Pattern, text):
		r.add(at(node), fmt.Sprintf("%s cannot be %q", path, task.Clip(text, maxQuote)), "it has to match "+s.Pattern+"; "+lower(s.Description))
	case s.MinLength != nil && length < *s.MinLength:
		r.add(at(node), path+" is empty", "fill it in; "+lower(s.Description))
	case s.MaxLength != nil && length > *s.MaxLength:
		r.add(at(node), fmt.Sprintf("%s is %d characters long", path, length), fmt.Sprintf("use at most %d", *s.MaxLength))
	case strings.IndexFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) >= 0:
		r.add(at(node), path+" holds a control character", "remove it; a line break is one")
	default:
		v.SetString(text)
	}
}

func (r *reader) whole(node ast.Node, s *jsonschema.Schema, v reflect.Value, path string) {
	f, ok := integer(node)
	if !ok {
		r.mistyped(node, path, "a whole number")
		return
	}
	if r.inRange(node, s, f, path) {
		v.SetInt(int64(f)) // exact: every bound is far below 2^53
	}
}

func (r *reader) inRange(node ast.Node, s *jsonschema.Schema, f float64, path string) bool {
	least, most := bound(s.Minimum, math.Inf(-1)), bound(s.Maximum, math.Inf(1))
	if f >= least && f <= most {
		return true
	}
	r.add(at(node), fmt.Sprintf("%s is %s, which is out of range", path, task.Clip(raw(node), maxQuote)), fmt.Sprintf("use a value from %s to %s", s.Minimum, s.Maximum))
	return false
}

func bound(n json.Number, none float64) float64 {
	if f, err := n.Float64(); err == nil {
		return f
	}
	return none
}

// maxDuration is small enough that no sum of durations overflows.
const maxDuration = 366 * 24 * time.Hour

func (r *reader) duration(node ast.Node, s *jsonschema.Schema, v reflect.Value, path string) {
	text, ok := str(node)
	if !ok {
		r.mistyped(node, path, "a duration like 30s, 5m or 1h30m")
		return
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil || !matches(s.Pattern, text):
		r.add(at(node), fmt.Sprintf("%s cannot be %q", path, task.Clip(text, maxQuote)), "write a duration like 500ms, 30s, 5m or 1h30m")
	case d < time.Millisecond || d > maxDuration:
		r.add(at(node), fmt.Sprintf("%s is %s, which is out of range", path, task.Clip(text, maxQuote)), "use a duration from 1ms to 8784h")
	default:
		v.SetInt(int64(d))
	}
}

// maxGPU is larger than any machine's number of GPUs.
const maxGPU = 63

func (r *reader) device(node ast.Node, v reflect.Value, path string) {
	const remedy = "write cpu, auto, or a list of GPU indices like [0] or [0, 1]"
	if text, ok := str(node); ok && (text == string(CPU) || text == string(Auto)) {
		v.SetString(text)
		return
	}
	list, ok := node.(*ast.SequenceNode)
	if !ok || len(list.Values) == 0 || len(list.Values) > maxGPU+1 {
		r.add(at(node), fmt.Sprintf("%s cannot be %s", path, task.Clip(raw(node), maxQuote)), remedy)
		return
	}
	var indices []int
	for _, item := range list.Values {
		f, ok := integer(item)
		if !ok || f < 0 || f > maxGPU {
			r.add(at(item), fmt.Sprintf("%s holds %s, which is no GPU index", path, task.Clip(raw(item), maxQuote)), remedy)
			return
		}
		if slices.Contains(indices, int(f)) {
			r.add(at(item), fmt.Sprintf("%s names GPU %d twice", path, int(f)), "name each GPU once")
			return
		}
		indices = append(indices, int(f))
	}
	mask := make([]string, len(indices))
	for i, n := range indices {
		mask[i] = strconv.Itoa(n)
	}
	v.SetString(strings.Join(mask, ","))
}

func (r *reader) mistyped(node ast.Node, path, want string) {
	if path == "" {
		path = "the file"
	}
	if _, null := node.(*ast.NullNode); null {
		r.add(at(node), path+" has no value", "give it one ("+want+"), or remove the line")
		return
	}
	remedy := "write " + want
	switch node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		if want == "text" {
			remedy = fmt.Sprintf("put it in quotes: %q", raw(node))
		}
	case *ast.MappingNode, *ast.MappingValueNode:
		if want == "text" {
			remedy = "put it in quotes, if it holds a colon"
		}
	case *ast.StringNode:
		if node.GetToken().Type != token.StringType { // in quotes
			remedy += ", without quotes"
		}
	}
	r.add(at(node), fmt.Sprintf("%s is %s, but has to be %s", path, kind(node), want), remedy)
}

func kind(node ast.Node) string {
	switch node.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return fmt.Sprintf("the text %q", task.Clip(raw(node), maxQuote))
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "the number " + task.Clip(raw(node), maxQuote)
	case *ast.BoolNode:
		return raw(node)
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	return "something else"
}

// raw returns a scalar as it is in the file.
func raw(node ast.Node) string {
	if s, ok := str(node); ok {
		return s
	}
	switch node.(type) {
	case *ast.SequenceNode:
		return "that list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	}
	if tk := node.GetToken(); tk != nil {
		return strings.TrimSpace(tk.Value)
	}
	return "that"
}

func str(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value != nil {
			return n.Value.Value, true
		}
	}
	return "", false
}

// number reads a finite number. It reports false for anything else.
func number(node ast.Node) (float64, bool) {
	switch n := node.(type) {
	case *ast.FloatNode:
		return n.Value, !math.IsNaN(n.Value) && !math.IsInf(n.Value, 0)
	case *ast.IntegerNode:
		switch i := n.Value.(type) {
		case int64:
			return float64(i), true
		case uint64:
			return float64(i), true
		}
	case *ast.StringNode:
		if n.Token.Type == token.StringType && matches(unreadNumber, n.Value) {
			f, err := strconv.ParseFloat(n.Value, 64)
			return f, err == nil || errors.Is(err, strconv.ErrRange)
		}
	}
	return 0, false
}

// unreadNumber matches an unquoted number that the YAML library takes for text: one beyond 64 bits, or with an exponent.
const unreadNumber = `^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$`

// integer is like number, for a number that is written as a whole one.
func integer(node ast.Node) (float64, bool) {
	f, ok := number(node)
	if s, isText := node.(*ast.StringNode); isText {
		return f, ok && !strings.ContainsAny(s.Value, ".eE")
	}
	_, isInteger := node.(*ast.IntegerNode)
	return f, ok && isInteger
}

// at returns the place of a value.
func at(node ast.Node) position {
	switch n := node.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 && !n.IsFlowStyle {
			return at(n.Values[0])
		}
	case *ast.MappingValueNode:
		return at(n.Key)
	case *ast.SequenceNode:
		if n.Start != nil && n.Start.Position != nil {
			return position{n.Start.Position.Line, n.Start.Position.Column}
		}
	}
	if tk := node.GetToken(); tk != nil && tk.Position != nil {
		return position{tk.Position.Line, tk.Position.Column}
	}
	return position{1, 1}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// hint describes a field of a mapping.
func hint(s *jsonschema.Schema, name string) string {
	if sub, ok := s.Properties.Get(name); ok {
		return lower(sub.Description)
	}
	return ""
}

// lower makes a description fit behind a semicolon.
func lower(description string) string {
	if description == "" {
		return ""
	}
	return strings.ToLower(description[:1]) + strings.TrimSuffix(description[1:], ".")
}

var patterns sync.Map // of *regexp.Regexp, by their text

func matches(pattern, text string) bool {
	re, ok := patterns.Load(pattern)
	if !ok {
		re, _ = patterns.LoadOrStore(pattern, regexp.MustCompile(pattern)) // from the schema, not from the file
	}
	return re.(*regexp.Regexp).MatchString(text)
}
