// SPDX-License-Identifier: GPL-3.0-or-later

package residency

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/fleet/vram"
)

const gb = int64(1) << 30

var (
	noon  = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	rules = Rules{
		MaxWait: 30 * time.Second, MaxWaitBehindBatch: 5 * time.Second, MaxWaitBatch: 5 * time.Minute, MinTurn: 10 * time.Second, Linger: 30 * time.Second,
	}
)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

// absent wants so many GB; loaded holds them on a card.
func absent(id string, size int64) Tenant { return Tenant{ID: id, Wants: []Want{{Bytes: size * gb}}} }

func loaded(id string, card int, size int64, idle time.Duration) Tenant {
	return Tenant{
		ID: id, State: Loaded, Holds: []vram.Share{{Card: card, Bytes: size * gb}}, Wants: []Want{{Bytes: size * gb}},
		Since: ago(time.Hour), IdleSince: ago(idle),
	}
}

func (t Tenant) busy(n int) Tenant                  { t.Busy, t.IdleSince = n, time.Time{}; return t }
func (t Tenant) interactive(d time.Duration) Tenant { t.Interactive = ago(d); return t }
func (t Tenant) batch(d time.Duration) Tenant       { t.Batch = ago(d); return t }
func (t Tenant) since(d time.Duration) Tenant       { t.Since = ago(d); return t }
func (t Tenant) ttl(d time.Duration) Tenant         { t.IdleTTL = d; return t }
func (t Tenant) in(state State) Tenant              { t.State = state; return t }

