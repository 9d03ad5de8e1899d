// SPDX-License-Identifier: GPL-3.0-or-later

package gpuprobe

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
)

var library string

func TestMain(m *testing.M) { nvmlstub.Main(m, &library) }

// look looks at the stand-in.
func look(t *testing.T, s *nvmlstub.State) *Report {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gpus")
	t.Setenv(nvmlstub.Env, path)
	require.NoError(t, s.Write(path))
	r, err := Look(t.Context(), Options{LibraryPath: library, Samples: 3, Every: 600 * time.Millisecond})
	require.NoError(t, err)
	return r
}

// wrong are what does not hold.
func (r *Report) wrong() (all []string) {
	for _, c := range r.Checks {
		if !c.OK {
			all = append(all, c.Must)
		}
	}
	return all
}

// LO-884
func TestAMachineIsReadWhole(t *testing.T) {
	s := nvmlstub.Reference()
	s.Cards[0].Util, s.Cards[0].Energy, s.Cards[0].Flow = 71, 5_000_000, 32_000
	s.Cards[0].Processes = []nvmlstub.Process{{PID: 1, Used: 5 << 30}}
	errors := int64(3)
	s.Cards[1].ECC = &errors
	r := look(t, s)
	require.Empty(t, r.wrong())
	require.True(t, r.Plausible)
	require.Equal(t, []string{"570.86.10", "12.8", ""}, []string{r.Driver, r.CUDA, r.Why})
	require.Len(t, r.Samples, 3)
	card := r.Samples[2].Cards[0]
	require.Equal(t, []gpu.Process{{PID: 1, Bytes: 5 << 30}}, card.Processes)
	require.Equal(t, []any{int64(24 << 30), int64(5<<30 + 300<<20), 0.71, 41, 32.0}, []any{card.Total, card.Used, card.Utilization, card.Temperature, card.Power})
	require.GreaterOrEqual(t, len(r.Counters), 3)
	require.Len(t, r.Supports, 2)
	require.Equal(t, "3", r.Supports[1].ECC)
	require.Contains(t, r.Supports[0].ECC, "does not tell")
	require.Contains(t, r.Supports[0].Events, "0x")
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(text), `"plausible":true`)
}

// LO-884
func TestNoCardIsSaid(t *testing.T) {
	r := look(t, &nvmlstub.State{})
	require.False(t, r.Plausible)
	require.Contains(t, r.Why, "NVIDIA driver")
}

// What a driver tells is changed in one place at a time: each is noticed, and by its own check.
//
// LO-884
func TestWhatCannotBeIsNoticed(t *testing.T) {
	whole := func() []gpu.Inventory {
		card := gpu.Card{
			UUID: "GPU-3090aaaa-0000-4000-8000-000000000000", Name: "a card", Total: 24 << 30, Free: 20 << 30, Used: 4 << 30, Utilization: 0.5, Temperature: 40, Power: 100, Healthy: true,
			Processes: []gpu.Process{{PID: 7, Bytes: 1 << 30}},
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		var all []gpu.Inventory
		for n := range uint64(2) {
			all = append(all, gpu.Inventory{Seq: n + 1, At: at.Add(time.Duration(n) * time.Second), Driver: "570.86.10", CUDA: "12.8", Cards: []gpu.Card{card}})
		}
		return all
	}
	counters := func(from, to float64) [][]gpu.Counter {
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		one := gpu.Counter{UUID: whole()[0].Cards[0].UUID, At: at, Joules: from}
		two := one
		two.At, two.Joules = at.Add(10*time.Second), to
		return [][]gpu.Counter{{one}, {two}}
	}
	right := counters(5000, 6000)
	all, ok := check(whole(), right)
	require.True(t, ok, "%+v", all)
	require.Contains(t, all, Check{"card 0", "its counter rises as its power says, within a factor of three", "100.0 W by the counter, 100.0 W as it says", true})

	for must, c := range map[string]struct {
		change   func(s []gpu.Inventory)
		counters [][]gpu.Counter
	}{
		"it can be used":                    {change: func(s []gpu.Inventory) { s[1].Err = "no driver" }},
		"a version in numbers":              {change: func(s []gpu.Inventory) { s[1].Driver = "" }},
		"a version of CUDA in numbers":      {change: func(s []gpu.Inventory) { s[1].CUDA = "12" }},
		"at least one":                      {change: func(s []gpu.Inventory) { s[0].Cards, s[1].Cards = nil, nil }},
		"each is newer than the one before": {change: func(s []gpu.Inventory) { s[1].Seq = 1 }},
		"the index is its place":            {change: func(s []gpu.Inventory) { s[1].Cards[0].Index = 1 }},
		"a UUID as NVIDIA writes them, that no other card has": {change: func(s []gpu.Inventory) {
			s[0].Cards[0].UUID, s[1].Cards[0].UUID = "GPU-1", "GPU-1"
		}},
		"a name":                           {change: func(s []gpu.Inventory) { s[1].Cards[0].Name = " " }},
		"healthy, and without a problem":   {change: func(s []gpu.Inventory) { s[1].Cards[0].Healthy = false }},
		"the same card as in the last one": {change: func(s []gpu.Inventory) { s[0].Cards[0].UUID = "GPU-4090aaaa-0000-4000-8000-000000000000" }},
		"memory of 256 MiB to 1 TiB": {change: func(s []gpu.Inventory) {
			c := &s[0].Cards[0]
			c.Total, c.Free, c.Used = 100, 100, 0
			c.Processes = nil
			s[1].Cards[0] = *c
		}},
		"free and used memory are the total, but for a tenth":           {change: func(s []gpu.Inventory) { s[0].Cards[0].Free = 10 << 30 }},
		"a process has a number, and no more memory than the card":      {change: func(s []gpu.Inventory) { s[0].Cards[0].Processes[0].PID = 0; s[1].Cards[0].Processes = nil }},
		"processes hold no more than is used":                           {change: func(s []gpu.Inventory) { s[0].Cards[0].Processes = []gpu.Process{{PID: 7, Bytes: 5 << 30}} }},
		"utilisation of 0 to 1":                                         {change: func(s []gpu.Inventory) { s[0].Cards[0].Utilization = 50 }},
		"a temperature up to 120 °C, 0 where it does not tell":          {change: func(s []gpu.Inventory) { s[0].Cards[0].Temperature = 314 }},
		"power up to 3000 W, 0 where it does not tell":                  {change: func(s []gpu.Inventory) { s[0].Cards[0].Power, s[1].Cards[0].Power = 100_000, 100_000 }, counters: [][]gpu.Counter{}},
		"its counter of energy never goes back":                         {counters: append(counters(5000, 6000), counters(5999, 7000)...)},
		"its counter rises as its power says, within a factor of three": {counters: counters(5000, 5000+1_000_000)},
	} {
		s := whole()
		if c.change != nil {
			c.change(s)
		}
		if c.counters == nil {
			c.counters = right
		}
		all, ok := check(s, c.counters)
		require.False(t, ok, must)
		require.Contains(t, (&Report{Checks: all}).wrong(), must)
	}
}
