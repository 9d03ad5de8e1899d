// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import "time"

// Box is the modelled machine: its cards, its models, and what a load costs.
type Box struct {
	Cards  []Card
	Models []Model

	DiskBytes int64         // bytes a second from the disk into a card
	Spawn     time.Duration // the part of a load that does not depend on its bytes: the process, its context on the card, the probe
	Exit      time.Duration // from the end of a worker to its memory being free
	// Unshared lets every task run as if it were alone on its card. Otherwise the tasks on a card share its time.
	Unshared bool
}

// Card is one GPU.
type Card struct {
	Name  string
	Class string
	Bytes int64 // for models, without what the driver and the desktop take
}

// Model is one model, and the pool that serves it.
type Model struct {
	Name  string
	Bytes int64 // of a worker: weights, KV cache, buffers
	Slots int   // of a worker; 0: 1
	Rates map[string]Rate
	// Pinned has the cards of the pool's workers, which are there from the start and stay. If it is empty, the pool is on demand.
	Pinned []int
	// IdleTTL is for an on-demand pool.
	IdleTTL time.Duration
}

// Rate is how fast one class of card runs a model, in tokens a second.
type Rate struct{ Prefill, Decode float64 }

// Work returns how long a card needs for so many tokens if it has nothing else to do.
func (r Rate) Work(prompt, answer int32) time.Duration {
	s := float64(prompt) / r.Prefill
	if answer > 0 {
		s += float64(answer) / r.Decode
	}
	return time.Duration(s * float64(time.Second))
}

// LoadTime returns how long a model's load takes.
func (b *Box) LoadTime(model int) time.Duration {
	return b.Spawn + time.Duration(float64(b.Models[model].Bytes)/float64(b.DiskBytes)*float64(time.Second))
}

const gib = int64(1) << 30

func gibs(n float64) int64 { return int64(n * float64(gib)) }

// The classes of the reference box.
const (
	RTX3090 = "rtx3090"
	RTX3060 = "rtx3060"
)

// Reference returns the box under the desk: a 3090 and a 3060, and five models that do not fit together: they need 44.1 GiB, and there are 35. The
// rates are assumptions, similar to what llama.cpp's users report for 4-bit weights at some thousand tokens of context. .docs/simulation.md says
// where they come from.
func Reference() Box {
	return Box{
		Cards: []Card{
			{Name: "3090", Class: RTX3090, Bytes: gibs(23.5)},
			{Name: "3060", Class: RTX3060, Bytes: gibs(11.5)},
		},
		Models: []Model{
			{Name: "coder-7b", Bytes: gibs(5.4), Rates: map[string]Rate{RTX3090: {3200, 95}, RTX3060: {1500, 45}}},
			{Name: "coder-14b", Bytes: gibs(10.2), Rates: map[string]Rate{RTX3090: {1700, 52}, RTX3060: {780, 23}}},
			{Name: "coder-32b", Bytes: gibs(21.6), Rates: map[string]Rate{RTX3090: {750, 28}}},
			{Name: "general-8b", Bytes: gibs(6.2), Rates: map[string]Rate{RTX3090: {3000, 87}, RTX3060: {1400, 42}}},
			{Name: "embedder", Bytes: gibs(0.7), Rates: map[string]Rate{RTX3090: {15000, 1}, RTX3060: {7000, 1}}},
		},
		DiskBytes: 2_000_000_000, Spawn: 1500 * time.Millisecond, Exit: 500 * time.Millisecond,
	}
}

// Rack returns a box with the given number of cards, of the two classes in turn, and one model that is pinned on all of them.
func Rack(replicas int) Box {
	b := Reference()
	b.Cards, b.Models = nil, b.Models[:1]
	for i := range replicas {
		c := Card{Name: "a", Class: RTX3090, Bytes: gibs(23.5)}
		if i%2 == 1 {
			c = Card{Name: "b", Class: RTX3060, Bytes: gibs(11.5)}
		}
		b.Cards = append(b.Cards, c)
		b.Models[0].Pinned = append(b.Models[0].Pinned, i)
	}
	return b
}
