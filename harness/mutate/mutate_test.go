// SPDX-License-Identifier: GPL-3.0-or-later

package mutate

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const sampled = "harness/mutate/testdata/sample/sample.go "

func options(t *testing.T, out *bytes.Buffer) Options {
	t.Helper()
	return Options{Env: os.Environ(), Packages: []string{"./testdata/sample"}, Workers: 2, Within: 5 * time.Minute, Out: out, Cache: t.TempDir()}
}

// LO-853: what the tests notice is killed, what they do not has survived, and what they do not even run is told apart.
func TestMutantsAreJudgedByTheTestsThatReachThem(t *testing.T) {
	var out bytes.Buffer
	o := options(t, &out)
	results, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		sampled + "Held: never n < 0":                                                         Killed,
		sampled + "Held: always n < 0":                                                        Killed,
		sampled + "Held: <= for n < 0":                                                        Killed,
		sampled + "Held: one more than 0 in line: if n < 0 {":                                 Killed,
		sampled + `Held: one more than 0 in line: return 0, errors.New("too few")`:            Killed,
		sampled + `Held: return no error, not errors.New("too few")`:                          Killed,
		sampled + "Held: drop n++":                                                            Killed,
		sampled + "Held: only the left of n * 2":                                              Killed,
		sampled + "Slack: >= for n > 10":                                                      Survived,
		sampled + "Slack: one more than 10 in line: func Slack(n int) bool { return n > 10 }": Survived,
		sampled + "Lost: drop list = append(list, 1)":                                         Unreached,
		sampled + "Lost: one more than 1 in line: list = append(list, 1)":                     Unreached,
	}, results[0].Outcomes)
	require.Contains(t, out.String(), "8 of 12 killed (66.7 %)")
	require.Contains(t, out.String(), "survived, line 18: "+sampled+"Slack: >= for n > 10")
	require.ErrorContains(t, Judge(results, Goal), "8 of 12")

	kept, err := os.ReadDir(o.Cache)
	require.NoError(t, err)
	require.Len(t, kept, 1)
	o.Within = time.Nanosecond // there is no time to run a test
	again, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, results, again)
}

// LO-854: the sample is the same each time, and small.
func TestASampleIsTheSameEachTime(t *testing.T) {
	var all []Mutant
	for _, change := range []string{"a", "b", "c", "d"} {
		all = append(all, Mutant{Package: "p", File: "f.go", Func: "F", Change: change})
	}
	first := sample(all, 2)
	require.Len(t, first, 2)
	slices.Reverse(all)
	require.Equal(t, first, sample(all, 2))
	all[0].Line = 99
	require.Equal(t, first, sample(all, 2), "a line that moves is no other mutant")
	require.Len(t, sample(all, 9), 4)
}

// LO-854: too few that are noticed are an error, and so is a run that was cut off.
func TestTooFewKilledIsAnError(t *testing.T) {
	result := func(killed, survived, wanted int) []Result {
		r := Result{Outcomes: map[string]string{}, Wanted: wanted}
		for i := range killed + survived {
			r.Outcomes[string(rune('A'+i))] = map[bool]string{true: Killed, false: Survived}[i < killed]
		}
		return []Result{r}
	}
	require.NoError(t, Judge(result(17, 3, 20), Goal))
	require.ErrorContains(t, Judge(result(16, 4, 20), Goal), "16 of 20")
	require.ErrorContains(t, Judge(result(20, 0, 21), Goal), "20 of 21")

	both := append(result(100, 0, 100), result(16, 4, 20)...)
	both[1].Package = "weak"
	require.NoError(t, Judge(both, Goal))
	require.ErrorContains(t, JudgeEach(both, Goal), "weak: the tests noticed 16 of 20", "one package does not make up for another")
	require.Contains(t, Result{Package: "none"}.String(), "none tried")
}

// LO-855: who is on the list has a reason there.
func TestTheListSaysWhy(t *testing.T) {
	why, err := Equivalents("# a comment\n\np/f.go F: a\n  it cannot\n  be seen\np/f.go F: b\n  nor that\n")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"p/f.go F: a": "it cannot be seen", "p/f.go F: b": "nor that"}, why)
	_, err = Equivalents("p/f.go F: a\np/f.go F: b\n  why\n")
	require.ErrorContains(t, err, "p/f.go F: a")
	own, err := Equivalents(equivalent)
	require.NoError(t, err)
	require.NotContains(t, slices.Collect(maps.Keys(own)), "")
}
