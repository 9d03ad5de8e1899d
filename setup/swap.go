// SPDX-License-Identifier: GPL-3.0-or-later

package setup

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	yaml "github.com/goccy/go-yaml"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/task"
)

// maxSwap bounds a configuration of llama-swap, in bytes.
const maxSwap = 1 << 20

// swapFile is what is read of a configuration of llama-swap. What is not here is looked for in known, so that nothing is left out unsaid.
type swapFile struct {
	Macros    yaml.MapSlice        `yaml:"macros"`
	Models    map[string]swapModel `yaml:"models"`
	Groups    map[string]swapGroup `yaml:"groups"`
	GlobalTTL int                  `yaml:"globalTTL"`
	Hooks     struct {
		OnStartup struct {
			Preload []string `yaml:"preload"`
		} `yaml:"on_startup"`
	} `yaml:"hooks"`
}

type swapModel struct {
	Cmd     string        `yaml:"cmd"`
	Macros  yaml.MapSlice `yaml:"macros"`
	Env     []string      `yaml:"env"`
	Aliases []any         `yaml:"aliases"`
	TTL     *int          `yaml:"ttl"`
	Use     string        `yaml:"useModelName"`
	Filters struct {
		Strip   string         `yaml:"stripParams"`
		Set     map[string]any `yaml:"setParams"`
		SetByID map[string]any `yaml:"setParamsByID"`
	} `yaml:"filters"`
}

type swapGroup struct {
	Swap       *bool    `yaml:"swap"`
	Exclusive  *bool    `yaml:"exclusive"`
	Persistent bool     `yaml:"persistent"`
	Members    []string `yaml:"members"`
}

// Settings of llama-swap that are not taken along, and why. What has no reason needs none, as nothing is lost.
var (
	swapTop = map[string]string{
		"models": "", "macros": "", "groups": "", "globalTTL": "", "hooks": "", "healthCheckTimeout": "", "startPort": "", "logTimeFormat": "", "logToStdout": "",
		"logLevel": "", "metricsMaxInMemory": "", "captureBuffer": "", "sendLoadingState": "", "includeAliasesInList": "",
		"apiKeys": "there is one API token, in the variable LLORCH_API_TOKEN and in no file",
		"matrix":  "what is in memory together is decided by the memory there is",
		"peers":   "models of other servers are pools of provisioning.mode external: write one for each",
	}
	swapOf = map[string]string{
		"cmd": "", "macros": "", "env": "", "aliases": "", "ttl": "", "useModelName": "", "filters": "", "proxy": "", "checkEndpoint": "", "cmdStop": "",
		"sendLoadingState": "", "unlisted": "a served model is listed to everyone",
		"name": "models go by their ids", "description": "models go by their ids", "metadata": "models are listed with what is known of them",
		"concurrencyLimit": "what is too much waits in the pool's queue: queue.capacity bounds it",
		"timeouts":         "a pool's timeouts are wall, prefill and idle: see the configuration's schema",
	}
)

// Swap turns a configuration of llama-swap into pools. Programs and models are looked at where it names them. Folder is where its relative paths
// start.
func Swap(raw []byte, s Seen, folder string, env func(string) string) (p Proposal, err error) {
	defer func() {
		if r := recover(); r != nil { // the YAML library's
			p, err = Proposal{}, errors.New("the file is not YAML that can be read")
		}
	}()
	if len(raw) > maxSwap {
		return p, fmt.Errorf("the file is larger than %s", size(maxSwap))
	}
	var file swapFile
	var all map[string]any
	if err := errors.Join(yaml.Unmarshal(raw, &file), yaml.Unmarshal(raw, &all)); err != nil {
		return p, fmt.Errorf("it is no configuration of llama-swap: %w", err)
	}
	if len(file.Models) == 0 {
		return p, errors.New("it is no configuration of llama-swap: it has no models")
	}
	c := &swapping{Seen: s, folder: folder, env: env, file: file, ids: map[string]bool{}, names: map[string]bool{}}
	c.out.Aliases, c.out.Profiles = map[string]string{}, map[string]config.SamplerProfile{}
	c.out.Head = []string{"It takes the place of a configuration of llama-swap. Which models are in memory is decided by the memory there is, and by who waits: groups need not say it."}
	c.unsaid("", all, swapTop)
	models, _ := all["models"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(file.Models)) {
		c.names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(file.Models)) {
		settings, _ := models[name].(map[string]any)
		c.unsaid(name+": ", settings, swapOf)
		if why := c.model(name, file.Models[name]); why != "" {
			c.leave(name, why)
		}
	}
	c.groups()
	if len(c.out.Pools) == 0 {
		return c.out, fmt.Errorf("%w: nothing of the file could be taken along", ErrNothing)
	}
	return c.out, nil
}

// swapping is a configuration of llama-swap on its way.
type swapping struct {
	Seen
	folder string
	env    func(string) string
	file   swapFile
	out    Proposal
	ids    map[string]bool
	names  map[string]bool // of models and aliases
}

func (c *swapping) leave(what, why string) { c.out.Left = append(c.out.Left, Left{what, why}) }

// unsaid names settings that are not taken along.
func (c *swapping) unsaid(of string, all map[string]any, known map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		why, is := known[key]
		switch {
		case !is:
			c.leave(of+key, "there is no such setting here")
		case why != "":
			c.leave(of+key, why)
		}
	}
}

