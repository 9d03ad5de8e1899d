// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"fmt"
	"iter"
	"maps"
	"strings"

	"github.com/go-faster/yaml"
)

// api is the API's document, in its own order.
type api struct {
	names      []string // of schemas
	schemas    map[string]*yaml.Node
	operations []operation
}

type operation struct {
	verb, path, id, summary string
	params                  []*yaml.Node // of the path, then its own
	node                    *yaml.Node
}

func parse(document []byte) (*api, error) {
	var doc struct {
		Paths      yaml.Node
		Components struct{ Schemas, Parameters yaml.Node }
	}
	if err := yaml.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("read the API's document: %w", err)
	}
	a := &api{schemas: map[string]*yaml.Node{}}
	for name, schema := range pairs(&doc.Components.Schemas) {
		a.names = append(a.names, name)
		a.schemas[name] = schema
	}
	shared := maps.Collect(pairs(&doc.Components.Parameters))
	params := func(node *yaml.Node) (all []*yaml.Node) {
		list := field(node, "parameters")
		if list == nil {
			return nil
		}
		for _, one := range list.Content {
			if at, ok := lookup(one, "$ref"); ok {
				one = shared[strings.TrimPrefix(at, "#/components/parameters/")]
			}
			all = append(all, one)
		}
		return all
	}
	for path, of := range pairs(&doc.Paths) {
		for verb, node := range pairs(of) {
			if verb == "parameters" {
				continue
			}
			o := operation{verb: verb, path: path, node: node, params: append(params(of), params(node)...)}
			o.id, _ = lookup(node, "operationId")
			o.summary, _ = lookup(node, "summary")
			a.operations = append(a.operations, o)
		}
	}
	if len(a.names) == 0 || len(a.operations) == 0 {
		return nil, fmt.Errorf("the API's document has no schemas, or no operations")
	}
	return a, nil
}

// answers are the media types of the operation's first success.
func (o operation) answers() iter.Seq2[string, *yaml.Node] {
	for status, of := range pairs(field(o.node, "responses")) {
		if strings.HasPrefix(status, "2") {
			return pairs(field(of, "content"))
		}
	}
	return pairs(nil)
}

// body is the schema of the operation's request, or nil.
func (o operation) body() *yaml.Node {
	return field(field(field(field(o.node, "requestBody"), "content"), "application/json"), "schema")
}

// stream is what the document says of the operation's events.
func (o operation) stream() *yaml.Node {
	for kind, of := range o.answers() {
		if kind == "text/event-stream" {
			return of
		}
	}
	return nil
}

func pairs(node *yaml.Node) iter.Seq2[string, *yaml.Node] {
	return func(yield func(string, *yaml.Node) bool) {
		for i := 0; node != nil && i+1 < len(node.Content); i += 2 {
			if !yield(node.Content[i].Value, node.Content[i+1]) {
				return
			}
		}
	}
}
