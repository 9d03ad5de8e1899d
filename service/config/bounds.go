// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// minCtx is the smallest context that engines run with: a prompt, its template and an answer do not fit less, and some engines crash.
const minCtx = 32

// maxThreads is more than any machine of a home has. An engine starts as many as it is told.
const maxThreads = 1024

// size refuses figures with which an engine would not start, or crash (LO-843).
func (c *Config) size(ps *problems, p *Pool, path string) {
	at := func(field string) position { return c.where.of(path + "." + field) }
	if p.Ctx > 0 && p.Ctx < minCtx {
		ps.add(at("ctx"), fmt.Sprintf("ctx is %d tokens, fewer than the %d that an engine needs", p.Ctx, minCtx),
			"write a context that holds a prompt and its answer, like 4096, or leave ctx out to have as much as there is room for")
	}
	if all := int64(p.Ctx) * int64(max(p.Slots, 1)); all > math.MaxInt32 {
		ps.add(at("ctx"), fmt.Sprintf("ctx (%d) times slots (%d) are %d tokens, more than an engine can count", p.Ctx, p.Slots, all), "lower ctx or slots")
	}
	args := p.Provisioning.Args
	for i, arg := range args {
		name, value, joined := strings.Cut(arg, "=")
		allowed, known := argBounds[name]
		if !known {
			continue
		}
		if !joined {
			value = ""
			if i+1 < len(args) {
				value = args[i+1]
			}
		}
		where := at(fmt.Sprintf("provisioning.args[%d]", i))
		if n, err := strconv.Atoi(value); err != nil {
			ps.add(where, fmt.Sprintf("%s takes a whole number, not %q", name, task.Clip(value, maxQuote)), "write it as the next argument")
		} else if (n < allowed.least || n > allowed.most) && (n != allowed.also || !allowed.has) {
			ps.add(where, fmt.Sprintf("%s is %d, and has to be from %d to %d", name, n, allowed.least, allowed.most), "correct it, or leave it out for the engine's own figure")
		}
	}
}

// span is what an argument may be. Also is one more figure with a meaning of its own, where has says so.
type span struct {
	least, most, also int
	has               bool
}

// argBounds are the bounds of the arguments of llama-server whose wrong values end it.
var argBounds = map[string]span{
	"-b": {least: 1, most: maxBatch}, "--batch-size": {least: 1, most: maxBatch}, "-ub": {least: 1, most: maxBatch}, "--ubatch-size": {least: 1, most: maxBatch},
	"-np": {least: 1, most: maxBatch}, "--parallel": {least: 1, most: maxBatch},
	"-t": {least: 1, most: maxThreads, also: -1, has: true}, "--threads": {least: 1, most: maxThreads, also: -1, has: true},
	"-tb": {least: 1, most: maxThreads, also: -1, has: true}, "--threads-batch": {least: 1, most: maxThreads, also: -1, has: true},
	"-c": {least: minCtx, most: math.MaxInt32, has: true}, "--ctx-size": {least: minCtx, most: math.MaxInt32, has: true}, // 0: the model's own
}

// maxBatch bounds batches and slots of an engine.
const maxBatch = 1 << 20
