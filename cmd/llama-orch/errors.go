// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	guide "github.com/llama-orch/llama-orch/contracts/errors"
	"github.com/llama-orch/llama-orch/internal/nearest"
)

// errorsCmd says what the error codes stand for. It asks no server.
type errorsCmd struct {
	Code string `arg:"" optional:"" help:"The code, such as POOL_UNREADY; left out: a list of all."`
}

// Run prints.
func (c *errorsCmd) Run(a *app) error {
	sections := guide.Sections()
	if c.Code == "" {
		if a.json {
			return a.printJSON(map[string]any{"errors": sections})
		}
		rows := [][]string{{"CODE", "STATUS", "MEANS"}}
		for _, s := range sections {
			means, _, _ := strings.Cut(s.Text, ". ")
			rows = append(rows, []string{s.Code, strconv.Itoa(s.Status), means})
		}
		return a.table(rows)
	}
	code := strings.ToUpper(strings.ReplaceAll(c.Code, "-", "_"))
	var known []string
	for _, s := range sections {
		known = append(known, s.Code)
		if s.Code != code {
			continue
		}
		if a.json {
			return a.printJSON(s)
		}
		_, err := fmt.Fprintf(a.out, "%s, HTTP status %d\n\n%s\n", s.Code, s.Status, wrap(s.Text, columns(a.out)))
		return err
	}
	if name := nearest.Name(code, known); name != "" {
		return usagef("there is no error code %q, did you mean %s?", c.Code, name)
	}
	return usagef("there is no error code %q: `llama-orch errors` lists them", c.Code)
}

// longestLine is how long a line of prose is at most, so that people can read it.
const longestLine = 100

// wrap breaks text into lines for a terminal of a width; 0: it is none.
func wrap(text string, width int) string {
	if width <= 0 || width > longestLine {
		width = longestLine
	}
	var b strings.Builder
	at := 0
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case at == 0:
		case at+1+n > width:
			b.WriteByte('\n')
			at = 0
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}
