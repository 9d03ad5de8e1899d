// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/task"
)

// lineWidth is where comments are broken.
const lineWidth = 118

// YAML writes a proposal as a configuration, with its reasons as comments.
func (p Proposal) YAML() []byte {
	var b strings.Builder
	comment(&b, "", "Written by `llama-orch init`. Settings that are left out have their defaults; `orchestratord check --config FILE` says what it would do.")
	for _, line := range p.Head {
		comment(&b, "", line)
	}
	b.WriteString("bind_addr: 127.0.0.1:8080 # for other machines 0.0.0.0:8080; then set LLORCH_API_TOKEN\nauth: {optional_on_loopback: true} # programs on this machine need no token\n")
	if len(p.Profiles) > 0 {
		b.WriteString("sampler_profiles:\n")
		for _, name := range slices.Sorted(maps.Keys(p.Profiles)) {
			s := p.Profiles[name]
			fmt.Fprintf(&b, "  %s: {temperature: %s, top_p: %s, top_k: %d, min_p: %s, repeat_penalty: %s}\n", text(name),
				number(s.Temperature), number(s.TopP), s.TopK, number(s.MinP), number(s.RepeatPenalty))
		}
	}
	if len(p.Aliases) > 0 {
		b.WriteString("aliases: # further names of the models\n")
		for _, name := range slices.Sorted(maps.Keys(p.Aliases)) {
			fmt.Fprintf(&b, "  %s: %s\n", text(name), text(p.Aliases[name]))
		}
	}
	b.WriteString("pools:\n")
	for _, pool := range p.Pools {
		for _, line := range pool.Whys {
			comment(&b, "  ", line)
		}
		write(&b, pool.Pool)
	}
	if len(p.Left) > 0 {
		comment(&b, "", "Left out:")
		for _, l := range p.Left {
			comment(&b, "", "- "+l.What+": "+l.Why)
		}
	}
	return []byte(b.String())
}

func write(b *strings.Builder, p config.Pool) {
	fmt.Fprintf(b, "  - id: %s\n    engine: %s\n    model: {id: %s, ref: %s", text(p.ID), text(p.Engine), text(p.Model.ID), text(p.Model.Ref))
	if p.Model.Name != "" {
		fmt.Fprintf(b, ", name: %s", text(p.Model.Name))
	}
	b.WriteString("}\n")
	set := func(name, value string, is bool) {
		if is {
			fmt.Fprintf(b, "    %s: %s\n", name, value)
		}
	}
	set("workload", string(p.Workload), p.Workload != "" && p.Workload != task.Completion)
	set("device", device(p.Device), p.Device != "")
	set("tensor_split", list(p.TensorSplit, number), len(p.TensorSplit) > 0)
	set("lifecycle", p.Lifecycle, p.Lifecycle != "")
	set("idle_ttl", seconds(p.IdleTTL), p.IdleTTL > 0)
	set("slots", strconv.Itoa(p.Slots), p.Slots > 1)
	set("ctx", strconv.Itoa(p.Ctx), p.Ctx > 0)
	set("threads", strconv.Itoa(p.Threads), p.Threads > 0)
	set("sampler_profile", text(p.SamplerProfile), p.SamplerProfile != "")
	set("params", params(p.Params), params(p.Params) != "{}")
	v := p.Provisioning
	fields := []string{"mode: " + v.Mode}
	for _, f := range []struct{ name, value string }{{"path", v.Path}, {"image", v.Image}, {"runtime", v.Runtime}} {
		if f.value != "" {
			fields = append(fields, f.name+": "+text(f.value))
		}
	}
	if len(v.Args) > 0 {
		fields = append(fields, "args: "+list(v.Args, quoted))
	}
	if len(v.URLs) > 0 {
		fields = append(fields, "urls: "+list(v.URLs, quoted))
	}
	set("provisioning", "{"+strings.Join(fields, ", ")+"}", true)
}

func device(d config.Device) string {
	if d == config.CPU || d == config.Auto {
		return string(d)
	}
	return "[" + strings.ReplaceAll(string(d), ",", ", ") + "]"
}

// params writes what is changed in requests.
func params(p config.Params) string {
	var parts []string
	for _, s := range []struct {
		name string
		of   config.Settings
	}{{"default", p.Default}, {"override", p.Override}} {
		if fields := settings(s.of); len(fields) > 0 {
			parts = append(parts, s.name+": {"+strings.Join(fields, ", ")+"}")
		}
	}
	if len(p.Strip) > 0 {
		parts = append(parts, "strip: "+list(p.Strip, text))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func settings(s config.Settings) (fields []string) {
	add := func(name, value string) { fields = append(fields, name+": "+value) }
	for _, f := range []struct {
		name string
		v    *float64
	}{{"temperature", s.Temperature}, {"top_p", s.TopP}, {"min_p", s.MinP}, {"repeat_penalty", s.RepeatPenalty}} {
		if f.v != nil {
			add(f.name, number(*f.v))
		}
	}
	for _, f := range []struct {
		name string
		v    *int
	}{{"top_k", s.TopK}, {"max_tokens", s.MaxTokens}, {"seed", s.Seed}} {
		if f.v != nil {
			add(f.name, strconv.Itoa(*f.v))
		}
	}
	if s.Thinking != nil {
		add("thinking", strconv.FormatBool(*s.Thinking))
	}
	if s.Effort != nil {
		add("effort", quoted(*s.Effort))
	}
	return fields
}

func list[T any](items []T, as func(T) string) string {
	all := make([]string, len(items))
	for i, item := range items {
		all[i] = as(item)
	}
	return "[" + strings.Join(all, ", ") + "]"
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) + "s" }

// text writes a text, without quotes where nothing in it could be taken for something else.
func text(s string) string {
	plain := s != "" && s[0] >= 'a' && s[0] <= 'z'
	for _, r := range s {
		plain = plain && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}
	switch s {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	return quoted(s)
}

// quoted writes a text in quotes. What Go escapes YAML reads.
func quoted(s string) string { return strconv.Quote(strings.ToValidUTF8(s, "\uFFFD")) }

// comment writes a sentence as a comment, broken into lines. Nothing in it ends the comment.
func comment(b *strings.Builder, indent, line string) {
	at := 0
	for i, word := range strings.Fields(strings.Map(printable, line)) {
		if i > 0 && at+1+len(word) <= lineWidth {
			b.WriteString(" " + word)
			at += 1 + len(word)
			continue
		}
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(indent + "# " + word)
		at = len(indent) + 2 + len(word)
	}
	b.WriteString("\n")
}

func printable(r rune) rune {
	if strconv.IsPrint(r) {
		return r
	}
	return ' '
}
