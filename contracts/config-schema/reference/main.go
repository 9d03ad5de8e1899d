// SPDX-License-Identifier: GPL-3.0-or-later

// Command reference prints the reference of the configuration file in Markdown, made from its JSON Schema (LO-647).
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/llama-orch/llama-orch/service/config"
)

func main() {
	schema, err := config.Schema()
	if err == nil {
		err = write(os.Stdout, schema)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

const head = `# Configuration reference

This page is made from the schema, ` + "[contracts/config-schema/config.schema.json](../contracts/config-schema/config.schema.json)" + `, by ` + "`go tool mage gen`" + `. ` + "`orchestratord check --config FILE`" + ` reads a
file and says what it would do, or what is wrong with it and where. ` + "`llama-orch init`" + ` writes one for your box, and ` + "[examples/](../examples)" + ` has some to start from. Durations are written like
` + "`30s` or `2h`" + `, sizes in bytes.
`

// write prints the keys at the top as a table, and each that has keys of its own as a section.
func write(w io.Writer, schema []byte) error {
	var s jsonschema.Schema
	if err := json.Unmarshal(schema, &s); err != nil {
		return fmt.Errorf("read the schema: %w", err)
	}
	var out bytes.Buffer
	out.WriteString(head)
	table(&out, "At the top", "", &s, false)
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		if of, name := members(p.Value, p.Key); of != nil {
			table(&out, "`"+name+"`", p.Value.Description, of, true)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// table is a heading with what a mapping has. Deep also lists what its members have.
func table(w *bytes.Buffer, title, says string, of *jsonschema.Schema, deep bool) {
	fmt.Fprintf(w, "\n## %s\n\n", title)
	if says != "" {
		fmt.Fprintf(w, "%s\n\n", sentence(says))
	}
	w.WriteString("| key | default | values | |\n|---|---|---|---|\n")
	rows(w, "", of, deep)
}

func rows(w *bytes.Buffer, prefix string, of *jsonschema.Schema, deep bool) {
	for p := of.Properties.Oldest(); p != nil; p = p.Next() {
		inner, name := members(p.Value, prefix+p.Key)
		says := sentence(p.Value.Description)
		if !deep && inner != nil {
			says = fmt.Sprintf("%s See [below](#%s).", says, anchor(name))
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", name, given(p.Value, of, p.Key), values(p.Value), strings.TrimSpace(says))
		if deep && inner != nil {
			rows(w, name+".", inner, deep)
		}
	}
}

// members is the mapping whose keys stand under a key, and how the key is written before them: of a list it is that of each member.
func members(s *jsonschema.Schema, name string) (*jsonschema.Schema, string) {
	switch {
	case s.Properties.Len() > 0:
		return s, name
	case s.Items != nil && s.Items.Properties.Len() > 0:
		return s.Items, name + "[]"
	case s.AdditionalProperties != nil && s.AdditionalProperties.Properties.Len() > 0:
		return s.AdditionalProperties, name + ".NAME"
	}
	for _, one := range s.OneOf { // a shorthand, or the mapping that it stands for
		if one.Properties.Len() > 0 {
			return one, name
		}
	}
	return nil, name
}

func given(s, of *jsonschema.Schema, key string) string {
	if slices.Contains(of.Required, key) {
		return "**needed**"
	}
	switch d := s.Default.(type) {
	case nil:
		return ""
	case float64: // as JSON has any number
		return "`" + strconv.FormatFloat(d, 'f', -1, 64) + "`"
	default:
		return fmt.Sprintf("`%v`", d)
	}
}

// values are those that a key takes: a closed list, bounds, or the kind of value alone.
func values(s *jsonschema.Schema) string {
	var all []string
	for _, v := range s.Enum {
		all = append(all, fmt.Sprintf("`%v`", v))
	}
	switch {
	case len(all) > 0:
		return strings.Join(all, ", ")
	case s.Minimum != "" && s.Maximum != "":
		return fmt.Sprintf("%s, %s to %s", s.Type, s.Minimum, s.Maximum)
	case s.OneOf != nil:
		for _, one := range s.OneOf {
			all = append(all, values(one))
		}
		return strings.Join(all, "; or ")
	case s.Const != nil:
		return fmt.Sprintf("`%v`", s.Const)
	case s.Type == "object":
		return "mapping"
	case s.Type == "array" && s.Items != nil && s.Items.Type != "":
		return "list of " + kind(s.Items)
	}
	return kind(s)
}

func kind(s *jsonschema.Schema) string {
	switch s.Type {
	case "object":
		return "mappings"
	case "string":
		return "text"
	case "boolean":
		return "`true`, `false`"
	}
	return s.Type
}

// anchor is how a heading is linked to.
func anchor(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(".[]`", r) {
			return -1
		}
		return r
	}, strings.ToLower(name))
}

// sentence begins with a capital letter, ends with a full stop, and breaks no table.
func sentence(text string) string {
	text = strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
	if text == "" {
		return ""
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
