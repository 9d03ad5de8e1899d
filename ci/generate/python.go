// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/go-faster/yaml"
)

// What Python's client does not take from the contract as it stands (ADR 039).
var (
	// servedNames are typed as names of the server whose bindings they are: a pool's everywhere, a model's in a request.
	servedNames = map[string]string{"PoolID": "PoolID", "ModelRef": "Model"}
	// pythonRenamed give way to the type of the served models.
	pythonRenamed = map[string]string{"Model": "CatalogModel"}
)

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// pythonTypes are the contract's schemas as Python's typed dictionaries, and the events of a stream.
func pythonTypes(document []byte) ([]byte, error) {
	doc, err := parse(document)
	if err != nil {
		return nil, err
	}
	p := python{plain: plain{schemas: doc.schemas}}
	var b strings.Builder
	b.WriteString("\n# ---- the API's types, made from its document ----\n")
	for _, name := range doc.names {
		if of := doc.schemas[name]; field(of, "enum") != nil {
			b.WriteString("\n" + comment("", "#: ", said(of)) + p.name(name) + " = " + literals(of) + "\n")
		}
	}
	for _, name := range doc.names {
		if field(doc.schemas[name], "properties") != nil {
			b.WriteString(p.dictionary(name, doc.schemas[name]))
		}
	}
	frames, err := p.frames(doc)
	if err != nil {
		return nil, err
	}
	b.WriteString(frames)
	if p.err != nil {
		return nil, fmt.Errorf("write Python's types: %w", p.err)
	}
	return []byte(b.String()), nil
}

// pythonMethods are the contract's operations as methods of Python's client. Streams are written by hand.
func pythonMethods(document []byte) ([]byte, error) {
	doc, err := parse(document)
	if err != nil {
		return nil, err
	}
	p := python{plain: plain{schemas: doc.schemas}}
	var b strings.Builder
	for _, o := range doc.operations {
		b.WriteString(p.method(o))
	}
	if p.err != nil {
		return nil, fmt.Errorf("write Python's methods: %w", p.err)
	}
	return []byte(b.String()), nil
}

// python keeps the first error.
type python struct {
	plain

	err error
}

func (p *python) fail(format string, args ...any) string {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
	return "Any"
}

func (p *python) name(schema string) string {
	if other, ok := pythonRenamed[schema]; ok {
		return other
	}
	return schema
}

// dictionary is an object of the contract.
func (p *python) dictionary(name string, schema *yaml.Node) string {
	var required []string
	if list := field(schema, "required"); list != nil {
		for _, n := range list.Content {
			required = append(required, n.Value)
		}
	}
	_, request := lookup(schema, "additionalProperties")
	var b strings.Builder
	fmt.Fprintf(&b, "\n\nclass %s(TypedDict):\n%s", p.name(name), comment("    ", "# ", said(schema)))
	fields := field(schema, "properties").Content
	for i := 0; i+1 < len(fields); i += 2 {
		key, of := fields[i].Value, fields[i+1]
		if !identifier.MatchString(key) {
			p.fail("the field %s.%s is no identifier", name, key)
		}
		kind := p.kind(name+"."+key, of, request)
		if !slices.Contains(required, key) {
			kind = "NotRequired[" + kind + "]"
		}
		b.WriteString(comment("    ", "# ", said(of)) + "    " + key + ": " + kind + "\n")
	}
	return b.String()
}

// kind is the type of a schema as it stands in a field, a list or a parameter.
func (p *python) kind(at string, schema *yaml.Node, request bool) string {
	name, of := p.resolve(schema)
	if served := servedNames[name]; served != "" && (request || name == "PoolID") {
		return served
	}
	if name != "" && (field(of, "enum") != nil || field(of, "properties") != nil) {
		return p.name(name)
	}
	if field(of, "enum") != nil {
		return literals(of)
	}
	if one := field(of, "oneOf"); one != nil {
		var kinds []string
		for _, n := range one.Content {
			kinds = append(kinds, p.kind(at, n, request))
		}
		return "Union[" + strings.Join(kinds, ", ") + "]"
	}
	kind, ok := lookup(of, "type")
	switch {
	case !ok:
		return "Any"
	case kind == "array":
		return "list[" + p.kind(at, field(of, "items"), request) + "]"
	case kind == "object" && field(of, "additionalProperties") != nil:
		return "dict[str, " + p.kind(at, field(of, "additionalProperties"), request) + "]"
	}
	scalar, ok := map[string]string{"string": "str", "integer": "int", "number": "float", "boolean": "bool"}[kind]
	if !ok {
		return p.fail("%s has the type %s: give the schema a name", at, kind)
	}
	return scalar
}

