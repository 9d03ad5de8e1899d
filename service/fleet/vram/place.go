// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Auto is the device of a worker that may go on any one card.
const Auto = "auto"

// Share is memory of one card, in bytes.
type Share struct {
	Card  int
	Bytes int64
}

// Wish is what a worker needs.
type Wish struct {
	Device string    // Auto, or a mask of indices: "0", "0,1"
	Split  []float64 // what part of the bytes each card of the mask takes, in its order; empty: all take the same
	Bytes  int64     // in all
}

// Grant is what a worker got.
type Grant struct {
	Cards []int    // indices, in the order of the mask
	Names []string // of each card, its class and driver, e.g. "NVIDIA GeForce RTX 3090;driver 570.86"; part of the fingerprint
}

// Room is what a card can give, in bytes: Free now, and Total if it were empty.
type Room struct {
	Card        int
	Name        string // as in Grant
	Free, Total int64
}

// Cards are the indices of a device's cards; Auto has none.
func Cards(device string) (cards []int, err error) {
	if device == Auto {
		return nil, nil
	}
	for text := range strings.SplitSeq(device, ",") {
		card, err := strconv.Atoi(text)
		if err != nil {
			return nil, task.Errorf(task.PoolUnavailable, "the device mask %q is no list of GPU indices: correct it", device)
		}
		cards = append(cards, card)
	}
	return cards, nil
}

// Parts are the parts of a model that so many cards hold. They sum to 1, whatever the split sums to. Without a split they are equal.
func Parts(split []float64, cards int) []float64 {
	parts, sum := make([]float64, max(len(split), cards, 1)), 0.0
	for i := range parts {
		if parts[i] = 1; len(split) > 0 {
			parts[i] = split[i]
		}
		sum += parts[i]
	}
	for i := range parts {
		parts[i] /= sum
	}
	return parts
}

// Deal deals the bytes out over the cards, by the split.
func Deal(cards []int, split []float64, bytes int64) []Share {
	shares, parts := make([]Share, len(cards)), Parts(split, len(cards))
	for i, card := range cards {
		shares[i] = Share{Card: card, Bytes: int64(float64(bytes) * parts[i])}
	}
	return shares
}

// Sum is how many bytes have to be dealt out so that each card gets what it needs. It may be more than the needs together, because a model
// does not come apart exactly as the parts say.
func Sum(needs []int64, parts []float64) (sum int64) {
	for i, need := range needs {
		sum = max(sum, int64(math.Ceil(float64(need)/parts[i])))
	}
	return sum
}

// Place is where a worker could go: one card, or all cards of a mask together.
type Place struct {
	Device      string
	Class       string // device class, as it enters the fingerprint
	Name        string // for people
	Free, Total int64  // bytes of a whole worker, dealt out by the split
}

// Places are where a worker of a device could go. There is none if the rooms lack a card of the mask.
func Places(device string, split []float64, rooms []Room) (places []Place) {
	if device == Auto {
		for _, r := range rooms {
			places = append(places, Place{strconv.Itoa(r.Card), Class([]string{r.Name}), fmt.Sprintf("card %d", r.Card), r.Free, r.Total})
		}
		return places
	}
	cards, err := Cards(device)
	if err != nil || len(rooms) != len(cards) {
		return nil
	}
	p := Place{Device: device, Name: "card " + device, Free: math.MaxInt64, Total: math.MaxInt64}
	var names []string
	for i, part := range Parts(split, len(cards)) {
		p.Free, p.Total = min(p.Free, int64(float64(rooms[i].Free)/part)), min(p.Total, int64(float64(rooms[i].Total)/part))
		names = append(names, rooms[i].Name)
	}
	p.Class = Class(names)
	return []Place{p}
}

// Smallest is the room for a worker that may go on any one card: of those that hold it the best, as for Best. It is -1 if none holds it. A
// card below 0 is no card, but the host.
func Smallest(rooms []Room, bytes int64) int {
	return best(len(rooms), func(i int) int {
		if rooms[i].Card >= 0 && rooms[i].Free >= bytes {
			return 1
		}
		return 0
	}, func(i int) int64 { return rooms[i].Free })
}

// Class is the device class of cards of these names.
func Class(names []string) string { return "gpu:" + strings.Join(names, "+") }

// Best is the place that is worth the most. Of equal ones it is the one with the least free memory, then the first: so small models fill
// small cards, and large cards stay free for large models. It is -1 if no place is worth more than 0.
func Best(places []Place, worth func(Place) int) int {
	return best(len(places), func(i int) int { return worth(places[i]) }, func(i int) int64 { return places[i].Free })
}

func best(n int, worth func(int) int, free func(int) int64) int {
	at, most := -1, 0
	for i := range n {
		switch is := worth(i); {
		case is <= 0 || is < most:
		case is > most || free(i) < free(at):
			at, most = i, is
		}
	}
	return at
}
