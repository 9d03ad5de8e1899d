// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unicode/utf8"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/llama-orch/llama-orch/service/task"
)

// Bounds on the file, so that no file can exhaust memory, time or stack.
const (
	maxBytes   = 256 << 10
	maxTokens  = 20_000 // the parser's time grows with their square
	maxNesting = 32
)

// Load reads and validates the config file. env gives the environment, like os.Getenv. Load looks at nothing else on the machine: see
// Config.Check for that. A failure is an *Error.
func Load(path string, env func(string) string) (Config, error) {
	data, err := readFile(path)
	if err != nil {
		what := "the config file cannot be read"
		if errors.Is(err, os.ErrNotExist) {
			what = "there is no such file"
		}
		return Config{}, &Error{Problems: []Problem{{
			File: path, What: fmt.Sprintf("%s (%v)", what, errors.Unwrap(err)), Remedy: "give a readable file with --config; `llama-orch init` writes one for this machine",
		}}}
	}
	return Parse(path, data, env)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()                                  // nothing was written
	return io.ReadAll(io.LimitReader(f, maxBytes+1)) // Parse refuses a file that was cut off here
}

// Parse validates a config file's content. name is the file's path: every message contains it, and relative refs start at its folder. A
// failure is an *Error with every problem found.
func Parse(name string, data []byte, env func(string) string) (Config, error) {
	ps := &problems{file: name}
	where := &positions{values: map[string]position{"": {1, 1}}}
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		ps.add(position{}, "the file's folder has no absolute path", "run the command in a folder that exists")
		return Config{}, ps.err()
	}
	c := Config{Path: name, Dir: dir, home: env("HOME"), where: where}
	root := parse(ps, data)
	if root == nil {
		return Config{}, ps.err()
	}
	r := &reader{problems: ps, where: where}
	r.read(root, schema(), reflect.ValueOf(&c).Elem(), "")
	if isMapping(root) {
		c.finish(ps, env)
	}
	if err := ps.err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// parse returns the root of the one document. If there is none, it reports why and returns nil. A panic of the YAML library is reported as a
// problem of the file.
func parse(ps *problems, data []byte) (root ast.Node) {
	defer func() {
		if p := recover(); p != nil {
			root = nil
			ps.add(position{1, 1}, "the file is not YAML that can be read", "simplify it; `llama-orch init -o -` prints one to start from")
		}
	}()
	data = bytes.ReplaceAll(bytes.TrimPrefix(data, []byte("\ufeff")), []byte("\r\n"), []byte("\n"))
	switch {
	case len(data) > maxBytes:
		ps.add(position{}, "the file is too large", fmt.Sprintf("keep it under %d KiB", maxBytes>>10))
		return nil
	case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0:
		ps.add(position{}, "the file is not UTF-8 text", "save it as UTF-8")
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if !plain(ps, tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // the reader itself reports all duplicates
	if err != nil {
		reportSyntax(ps, err)
		return nil
	}
	var roots []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			roots = append(roots, doc.Body)
		}
	}
	switch {
	case len(roots) == 0:
		ps.add(position{1, 1}, "the file is empty", "configure at least one pool; `llama-orch init -o -` prints a configuration for this machine")
	case len(roots) > 1:
		ps.add(at(roots[1]), "the file holds a second document", "keep one document a file: remove the line ---")
	default:
		return roots[0]
	}
	return nil
}

// plain refuses what only an attacker needs: anchors and aliases, which multiply (YAML bombs), tags, and endless nesting, which the parser
// follows by recursion.
func plain(ps *problems, tokens token.Tokens) bool {
	if len(tokens) > maxTokens {
		ps.add(position{}, "the file is too large", fmt.Sprintf("keep it under %d names and values", maxTokens/3))
		return false
	}
	nesting, line, onLine := 0, 0, 0
	for _, tk := range tokens {
		if tk.Position.Line != line {
			line, onLine = tk.Position.Line, 0
		}
		here := position{tk.Position.Line, tk.Position.Column}
		switch tk.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			ps.add(here, "anchors, aliases, merge keys, tags and directives are not taken here", "write the value out, in quotes if it begins with one of & * ! %")
			return false
		case token.SequenceStartType, token.MappingStartType:
			nesting++
		case token.SequenceEndType, token.MappingEndType:
			nesting--
		case token.SequenceEntryType, token.MappingKeyType:
			onLine++
		case token.MappingValueType:
			if nesting == 0 {
				onLine++
			}
		}
		// Nesting by indentation needs at least one column for each level.
		if nesting > maxNesting || onLine > maxNesting || tk.Position.Column > 64*maxNesting && tk.Type == token.MappingValueType {
			ps.add(here, "the file is nested too deep", "no setting needs that; `llama-orch init -o -` prints one to start from")
			return false
		}
	}
	return true
}

func reportSyntax(ps *problems, err error) {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil && e.GetToken().Position != nil {
		p := e.GetToken().Position
		ps.add(position{p.Line, p.Column}, "not valid YAML: "+task.Clip(strings.ReplaceAll(e.GetMessage(), "\n", " "), maxQuote), "correct the line; indentation, colons and quotes are the usual suspects")
		return
	}
	ps.add(position{1, 1}, "not valid YAML", "check the file with a YAML linter")
}
