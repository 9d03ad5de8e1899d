// SPDX-License-Identifier: GPL-3.0-or-later

// Package errors holds what each error code stands for, in the words of errors.md, for whoever shows it.
package errors

import (
	_ "embed"
	"strconv"
	"strings"
)

//go:embed errors.md
var text string

// Section is a code, and what it stands for.
type Section struct {
	Code   string `json:"code"`
	Status int    `json:"status"` // of HTTP; behind the begin of a stream none is sent
	Text   string `json:"text"`   // Markdown, in one line
}

// Sections are those of all codes, in the order of the page.
func Sections() (all []Section) {
	parts := strings.Split(text, "\n## ")
	for _, part := range parts[1:] {
		code, says, _ := strings.Cut(part, "\n")
		status, says, _ := strings.Cut(strings.Join(strings.Fields(says), " "), ". ")
		n, _ := strconv.Atoi(status) // a test holds it to the status that is sent
		all = append(all, Section{code, n, says})
	}
	return all
}
