// SPDX-License-Identifier: GPL-3.0-or-later

package soak

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// madeUp is a series of an hour's run: a sample each 12 s, 100,000 tasks.
func madeUp(leak float64, value func(r *rand.Rand, tasks float64) float64) Series {
	s := Series{Name: "things", Unit: "things", Leak: leak}
	r := rand.New(rand.NewPCG(7, 11))
	for i := range 300 {
		tasks := float64(i) * 100_000 / 300
		s.Tasks = append(s.Tasks, tasks)
		s.Values = append(s.Values, value(r, tasks))
	}
	return s
}

// LO-881
func TestALineTellsALeakFromNoise(t *testing.T) {
	const leak = 0.001
	for name, c := range map[string]struct {
		value func(*rand.Rand, float64) float64
		want  Word
	}{
		"nothing moves":                       {func(*rand.Rand, float64) float64 { return 40 }, Flat},
		"noise":                               {func(r *rand.Rand, _ float64) float64 { return 40 + 15*r.NormFloat64() }, Flat},
		"a saw":                               {func(_ *rand.Rand, n float64) float64 { return math.Mod(n, 2500) / 25 }, Flat},
		"falls":                               {func(_ *rand.Rand, n float64) float64 { return 200 - n/1000 }, Flat},
		"warms up within the first tenth":     {func(r *rand.Rand, n float64) float64 { return 900*min(n/9000, 1) + 5*r.NormFloat64() }, Flat},
		"one in a thousand":                   {func(_ *rand.Rand, n float64) float64 { return 40 + math.Floor(n/1000) }, Grows},
		"one in a thousand, below noise":      {func(r *rand.Rand, n float64) float64 { return 40 + math.Floor(n/1000) + 15*r.NormFloat64() }, Grows},
		"one in a thousand, below a saw":      {func(_ *rand.Rand, n float64) float64 { return math.Floor(n/1000) + math.Mod(n, 2500)/25 }, Grows},
		"one with each task":                  {func(r *rand.Rand, n float64) float64 { return n + 15*r.NormFloat64() }, Grows},
		"one with each task from the half on": {func(_ *rand.Rand, n float64) float64 { return max(n-50_000, 0) }, Grows},
		"hardly more than half of a leak":     {func(r *rand.Rand, n float64) float64 { return 0.00055*n + 15*r.NormFloat64() }, Grows},
		"hardly less than half of a leak":     {func(r *rand.Rand, n float64) float64 { return 0.00045*n + 15*r.NormFloat64() }, Flat},
		"a slow wave":                         {func(r *rand.Rand, n float64) float64 { return 40*math.Sin(n/6_000) + r.NormFloat64() }, Unclear},
		"so restless that nothing shows":      {func(r *rand.Rand, _ float64) float64 { return 4000 * r.Float64() }, Unclear},
	} {
		s := madeUp(leak, c.value)
		require.Equal(t, c.want, s.Judge().Word, "%s: %+v", name, s.Judge())
	}
}

// LO-881
func TestFewSamplesTellNothing(t *testing.T) {
	s := madeUp(1, func(*rand.Rand, float64) float64 { return 1 })
	s.Tasks, s.Values = s.Tasks[:fewest], s.Values[:fewest]
	require.Equal(t, Unclear, s.Judge().Word, "the first tenth is not fitted")
	require.Equal(t, Unclear, Series{}.Judge().Word)
	for i := range s.Tasks {
		s.Tasks[i] = 5
	}
	require.Equal(t, Unclear, s.Judge().Word, "no task ended")
}

// LO-881
func TestTheSlopeIsThatOfTheLine(t *testing.T) {
	s := madeUp(1, func(_ *rand.Rand, n float64) float64 { return 7 + n/4 })
	v := s.Judge()
	require.InDelta(t, 0.25, v.Slope, 1e-9)
	require.InDelta(t, 0, v.Error, 1e-6)
	require.InDelta(t, 7+s.Tasks[30]/4, v.From, 1e-6)
	require.Equal(t, 30, v.Begin)
	require.Equal(t, "| things | things | 2507 | 2.492e+04 | 250 | ± 0 | 1000 | flat |", s.String())
}