// model turns one model into a pool, or says why it cannot.
func (c *swapping) model(name string, m swapModel) (why string) {
	words, err := c.words(name, m)
	if err != nil {
		return err.Error()
	}
	l := launch{swapping: c, name: name}
	l.pool = config.Pool{ID: slug(name), Engine: task.LlamaCpp, Lifecycle: config.LifecycleOnDemand, Device: c.device(), Slots: 1}
	l.pool.Model.ID = modelID(name)
	if l.pool.Model.ID != name {
		c.leave(name+": its name", "a name has letters, digits and . _ : / - here, so it is "+l.pool.Model.ID)
	}
	for _, v := range m.Env {
		l.variable(v)
	}
	if why := l.command(words); why != "" {
		return why
	}
	l.pool.ID = unique(l.pool.ID, c.ids)
	c.life(&l, m)
	if m.Use != "" {
		c.leave(name+": useModelName", "requests ask for the pool's model, and the engine has only that one")
	}
	l.filters(m)
	c.aliases(name, l.pool.Model.ID, m.Aliases)
	if l.sample != nil {
		l.pool.SamplerProfile = l.pool.ID
		c.out.Profiles[l.pool.ID] = *l.sample
	}
	c.out.Pools = append(c.out.Pools, Pool{l.pool, append([]string{fmt.Sprintf("%s, from llama-swap: %s.", name, filepath.Base(words[0]))}, l.whys...)})
	return ""
}

// device is where a model goes that says nothing of it.
func (c *swapping) device() config.Device {
	if len(c.Cards) == 0 {
		return config.CPU
	}
	return config.Auto
}

// life says when a model is in memory.
func (c *swapping) life(l *launch, m swapModel) {
	ttl := c.file.GlobalTTL
	if m.TTL != nil && *m.TTL >= 0 {
		ttl = *m.TTL
	}
	group := ""
	for _, name := range slices.Sorted(maps.Keys(c.file.Groups)) {
		g := c.file.Groups[name]
		if g.Persistent && slices.Contains(g.Members, l.name) {
			group = name
		}
	}
	const forever = 24 * 365 * time.Hour
	switch {
	case group != "":
		l.pool.Lifecycle = config.LifecyclePinned
		l.whys = append(l.whys, fmt.Sprintf("The group %s is persistent, so it is always in memory.", group))
	case ttl > 0:
		l.pool.IdleTTL = time.Duration(min(ttl, int(forever/time.Second))) * time.Second
		l.whys = append(l.whys, "It is loaded when a task needs it, and unloaded when others need the room or by its ttl.")
	default:
		l.pool.IdleTTL = forever
		l.whys = append(l.whys, "It is loaded when a task needs it. It has no ttl, so it is unloaded only when others need the room.")
	}
}

func (c *swapping) groups() {
	for _, name := range slices.Sorted(maps.Keys(c.file.Groups)) {
		if g := c.file.Groups[name]; !g.Persistent {
			c.leave("group "+name, "what is in memory together is decided by the memory there is; lifecycle: pinned keeps a pool in it always")
		}
	}
	for _, name := range c.file.Hooks.OnStartup.Preload {
		c.leave("preload of "+name, "a pool on demand is loaded by its first task, or by `llama-orch pool load`; lifecycle: pinned loads it at the start")
	}
}

func (c *swapping) aliases(of, model string, all []any) {
	for _, a := range all {
		name, _ := a.(string)
		if fields, is := a.(map[string]any); is {
			name, _ = fields["id"].(string)
		}
		alias := modelID(name)
		switch {
		case name == "" || alias != name:
			c.leave(fmt.Sprintf("%s: alias %v", of, a), "an alias has letters, digits and . _ : / -, at most 128")
		case c.names[alias]:
			c.leave(of+": alias "+name, "something else has that name")
		default:
			c.names[alias], c.out.Aliases[alias] = true, model
		}
	}
}

// words are a model's command, with its macros put in, as a shell would part it.
func (c *swapping) words(name string, m swapModel) ([]string, error) {
	text := m.Cmd
	macros := slices.Concat(yaml.MapSlice{{Key: "MODEL_ID", Value: name}}, m.Macros, c.file.Macros) // the first of a name counts
	const deep = 16
	for range deep {
		before := text
		for _, macro := range macros {
			text = strings.ReplaceAll(text, fmt.Sprintf("${%v}", macro.Key), fmt.Sprint(macro.Value))
		}
		if len(text) > maxSwap {
			return nil, errors.New("its macros make its cmd too long")
		}
		if text == before {
			break
		}
	}
	for {
		before, rest, is := strings.Cut(text, "${env.")
		variable, after, closed := strings.Cut(rest, "}")
		if !is || !closed {
			break
		}
		if c.env(variable) == "" {
			return nil, fmt.Errorf("its cmd needs the variable %s, which is not set", variable)
		}
		text = before + c.env(variable) + after
	}
	words, err := shellWords(text)
	if err == nil && len(words) == 0 {
		err = errors.New("it has no cmd")
	}
	for _, w := range words {
		if at := strings.Index(w, "${"); at >= 0 && !strings.Contains(w, "${PORT}") {
			return nil, fmt.Errorf("its cmd has the macro %s, which is not defined", w[at:])
		}
	}
	return words, err
}

// shellWords parts a command as llama-swap does: like a shell, without comments, without running anything.
func shellWords(text string) (words []string, err error) {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			lines = append(lines, strings.TrimSuffix(strings.TrimRight(line, "\r\n"), "\\"))
		}
	}
	var word strings.Builder
	quote, within := rune(0), false
	escaped := false
	for _, r := range strings.Join(lines, " ") {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, within = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, within = r, true
		case r == ' ' || r == '\t':
			if within {
				words = append(words, word.String())
			}
			word.Reset()
			within = false
		default:
			within = true
			word.WriteRune(r)
		}
	}
	if quote != 0 {
		return nil, errors.New("its cmd has a quote that does not end")
	}
	if within {
		words = append(words, word.String())
	}
	return words, nil
}

// String is one line.
func (l Left) String() string { return cmp.Or(l.What, "the file") + ": " + l.Why }
