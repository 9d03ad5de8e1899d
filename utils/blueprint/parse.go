// SPDX-License-Identifier: GPL-3.0-or-later

package blueprint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/llama-orch/llama-orch/utils/applet"
	"github.com/llama-orch/llama-orch/utils/schema"
)

// The bounds of a file.
const (
	maxFile    = 1 << 20
	maxTokens  = 200_000
	maxNesting = 50
)

// Parse reads a blueprint from YAML, or JSON, and checks it against a catalogue of applets. Its error is a *CheckError.
func Parse(file string, text []byte, catalog applet.Catalog) (b *Blueprint, err error) {
	c := &checker{file: file, catalog: catalog, lines: map[string]int{}}
	value := c.read(text)
	if len(c.problems) > 0 {
		return nil, c.err()
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	if err := schema.Of[Blueprint]().Check(raw); err != nil {
		wrong, ok := errors.AsType[*schema.MismatchError](err)
		if !ok {
			return nil, err
		}
		for _, p := range wrong.Problems {
			c.form(p)
		}
		return nil, c.err()
	}
	if b, err = read(raw); err != nil {
		return nil, err
	}
	c.check(b)
	return b, c.err()
}

// read returns what a YAML document holds, as JSON has it, and notes the line of each value. A panic of the library's is a problem of the file.
func (c *checker) read(text []byte) (value any) {
	defer func() {
		if p := recover(); p != nil {
			c.problem("", "this is not YAML that can be read: simplify it")
		}
	}()
	text = bytes.ReplaceAll(bytes.TrimPrefix(text, []byte("\ufeff")), []byte("\r\n"), []byte("\n"))
	if len(text) > maxFile || !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		c.problem("", "a blueprint is a text in UTF-8 of at most %d bytes", maxFile)
		return nil
	}
	tokens := lexer.Tokenize(string(text))
	if !c.plain(tokens) {
		return nil
	}
	parsed, err := parser.Parse(tokens, 0)
	if err != nil {
		c.syntax(err)
		return nil
	}
	if len(parsed.Docs) != 1 || parsed.Docs[0].Body == nil {
		c.problem("", "the file has to hold one blueprint: it begins with `name:`, and then come its `steps:`")
		return nil
	}
	return c.value(parsed.Docs[0].Body, "")
}

// plain refuses what multiplies (anchors) and what nests without end.
func (c *checker) plain(tokens token.Tokens) bool {
	open, line, onLine := 0, 0, 0
	for i, tk := range tokens {
		if tk.Position.Line != line {
			line, onLine = tk.Position.Line, 0
		}
		switch tk.Type { //nolint:exhaustive // of many tokens, those that count
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			c.lines[""] = line
			c.problem("", "anchors, aliases, merge keys, tags and directives are not taken here: write the value out, in quotes if it begins with one of & * ! %%")
			return false
		case token.SequenceStartType, token.MappingStartType:
			open++
		case token.SequenceEndType, token.MappingEndType:
			open--
		case token.SequenceEntryType, token.MappingKeyType:
			onLine++
		}
		if i > maxTokens || open > maxNesting || onLine > maxNesting || tk.Type == token.MappingValueType && tk.Position.Column > 64*maxNesting {
			c.lines[""] = line
			c.problem("", "the file is too large, or nested too deep: split the blueprint")
			return false
		}
	}
	return true
}

func (c *checker) syntax(err error) {
	if e, ok := errors.AsType[yaml.Error](err); ok && e.GetToken() != nil && e.GetToken().Position != nil {
		c.lines[""] = e.GetToken().Position.Line
		c.problem("", "this is not YAML: %s; indentation, colons and quotes are the usual suspects", strings.ReplaceAll(e.GetMessage(), "\n", " "))
		return
	}
	c.problem("", "this is not YAML: check it with a linter")
}

// value turns a node into what JSON has, and notes its line.
func (c *checker) value(node ast.Node, path string) any {
	if tk := node.GetToken(); tk != nil && tk.Position != nil {
		if _, known := c.lines[path]; !known {
			c.lines[path] = tk.Position.Line
		}
	}
	switch n := node.(type) {
	case *ast.MappingNode:
		object := map[string]any{}
		for _, v := range n.Values {
			c.field(object, v, path)
		}
		return object
	case *ast.MappingValueNode: // a mapping of one field
		object := map[string]any{}
		c.field(object, n, path)
		return object
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, v := range n.Values {
			list[i] = c.value(v, fmt.Sprintf("%s[%d]", path, i))
		}
		return list
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.NullNode:
		return nil
	case ast.ScalarNode:
		return n.GetValue()
	}
	c.problem(path, "this kind of value is not taken here")
	return nil
}

func (c *checker) field(object map[string]any, v *ast.MappingValueNode, path string) {
	name := ""
	if key, ok := v.Key.(ast.ScalarNode); ok {
		name = fmt.Sprint(key.GetValue())
	}
	below := join(path, name)
	if tk := v.Key.GetToken(); tk != nil && tk.Position != nil {
		c.lines[below] = tk.Position.Line
	}
	object[name] = c.value(v.Value, below)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
