// SPDX-License-Identifier: GPL-3.0-or-later

// Package help shows what each error code stands for, under the anchor that refusals link to (LO-643). The page is the same for everybody, and needs no token: it is for callers who were not let in, too.
package help

import (
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/errors"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Front is the front of gate.HelpPath.
type Front struct {
	Native gate.Front // refuses what the page does not take

	text []byte
}

var _ gate.Front = (*Front)(nil)

// New makes the page.
func New(native gate.Front) *Front {
	var b strings.Builder
	b.WriteString(`<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Error codes of llama-orch</title>
<style>body{font:16px/1.5 system-ui;max-width:46rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}h2{margin-top:2rem}:target{outline:2px solid;outline-offset:.3rem}</style></head><body><h1>Error codes</h1>
`)
	for _, s := range errors.Sections() {
		fmt.Fprintf(&b, "<h2 id=\"%[1]s\">%[1]s</h2><p>HTTP status %[2]d. %[3]s</p>\n", s.Code, s.Status, marked(s.Text))
	}
	b.WriteString("</body></html>\n")
	return &Front{Native: native, text: []byte(b.String())}
}

var (
	code = regexp.MustCompile("`([^`]+)`")
	link = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`) // to files that a server does not have
)

// marked is Markdown of one line as HTML: its code, and the words of its links.
func marked(text string) string {
	return link.ReplaceAllString(code.ReplaceAllString(html.EscapeString(text), "<code>$1</code>"), "$1")
}

// Route lets everybody in.
func (f *Front) Route(*http.Request) gate.Route {
	return gate.Route{Operation: "help", Access: gate.Anybody, Methods: []string{http.MethodGet, http.MethodHead}}
}

// Refuse answers as the native API does.
func (f *Front) Refuse(w http.ResponseWriter, r *http.Request, err error) { f.Native.Refuse(w, r, err) }

// ServeHTTP writes the page.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET, HEAD")
		f.Refuse(w, r, task.Errorf(task.MethodNotAllowed, "%s %s is not possible: use GET", r.Method, gate.HelpPath))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "max-age=3600")
	_, _ = w.Write(f.text) // the client may have gone
}