// LO-503
func TestDecide(t *testing.T) {
	cards := func(a, b int64) []vram.Room { return []vram.Room{{Card: 0, Free: a * gb}, {Card: 1, Free: b * gb}} }
	for name, c := range map[string]struct {
		cards   []vram.Room
		tenants []Tenant
		want    Plan
	}{
		"nothing to do":               {cards(24, 12), []Tenant{absent("a", 8), loaded("b", 0, 8, time.Second)}, Plan{}},
		"there is room":               {cards(24, 12), []Tenant{absent("a", 8).batch(0)}, Plan{Load: []string{"a"}}},
		"the room is promised":        {cards(24, 0), []Tenant{absent("a", 20).in(Loading).interactive(0), absent("b", 8).batch(time.Hour)}, Plan{}},
		"there is room beside that":   {cards(24, 0), []Tenant{absent("a", 12).in(Loading).interactive(0), absent("b", 8).batch(time.Hour)}, Plan{Load: []string{"b"}}},
		"room for two":                {cards(24, 12), []Tenant{absent("a", 20).batch(0), absent("b", 8).batch(0)}, Plan{Load: []string{"a", "b"}}},
		"already on its way":          {cards(24, 12), []Tenant{absent("a", 8).in(Loading).batch(0)}, Plan{}},
		"idle for long":               {cards(1, 1), []Tenant{loaded("a", 0, 8, time.Hour).ttl(time.Minute), loaded("b", 1, 8, time.Second).ttl(time.Minute)}, Plan{Unload: []string{"a"}}},
		"no time to live":             {cards(1, 1), []Tenant{loaded("a", 0, 8, time.Hour)}, Plan{}},
		"one idle pool makes room":    {cards(2, 2), []Tenant{absent("a", 10).batch(0), loaded("b", 0, 8, time.Minute)}, Plan{Unload: []string{"b"}}},
		"the longest idle of two":     {cards(0, 0), []Tenant{absent("a", 8).batch(0), loaded("b", 0, 8, time.Minute), loaded("c", 1, 8, time.Hour)}, Plan{Unload: []string{"c"}}},
		"one rather than two":         {cards(0, 0), []Tenant{absent("a", 8).batch(0), loaded("b", 0, 4, time.Hour), loaded("c", 0, 4, time.Hour), loaded("d", 1, 8, time.Minute)}, Plan{Unload: []string{"d"}}},
		"two where it must be":        {cards(0, 0), []Tenant{absent("a", 8).batch(0), loaded("b", 0, 4, time.Minute), loaded("c", 0, 4, time.Minute), loaded("d", 1, 4, time.Hour)}, Plan{Unload: []string{"b", "c"}}},
		"wait for one that leaves":    {cards(0, 0), []Tenant{absent("a", 8).batch(0), loaded("b", 0, 8, 0).in(Leaving), loaded("c", 1, 8, time.Hour)}, Plan{}},
		"never one that generates":    {cards(0, 0), []Tenant{absent("a", 8).interactive(time.Second), loaded("b", 0, 8, 0).busy(1)}, Plan{}},
		"tasks of one model together": {cards(0, 0), []Tenant{absent("a", 8).interactive(29 * time.Second), loaded("b", 0, 8, 0).interactive(time.Minute)}, Plan{}},
		"over the bound":              {cards(0, 0), []Tenant{absent("a", 8).interactive(30 * time.Second), loaded("b", 0, 8, 0).interactive(time.Minute)}, Plan{Unload: []string{"b"}}},
		"over the bound, generating":  {cards(0, 0), []Tenant{absent("a", 8).interactive(30 * time.Second), loaded("b", 0, 8, 0).interactive(time.Minute).busy(2)}, Plan{Hold: []string{"b"}, MakeWay: []string{"b"}}},
		"over the bound, with batch":  {cards(0, 0), []Tenant{absent("a", 8).batch(5 * time.Minute), loaded("b", 0, 8, 0).busy(2)}, Plan{Hold: []string{"b"}}},
		"batch has a longer bound":    {cards(0, 0), []Tenant{absent("a", 8).batch(4 * time.Minute), loaded("b", 0, 8, 0).batch(time.Minute)}, Plan{}},
		"sooner behind batch tasks":   {cards(0, 0), []Tenant{absent("a", 8).interactive(5 * time.Second), loaded("b", 0, 8, 0).batch(time.Minute)}, Plan{Unload: []string{"b"}}},
		"not behind interactive ones": {cards(0, 0), []Tenant{absent("a", 8).interactive(6 * time.Second), loaded("b", 0, 8, 0).batch(time.Minute).interactive(0)}, Plan{}},
		"batch alone goes first":      {cards(0, 0), []Tenant{absent("a", 8).interactive(time.Hour), loaded("b", 0, 8, 0).interactive(0).since(3 * time.Hour), loaded("c", 1, 8, 0).batch(0)}, Plan{Unload: []string{"c"}}},
		"the user may be back":        {cards(2, 2), []Tenant{absent("a", 10).batch(time.Minute), loaded("b", 0, 8, 29*time.Second)}, Plan{}},
		"or not":                      {cards(2, 2), []Tenant{absent("a", 10).batch(time.Minute), loaded("b", 0, 8, 30*time.Second)}, Plan{Unload: []string{"b"}}},
		"the longer turn goes":        {cards(0, 0), []Tenant{absent("a", 8).interactive(time.Hour), loaded("b", 0, 8, 0).batch(0).busy(1).since(20 * time.Second), loaded("c", 1, 8, 0).batch(0).busy(1).since(time.Minute)}, Plan{Hold: []string{"c"}, MakeWay: []string{"c"}}},
		"a turn is a turn":            {cards(0, 0), []Tenant{absent("a", 8).interactive(time.Hour), loaded("b", 0, 8, 0).batch(time.Minute).since(9 * time.Second)}, Plan{}},
		"waits count from the turn":   {cards(0, 0), []Tenant{absent("a", 8).interactive(time.Hour).since(29 * time.Second), loaded("b", 0, 8, 0).interactive(time.Minute)}, Plan{}},
		"overdue before interactive":  {cards(8, 0), []Tenant{absent("a", 8).interactive(time.Second), absent("b", 8).batch(time.Hour)}, Plan{Load: []string{"b"}}},
		"interactive before batch":    {cards(8, 0), []Tenant{absent("a", 8).batch(time.Minute), absent("b", 8).interactive(0)}, Plan{Load: []string{"b"}}},
		"the host is no card":         {[]vram.Room{{Card: -1, Free: 64 * gb}, {Card: 0}}, []Tenant{absent("a", 8).batch(0), loaded("b", 0, 8, time.Minute)}, Plan{Unload: []string{"b"}}},
		"too large for any card":      {cards(24, 12), []Tenant{absent("a", 30).interactive(time.Hour), absent("b", 8).batch(0)}, Plan{Load: []string{"b"}}},
		"a large one does not starve": {cards(8, 0), []Tenant{absent("a", 16).interactive(time.Hour), absent("b", 8).batch(0), loaded("c", 0, 8, 0).busy(1).since(0)}, Plan{}},
		"the idle wait for the busy": {
			cards(0, 0),
			[]Tenant{absent("a", 8).interactive(time.Hour), loaded("b", 0, 4, 0).busy(1), loaded("c", 0, 4, 0).batch(time.Second)},
			Plan{Hold: []string{"b", "c"}, MakeWay: []string{"b"}},
		},
		"a split over both cards": {
			cards(24, 12),
			[]Tenant{{ID: "a", Wants: []Want{{Shares: []vram.Share{{Card: 0, Bytes: 20 * gb}, {Card: 1, Bytes: 10 * gb}}}}, Batch: noon}, absent("b", 8).batch(0)},
			Plan{Load: []string{"a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, Decide(noon, c.cards, c.tenants, rules))
			slices.Reverse(c.tenants)
			again := Decide(noon, c.cards, c.tenants, rules)
			for _, list := range [][]string{again.Load, again.Unload, again.Hold, again.MakeWay, c.want.Load, c.want.Unload, c.want.Hold, c.want.MakeWay} {
				slices.Sort(list)
			}
			require.Equal(t, c.want, again, "the order of the snapshot does not matter")
		})
	}
}

// LO-501, LO-503: what is loaded fits, what goes neither generates nor goes in vain.
func TestPropertySwapsKeepTheMemory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cards := []vram.Room{
			{Card: 0, Free: rapid.Int64Range(0, 24).Draw(t, "a") * gb},
			{Card: 1, Free: rapid.Int64Range(0, 12).Draw(t, "b") * gb},
		}
		var tenants []Tenant
		for i := range rapid.IntRange(0, 7).Draw(t, "n") {
			id, size := fmt.Sprint("p", i), rapid.Int64Range(1, 26).Draw(t, "size")
			x := absent(id, size)
			if rapid.Bool().Draw(t, "loaded") {
				x = loaded(id, rapid.IntRange(0, 1).Draw(t, "card"), size, time.Duration(rapid.IntRange(0, 100).Draw(t, "idle"))*time.Second)
				x = x.busy(rapid.IntRange(0, 2).Draw(t, "busy")).ttl(time.Duration(rapid.IntRange(0, 1).Draw(t, "ttl")) * time.Minute)
			}
			if rapid.Bool().Draw(t, "interactive") {
				x = x.interactive(time.Duration(rapid.IntRange(0, 600).Draw(t, "came")) * time.Second)
			}
			if rapid.Bool().Draw(t, "batch") {
				x = x.batch(time.Duration(rapid.IntRange(0, 600).Draw(t, "came")) * time.Second)
			}
			tenants = append(tenants, x)
		}
		plan := Decide(noon, cards, tenants, rules)
		free := rooms(slices.Clone(cards))
		for _, id := range plan.Load {
			x := tenants[slices.IndexFunc(tenants, func(x Tenant) bool { return x.ID == id })]
			require.True(t, x.State == Absent && x.queued(), "only what is waited for is loaded")
			require.True(t, free.fit(x.Wants), "what is loaded fits together, in the plan's order")
		}
		for _, x := range tenants {
			switch {
			case slices.Contains(plan.Unload, x.ID):
				require.True(t, x.State == Loaded && x.Busy == 0, "what generates stays")
			case slices.Contains(plan.Hold, x.ID):
				require.True(t, x.State == Loaded && (x.Busy > 0 || x.queued()), "only what works is held")
			}
		}
		for _, id := range plan.MakeWay {
			require.Contains(t, plan.Hold, id, "lines make way only where they do not start again at once")
		}
		require.False(t, len(plan.Hold) > 0 && slices.ContainsFunc(tenants, func(x Tenant) bool {
			return slices.Contains(plan.Unload, x.ID) && x.queued()
		}), "a pool with tasks does not go before those it waits for are done")
	})
}

