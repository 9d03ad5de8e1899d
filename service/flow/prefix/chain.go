// SPDX-License-Identifier: GPL-3.0-or-later

// Package prefix knows which replicas hold the beginning of a task's prompt in their KV, by what their slots were asked last. It is what gives a
// conversation that has no session its replica again (LO-442).
package prefix

import (
	"encoding/json"
	"hash/maphash"

	"github.com/llama-orch/llama-orch/service/task"
)

const (
	// maxLinks bounds a chain. Of a longer conversation the beginning counts.
	maxLinks = 1024
	// block is how many bytes of a prompt without messages are one link.
	block = 512
)

// Chain names the beginnings of what a task asks, the shortest first.
type Chain []link

// link is a beginning: what it is, with all before it, and how many bytes it has.
type link struct {
	sum   uint64
	bytes int
}

// seed makes the sums of this process its own. They name nothing outside.
var seed = maphash.MakeSeed()

// Of is the chain of a task: first what is asked of a chat besides its messages, since tools stand at the beginning of a prompt, and then each message; or else the blocks of
// the prompt.
func Of(r *task.Request) Chain {
	var h maphash.Hash
	h.SetSeed(seed)
	bytes := 0
	var c Chain
	add := func(n int) {
		bytes += n
		c = append(c, link{h.Sum64(), bytes})
	}
	if len(r.Messages) == 0 {
		for p := r.Prompt; len(p) >= block && len(c) < maxLinks; p = p[block:] {
			_, _ = h.WriteString(p[:block])
			add(block)
		}
		return c
	}
	c = make(Chain, 0, min(len(r.Messages)+1, maxLinks))
	if r.Chat != nil {
		asked, err := json.Marshal(r.Chat)
		if err != nil { // admission has seen its JSON
			return nil
		}
		_, _ = h.Write(asked)
		add(len(asked))
	}
	for i := range r.Messages {
		if len(c) == maxLinks {
			break
		}
		add(write(&h, &r.Messages[i]))
	}
	return c
}

// write hashes (which cannot fail) what a message brings to a prompt, and returns how many bytes that is. Thinking is left out: templates drop that of earlier turns. So are the ids of
// calls.
func write(h *maphash.Hash, m *task.Message) (bytes int) {
	text := func(s string) {
		bytes += len(s)
		_, _ = h.WriteString(s)
		_ = h.WriteByte(0)
	}
	text(m.Role)
	text(m.Content)
	for _, p := range m.Parts {
		text(p.Text)
		if p.Image != nil {
			_, _ = h.Write(p.Image.Data)
			bytes += len(p.Image.Data)
		}
	}
	for _, c := range m.ToolCalls {
		text(c.Name)
		text(c.Arguments)
	}
	return bytes
}

// bytes is how long the chain's prompt is.
func (c Chain) bytes() int {
	if len(c) == 0 {
		return 0
	}
	return c[len(c)-1].bytes
}

// shared is how many bytes both begin with.
func (c Chain) shared(d Chain) int {
	n := 0
	for n < len(c) && n < len(d) && c[n].sum == d[n].sum {
		n++
	}
	return c[:n].bytes()
}