// frames are the events of a task's stream.
func (p *python) frames(doc *api) (string, error) {
	at := slices.IndexFunc(doc.operations, func(o operation) bool { return o.id == "streamTask" })
	if at < 0 {
		return "", fmt.Errorf("the API's document has no streamTask")
	}
	var b, table strings.Builder
	var names []string
	events := field(doc.operations[at].stream(), "x-sse-data").Content
	for i := 0; i+1 < len(events); i += 2 {
		event := events[i].Value
		if event == "error" { // it is raised
			continue
		}
		var name strings.Builder
		for word := range strings.SplitSeq(event, "_") {
			name.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
		name.WriteString("Frame")
		names = append(names, name.String())
		fmt.Fprintf(&b, "\n\nclass %s(NamedTuple):\n    id: str\n    data: %s\n    name: Literal[%q] = %q\n", &name, p.kind(event, events[i+1], false), event, event)
		fmt.Fprintf(&table, "%q: %s, ", event, &name)
	}
	fmt.Fprintf(&b, "\n\n#: An event of a task's stream. `metrics` has no id.\nEvent = Union[%s]\n", strings.Join(names, ", "))
	fmt.Fprintf(&b, "_EVENTS: Final[dict[str, Any]] = {%s}\n", strings.TrimSuffix(table.String(), ", "))
	return b.String(), nil
}

// method is an operation.
func (p *python) method(o operation) string {
	answer, how := "None", "_read"
	for kind, of := range o.answers() {
		switch kind {
		case "text/event-stream":
			return ""
		case "application/json":
			answer, how = p.kind(o.id, field(of, "schema"), false), "_json"
		case "text/plain":
			answer = "str"
		default:
			answer = "bytes"
		}
	}
	params, path, query, named := []string{"self"}, o.path, []string{}, []string{}
	for _, of := range o.params {
		name, _ := lookup(of, "name")
		in, _ := lookup(of, "in")
		kind := p.kind(o.id+"."+name, field(of, "schema"), true)
		switch in {
		case "path":
			params = append(params, name+": "+kind)
			path = strings.Replace(path, "{"+name+"}", "{_at("+name+")}", 1)
		case "query":
			named = append(named, fmt.Sprintf("%s: Optional[%s] = None", name, kind))
			query = append(query, fmt.Sprintf("%q: %s", name, name))
		default:
			p.fail("%s has a parameter in its %s, which the client does not know", o.id, in)
		}
	}
	body := ""
	if of := o.body(); of != nil {
		params, body = append(params, "request: "+p.kind(o.id, of, true)), ", request"
	}
	if len(named) > 0 {
		params = append(append(params, "*"), named...)
	}
	prefix := ""
	if path != o.path {
		prefix = "f"
	}
	call := fmt.Sprintf("self.%s(%q, %s%q, {%s}%s)", how, strings.ToUpper(o.verb), prefix, path, strings.Join(query, ", "), body)
	switch answer {
	case "None":
	case "str":
		call = "return " + call + ".decode()"
	case "bytes":
		call = "return " + call
	default:
		params[0], call = "self", fmt.Sprintf("answer: %s = %s\n        return answer", answer, call)
	}
	return fmt.Sprintf("\n    def %s(%s) -> %s:\n        \"\"\"%s.\"\"\"\n        %s\n", snake(o.id), strings.Join(params, ", "), answer, o.summary, call)
}

func literals(schema *yaml.Node) string {
	var values []string
	for _, n := range field(schema, "enum").Content {
		values = append(values, fmt.Sprintf("%q", n.Value))
	}
	return "Literal[" + strings.Join(values, ", ") + "]"
}

func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// comment is a description as comments, wrapped.
func comment(indent, mark, text string) string {
	var b strings.Builder
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+len(word) > 110 {
			b.WriteString(indent + mark + line + "\n")
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	if line != "" {
		b.WriteString(indent + mark + line + "\n")
	}
	return b.String()
}