// LO-503: a pool that would not fit if all others on demand were gone is loaded once all the same, so that the refusal says why.
func TestWhatIsImPossible(t *testing.T) {
	cards := []vram.Room{{Card: -1, Free: 100}, {Card: 0, Free: 4}, {Card: 1, Free: 2}}
	held := []Tenant{{ID: "b", Holds: []vram.Share{{Card: 0, Bytes: 4}}}}
	wants := func(bytes int64, shares ...vram.Share) []Want { return []Want{{Bytes: bytes, Shares: shares}} }
	require.True(t, Possible(cards, held, wants(8)))
	require.False(t, Possible(cards, held, wants(9)), "the host's memory is no card's")
	require.True(t, Possible(cards, held, wants(0, vram.Share{Card: 0, Bytes: 8}, vram.Share{Card: 1, Bytes: 2})))
	require.False(t, Possible(cards, held, wants(0, vram.Share{Card: 0, Bytes: 2}, vram.Share{Card: 1, Bytes: 3})))
	require.False(t, Possible(cards, held, wants(0, vram.Share{Card: 1, Bytes: 3}, vram.Share{Card: 0, Bytes: 2})))
	require.True(t, Possible(cards, held, wants(0, vram.Share{Card: -1, Bytes: 90})))
}

func BenchmarkDecide(b *testing.B) {
	tenants := []Tenant{absent("w", 8).interactive(time.Hour)}
	for i := range 8 {
		tenants = append(tenants, loaded(fmt.Sprint("p", i), i%2, 4, time.Duration(i)*time.Second))
	}
	b.ReportAllocs()
	for b.Loop() {
		Decide(noon, []vram.Room{{Card: 0}, {Card: 1}}, tenants, rules)
	}
}
