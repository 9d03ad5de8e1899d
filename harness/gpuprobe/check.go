// SPDX-License-Identifier: GPL-3.0-or-later

package gpuprobe

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/fleet/gpu"
)

// What no card of today leaves.
const (
	largest  = 1 << 40 // bytes of memory
	smallest = 256 << 20
	hottest  = 120  // °C
	hungry   = 3000 // W
)

var (
	uuids    = regexp.MustCompile(`^(GPU|MIG)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	versions = regexp.MustCompile(`^\d+\.\d+(\.\d+)*$`)
)

// checker collects checks.
type checker struct {
	all []Check
	ok  bool
}

func (c *checker) must(of, must string, ok bool, saw string, args ...any) {
	c.all = append(c.all, Check{of, must, fmt.Sprintf(saw, args...), ok})
	c.ok = c.ok && ok
}

// check holds samples against what can be. Nothing is plausible about a machine without cards.
func check(samples []gpu.Inventory, counters [][]gpu.Counter) ([]Check, bool) {
	c := &checker{ok: true}
	last := samples[len(samples)-1]
	c.must("driver", "it can be used", last.Err == "", "%q", last.Err)
	if last.Err != "" {
		return c.all, false
	}
	c.must("driver", "a version in numbers", versions.MatchString(last.Driver), "%q", last.Driver)
	c.must("driver", "a version of CUDA in numbers", versions.MatchString(last.CUDA), "%q", last.CUDA)
	c.must("cards", "at least one", len(last.Cards) > 0, "%d", len(last.Cards))
	c.must("samples", "each is newer than the one before", rising(samples), "%d samples", len(samples))
	seen := map[string]bool{}
	for i, card := range last.Cards {
		of := fmt.Sprintf("card %d", i)
		c.must(of, "the index is its place", card.Index == i, "%d", card.Index)
		c.must(of, "a UUID as NVIDIA writes them, that no other card has", uuids.MatchString(card.UUID) && !seen[card.UUID], "%q", card.UUID)
		seen[card.UUID] = true
		c.must(of, "a name", strings.TrimSpace(card.Name) != "" && card.Name == strings.ToValidUTF8(card.Name, ""), "%q", card.Name)
		c.must(of, "healthy, and without a problem", card.Healthy && card.Problem == "", "%t, %q", card.Healthy, card.Problem)
		for n, s := range samples {
			if i < len(s.Cards) {
				c.sample(fmt.Sprintf("%s, sample %d", of, n+1), s.Cards[i])
				c.must(fmt.Sprintf("%s, sample %d", of, n+1), "the same card as in the last one", s.Cards[i].UUID == card.UUID && s.Cards[i].Total == card.Total, "%q", s.Cards[i].UUID)
			}
		}
		c.energy(of, card.UUID, samples, counters)
	}
	return c.all, c.ok
}

// sample checks what changes.
func (c *checker) sample(of string, card gpu.Card) {
	c.must(of, "memory of 256 MiB to 1 TiB", card.Total >= smallest && card.Total <= largest, "%d", card.Total)
	// What the driver keeps for itself is in neither, with the older of NVML's two answers; with the newer it is in what is used.
	sum := card.Free + card.Used
	c.must(of, "free and used memory are the total, but for a tenth", card.Free >= 0 && card.Used >= 0 && sum <= card.Total && sum >= card.Total-card.Total/10,
		"%d free, %d used of %d", card.Free, card.Used, card.Total)
	held := int64(0)
	for _, p := range card.Processes {
		held += p.Bytes
		_, err := os.Stat("/proc/" + strconv.Itoa(p.PID))
		// In a container the driver may tell numbers of the machine around it. Then the daemon counts the memory as a stranger's, which is right.
		c.must(of, "a process has a number, and no more memory than the card", p.PID > 0 && p.Bytes <= card.Total, "%d with %d bytes, seen here: %t", p.PID, p.Bytes, err == nil)
	}
	c.must(of, "processes hold no more than is used", held <= card.Used, "%d of %d", held, card.Used)
	c.must(of, "utilisation of 0 to 1", card.Utilization >= 0 && card.Utilization <= 1, "%g", card.Utilization)
	c.must(of, "a temperature up to 120 °C, 0 where it does not tell", card.Temperature >= 0 && card.Temperature <= hottest, "%d", card.Temperature)
	c.must(of, "power up to 3000 W, 0 where it does not tell", card.Power >= 0 && card.Power <= hungry, "%g", card.Power)
}

// energy checks a card's counter: it never goes back, and rises as the power says, within a factor of three, since power is of a moment. A card without a
// counter is plausible.
func (c *checker) energy(of, uuid string, samples []gpu.Inventory, counters [][]gpu.Counter) {
	var all []gpu.Counter
	for _, sample := range counters {
		for _, one := range sample {
			if one.UUID == uuid && one.Joules > 0 {
				all = append(all, one)
			}
		}
	}
	if len(all) < 2 {
		c.must(of, "a counter of energy, or none", true, "%d readings", len(all))
		return
	}
	back := false
	for i := range all[1:] {
		back = back || all[i+1].Joules < all[i].Joules
	}
	first, last := all[0], all[len(all)-1]
	c.must(of, "its counter of energy never goes back", !back, "%.3f J to %.3f J", first.Joules, last.Joules)
	took := last.At.Sub(first.At).Seconds()
	power, n := 0.0, 0
	for _, s := range samples {
		for _, card := range s.Cards {
			if card.UUID == uuid && card.Power > 0 {
				power, n = power+card.Power, n+1
			}
		}
	}
	if n == 0 || took < 1 {
		return
	}
	power /= float64(n)
	rate := (last.Joules - first.Joules) / took
	c.must(of, "its counter rises as its power says, within a factor of three", rate >= power/3 && rate <= 3*power, "%.1f W by the counter, %.1f W as it says", rate, power)
}

// rising reports whether samples have numbers and times that grow.
func rising(samples []gpu.Inventory) bool {
	for i := range samples[1:] {
		if samples[i+1].Seq <= samples[i].Seq || samples[i+1].At.Before(samples[i].At) {
			return false
		}
	}
	return true
}
