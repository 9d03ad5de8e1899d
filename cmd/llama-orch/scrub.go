// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// scrubber takes out of texts what names a person, a machine or a secret. It is the second fence of a report: the first is what the report is made of.
type scrubber struct {
	words *strings.Replacer
	names []name
}

// name is one of a person or a machine. It is taken out where it is a word, since a short one is found within others.
type name struct {
	find *regexp.Regexp
	with string
}

var secretName = regexp.MustCompile(`(?i)token|secret|password|passwd|credential|api_?key|private_?key`)

// shortest is the length of a word that is taken out wherever it stands. A shorter one would be found within others.
const shortest = 4

func newScrubber(env func(string) string, environ, gone []string) scrubber {
	with := map[string]string{}
	add := func(word, instead string) {
		if len(word) >= shortest {
			with[word] = instead
		}
	}
	for _, word := range gone {
		add(word, leftOut)
		if _, value, ok := strings.Cut(word, "="); ok { // as in --api-key=VALUE
			add(value, leftOut)
		}
		if u, err := url.Parse(word); err == nil && u.Host != "" {
			add(u.Hostname(), leftOut)
		} else if host, _, err := net.SplitHostPort(word); err == nil {
			add(host, leftOut)
		}
	}
	for _, known := range []string{"127.0.0.1", "0.0.0.0", "localhost"} {
		delete(with, known)
	}
	add(env(tokenEnv), leftOut)
	for _, pair := range environ {
		if name, value, _ := strings.Cut(pair, "="); secretName.MatchString(name) {
			add(value, leftOut)
		}
	}
	add(env("HOME"), "~")
	var names []name
	word := func(text, instead string) {
		if text != "" {
			names = append(names, name{regexp.MustCompile(`(?i)(^|[^\pL\pN_])` + regexp.QuoteMeta(text) + `($|[^\pL\pN_])`), "${1}" + instead + "${2}"})
		}
	}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		word(host, "(host)")
		short, _, _ := strings.Cut(host, ".")
		word(short, "(host)")
	}
	if user := env("USER"); user != "root" {
		word(user, "(user)")
	}
	longest := slices.SortedFunc(maps.Keys(with), func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b)) })
	var pairs []string
	for _, word := range longest {
		pairs = append(pairs, word, with[word])
	}
	return scrubber{strings.NewReplacer(pairs...), names}
}

var scrubs = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?s)((?:it said|its last words): ).*`), `${1}` + leftOut}, // an engine may write prompts and tokens
	{regexp.MustCompile(`/(home|Users)/[^/\s"']+`), `~`},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[^\s"',;]+`), `$1 ` + leftOut},
	{regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/@\s"']*@`), `$1`},            // what stands before a URL's host
	{regexp.MustCompile(`([a-z][a-z0-9+.-]*://[^\s?#"']*)[?#][^\s"']*`), `$1`}, // and behind its path
	{regexp.MustCompile(`(?i)((?:token|secret|password|passwd|credential|api[-_]?key)s?"?\s*[=:]\s*)[^\s"',;]+`), `$1` + leftOut},
	{regexp.MustCompile(`(?i)(--?[a-z0-9_-]*(?:token|secret|password|passwd|credential|key|hft)s?["']?[\s=]+["']?)[^\s"',;]+`), `$1` + leftOut}, // an argument
	{regexp.MustCompile(`\b(?:hf_|sk-|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|AKIA|eyJ)[A-Za-z0-9_.-]{6,}`), leftOut},
	{regexp.MustCompile(`[A-Za-z0-9_+=-]{40,}`), leftOut},
}

// addresses are what may be some. Those of this machine to itself stay.
var addresses = regexp.MustCompile(`(?i)\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?:%[a-z0-9._-]+)?`)

func plainAddress(text string) string {
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.IsLoopback() || ip.IsUnspecified() {
		return text
	}
	return "(address)"
}

// text takes out of one text.
func (s scrubber) text(text string) string {
	text = s.words.Replace(text)
	for _, r := range scrubs {
		text = r.find.ReplaceAllString(text, r.with)
	}
	text = addresses.ReplaceAllStringFunc(text, plainAddress)
	for _, n := range s.names {
		for before := ""; text != before; { // two that share a border are found one after the other
			before, text = text, n.find.ReplaceAllString(text, n.with)
		}
	}
	return text
}

// scrub takes out of every text of a JSON document, and indents it.
func (s scrubber) scrub(document []byte) ([]byte, error) {
	var all any
	if err := json.Unmarshal(document, &all); err != nil {
		return nil, err
	}
	clean, err := plainjson.Encode(s.value(all))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = json.Indent(&out, append(clean, '\n'), "", "  ")
	return out.Bytes(), err
}

func (s scrubber) value(value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, below := range v {
			out[s.text(key)] = s.value(below)
		}
		return out
	case []any:
		for i := range v {
			v[i] = s.value(v[i])
		}
		return v
	case string:
		return s.text(v)
	}
	return value
}
