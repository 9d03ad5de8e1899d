// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// aliasPattern is what a name in `aliases` has to match.
const aliasPattern = `^(\*|[A-Za-z0-9][A-Za-z0-9._:/-]{0,127})$`

// fronts fills in the dialects where the file does not name them.
func (c *Config) fronts() {
	if c.Fronts.Serve == nil {
		c.Fronts.Serve = []string{FrontOpenAI, FrontAnthropic, FrontOllama}
	}
}

// aliases refuses names that stand for nothing, or for two things. It comes after the pools, whose models have their names by then.
func (c *Config) aliases(ps *problems) {
	for _, name := range slices.Sorted(maps.Keys(c.Aliases)) {
		alias := c.Aliases[name]
		path := join("aliases", name)
		if slices.ContainsFunc(c.Pools, func(p Pool) bool { return p.Model.ID == name }) {
			ps.add(c.where.of(path), fmt.Sprintf("%s is the name of a pool's model already", path), "choose another name, or another model.id")
			continue
		}
		if _, _, ok := c.Named(alias.Model); alias.Model != "" && !ok {
			var known []string
			for _, p := range c.Pools {
				known = append(known, p.Model.ID)
			}
			slices.Sort(known)
			ps.add(c.where.of(path), fmt.Sprintf("%s means the model %q, which no pool has", path, alias.Model), "write one of "+strings.Join(slices.Compact(known), ", "))
		}
	}
}

// Named finds the pools' model of a name or ref that stands for no alias: as it is written, or without what is behind its @. Model is what to
// compare with the pools' ids and canonical refs.
func (c *Config) Named(name string) (model string, w Wish, ok bool) {
	serves := func(model string) bool {
		canonical := c.CanonicalRef(model)
		return slices.ContainsFunc(c.Pools, func(p Pool) bool { return p.Model.ID == model || p.Model.Canonical == canonical })
	}
	if serves(name) {
		return name, Wish{}, true
	}
	model, w = SplitName(name)
	return model, w, w != (Wish{}) && serves(model)
}

// Wish is what a name says behind its @.
type Wish struct {
	Ctx          int    // tokens of context at least; 0: nothing
	Quantisation string // what the weights are in, or how that begins; empty: nothing
}

// SplitName parts a name like coder@32k or coder@q8_0 into the model's name and the wish (LO-428).
func SplitName(name string) (model string, w Wish) {
	at := strings.LastIndexByte(name, '@')
	if at <= 0 || at == len(name)-1 {
		return name, w
	}
	model, text := name[:at], strings.ToLower(name[at+1:])
	number, unit := text, 1
	for suffix, factor := range map[string]int{"k": 1 << 10, "m": 1 << 20} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = n, factor
		}
	}
	if n, err := strconv.ParseUint(number, 10, 24); err == nil && n > 0 && int(n)*unit <= maxCtx {
		return model, Wish{Ctx: int(n) * unit}
	}
	return model, Wish{Quantisation: text}
}

// maxCtx is the largest context that a pool can have, in tokens.
const maxCtx = 16777216
