// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"go/format"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"unicode"

	"github.com/llama-orch/llama-orch/sdk"
)

//go:embed bindings
var bindingParts embed.FS

// behind are the parts that follow the names of the server in a language's file. They are the same for every server of a version.
var behind = map[string][]string{
	"python": {"types.py", "client.py", "methods.py"},
	"ts":     {"api.ts", "client.ts"},
}

// bindingsCmd writes what a program in some language may take for granted of this server.
type bindingsCmd struct {
	Language string `arg:"" enum:"go,ts,python" help:"go, ts or python."`
	Output   string `short:"o" placeholder:"FILE" help:"The file to write; it is replaced (default: print it)."`
	Package  string `default:"served" placeholder:"NAME" help:"go: the package's name."`
}

// served is what the templates get. Names are sorted, so that the same server gives the same file.
type served struct {
	Package, APIVersion string
	Models, Features    []constant
	Pools               []servedPool
	ChatFeatures        []string
}

// constant is a name of the server, and what a program calls it.
type constant struct{ Ident, Value string }

type servedPool struct {
	Ident, ID, Model, Engine, Workload, Lifecycle string
	Slots, Ctx                                    int
	Features                                      []string
}

// Run writes.
func (c *bindingsCmd) Run(a *app) error {
	if !token.IsIdentifier(c.Package) || c.Package == "_" {
		return usagef("%q cannot be the name of a package", c.Package)
	}
	text, err := c.text(a)
	if err != nil {
		return err
	}
	switch {
	case c.Output != "" && c.Output != "-":
		if err := write(c.Output, text); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"language": c.Language, "file": c.Output})
		}
		a.note("written: %s", c.Output)
		return nil
	case a.json:
		return a.printJSON(map[string]string{"language": c.Language, "text": string(text)})
	}
	_, err = a.out.Write(text)
	return err
}

// text asks the server, and fills the language's template.
func (c *bindingsCmd) text(a *app) ([]byte, error) {
	capabilities, err := a.client.Capabilities(a.ctx)
	if err != nil {
		return nil, err
	}
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return nil, err
	}
	parsed, err := template.New(c.Language+".tmpl").Funcs(template.FuncMap{"quote": strconv.Quote, "json": inJSON}).ParseFS(bindingParts, "bindings/"+c.Language+".tmpl")
	if err != nil {
		return nil, fmt.Errorf("the template for %s: %w", c.Language, err)
	}
	var b bytes.Buffer
	if err := parsed.Execute(&b, c.served(capabilities, pools)); err != nil {
		return nil, fmt.Errorf("writing the bindings: %w", err)
	}
	for _, part := range behind[c.Language] {
		text, err := bindingParts.ReadFile("bindings/" + part)
		if err != nil {
			return nil, fmt.Errorf("the client for %s: %w", c.Language, err)
		}
		b.Write(text)
	}
	if c.Language != "go" {
		return b.Bytes(), nil
	}
	formatted, err := format.Source(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("writing the bindings: %w", err)
	}
	return formatted, nil
}

func inJSON(v any) (string, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return strings.TrimSpace(b.String()), err
}

func (c *bindingsCmd) served(capabilities *sdk.Capabilities, pools []sdk.Pool) served {
	name := pascal
	if c.Language == "python" {
		name = shouting
	}
	s := served{Package: c.Package, APIVersion: capabilities.APIVersion}
	var models []string
	taken := map[string]bool{"Models": true, "Pools": true, "Features": true, "MODELS": true, "APIVersion": true}
	pools = slices.SortedFunc(slices.Values(pools), func(a, b sdk.Pool) int { return cmp.Compare(a.ID, b.ID) })
	for _, p := range pools {
		models = append(models, p.Model.ID)
		one := servedPool{
			ID: p.ID, Model: p.Model.ID, Engine: p.Engine, Workload: string(p.Workload), Lifecycle: string(p.Lifecycle), Slots: p.Slots, Ctx: p.Ctx, Features: []string{},
			Ident: untaken(name("pool", p.ID), taken),
		}
		for _, f := range p.Features {
			one.Features = append(one.Features, string(f))
			s.ChatFeatures = append(s.ChatFeatures, string(f))
		}
		slices.Sort(one.Features)
		s.Pools = append(s.Pools, one)
	}
	constants := func(kind string, values []string) (all []constant) {
		for _, value := range slices.Compact(slices.Sorted(slices.Values(values))) {
			all = append(all, constant{untaken(name(kind, value), taken), value})
		}
		return all
	}
	s.Models, s.Features = constants("model", models), constants("feature", capabilities.Features)
	s.ChatFeatures = slices.Compact(slices.Sorted(slices.Values(s.ChatFeatures)))
	return s
}

// untaken gives a name that is taken a number.
func untaken(name string, taken map[string]bool) string {
	one := name
	for n := 2; taken[one]; n++ {
		one = name + "_" + strconv.Itoa(n)
	}
	taken[one] = true
	return one
}

// parts parts a name at everything that cannot be in an identifier.
func parts(kind, name string) []string {
	return append([]string{kind}, strings.FieldsFunc(name, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) })...)
}

func pascal(kind, name string) string {
	var b strings.Builder
	for i, part := range parts(kind, name) {
		if i > 0 && unicode.IsDigit(rune(part[0])) && unicode.IsDigit(rune(b.String()[b.Len()-1])) {
			b.WriteByte('_') // 3.2 is not 32
		}
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

func shouting(kind, name string) string { return strings.ToUpper(strings.Join(parts(kind, name), "_")) }
