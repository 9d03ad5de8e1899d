// SPDX-License-Identifier: GPL-3.0-or-later

package metrics_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/metrics"
	"github.com/llama-orch/llama-orch/harness/trace"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
)

const root = "../.."

func contract(t *testing.T) metrics.Contract {
	t.Helper()
	c, err := metrics.ReadLint(filepath.Join(root, metrics.LintPath))
	require.NoError(t, err)
	return c
}

// ORCH-3028, OC-METRICS-7101: the contract is written once, and its copy in JSON says the same.
func TestSpecAndLintAgree(t *testing.T) {
	spec, err := metrics.ReadSpec(filepath.Join(root, metrics.SpecPath))
	require.NoError(t, err)
	require.Empty(t, metrics.Differences(spec, contract(t).Series))
	require.Len(t, spec, 71)
}

// ORCH-3028, ORCH-3053: the reasons of a restart are those that the pools tell apart.
func TestTheReasonsOfARestartAreThePools(t *testing.T) {
	series := contract(t).Series
	at := slices.IndexFunc(series, func(s metrics.Series) bool { return s.Name == "llorch_worker_restarts_total" })
	require.ElementsMatch(t, pool.Reasons(), series[at].Values["reason"])
}

// ORCH-3028: a difference in any field is named.
func TestADifferenceFails(t *testing.T) {
	series := contract(t).Series
	at := slices.IndexFunc(series, func(s metrics.Series) bool { return s.Name == "latency_decode_ms" })
	for name, c := range map[string]struct {
		change func(*metrics.Series)
		says   string
	}{
		"name":    {func(s *metrics.Series) { s.Name = "latency_decode_s" }, "latency_decode_ms is in the spec only"},
		"type":    {func(s *metrics.Series) { s.Type = "counter" }, "latency_decode_ms: type is histogram in the spec and counter in the lint"},
		"labels":  {func(s *metrics.Series) { s.Labels = s.Labels[1:] }, "latency_decode_ms: labels"},
		"buckets": {func(s *metrics.Series) { s.Buckets = s.Buckets[1:] }, "latency_decode_ms: buckets"},
		"values":  {func(s *metrics.Series) { s.Values = map[string][]string{"priority": {"interactive"}} }, "latency_decode_ms: values"},
		"budget":  {func(s *metrics.Series) { s.Most++ }, "latency_decode_ms: max_series is 64 in the spec and 65 in the lint"},
		"stage":   {func(s *metrics.Series) { s.Stage = 7 }, "latency_decode_ms: stage"},
		"wait":    {func(s *metrics.Series) { s.WaitsFor = "LO-203" }, "latency_decode_ms: waits_for"},
		"moves":   {func(s *metrics.Series) { s.Moves = "never" }, "latency_decode_ms: moves"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := slices.Clone(series)
			c.change(&changed[at])
			require.Contains(t, strings.Join(metrics.Differences(series, changed), "\n"), c.says)
		})
	}
	require.Equal(t, []string{"queue_depth is in the lint only"}, metrics.Differences(series[1:], series))
	require.Equal(t, []string{"queue_depth is in the lint twice"}, metrics.Differences(series, append(slices.Clone(series), series[0])))
}

// ORCH-3028: a series that waits for a requirement says so only while that is open.
func TestWhatSeriesWaitForIsOpen(t *testing.T) {
	tr, err := trace.Read(trace.Options{Root: root})
	require.NoError(t, err)
	open := func(id string) bool {
		return slices.ContainsFunc(tr.Lines, func(l trace.Line) bool { return l.ID == id && l.Open != "" })
	}
	require.Empty(t, contract(t).StaleWaits(open))
	waiting := metrics.Contract{Series: []metrics.Series{{Name: "jobs_total", WaitsFor: "ORCH-3022"}}}
	require.Empty(t, waiting.StaleWaits(func(string) bool { return true }))
	require.Equal(t, []string{"jobs_total waits for ORCH-3022, which is not an open requirement"}, waiting.StaleWaits(func(string) bool { return false }))
}

// small is a contract for the tests of the gate itself.
var small = metrics.Contract{
	Ignored: []string{"go_"}, Remarks: []string{"known remark"},
	Series: []metrics.Series{
		{Name: "jobs_total", Type: "counter", Labels: []string{"pool_id", "reason"}, Values: map[string][]string{"reason": {"a", "b"}}, Most: 2},
		{Name: "wait_ms", Type: "histogram", Buckets: []float64{1, 2}, Most: 1},
		{Name: "own_open", Type: "gauge", Most: 1},
		{Name: "later", Type: "gauge", Most: 1, WaitsFor: "LO-1"},
	},
}

const fine = `# HELP go_x x
# TYPE go_x gauge
go_x{anything="y"} 1
# HELP jobs_total Jobs.
# TYPE jobs_total counter
jobs_total{pool_id="p",reason="a"} 1
# HELP wait_ms Waits.
# TYPE wait_ms histogram
wait_ms_bucket{le="1"} 1
wait_ms_bucket{le="2"} 2
wait_ms_bucket{le="+Inf"} 2
wait_ms_sum 3
wait_ms_count 2
# HELP own_open Open.
# TYPE own_open gauge
own_open 1
`

func scrape(t *testing.T, text string) metrics.Scrape {
	t.Helper()
	s, err := metrics.Parse([]byte(text))
	require.NoError(t, err)
	return s
}

// ORCH-3028, OC-METRICS-7102
func TestTheGateFindsWhatBreaksTheContract(t *testing.T) {
	configured := map[string][]string{"pool_id": {"p", "q", ""}}
	require.Empty(t, small.Lint(scrape(t, fine), configured))
	require.Empty(t, small.Missing(scrape(t, fine)))
	for name, c := range map[string]struct{ from, to, says string }{
		"another label":     {`pool_id="p",reason="a"`, `pool="p",reason="a"`, "jobs_total has the labels [pool reason] and should have [pool_id reason]"},
		"a label more":      {`reason="a"`, `reason="a",task_id="7"`, "jobs_total has the labels [pool_id reason task_id]"},
		"a value":           {`reason="a"`, `reason="c"`, `jobs_total has reason="c", which is not one of a, b`},
		"an id as value":    {`pool_id="p"`, `pool_id="3f8a1c9e"`, `jobs_total has pool_id="3f8a1c9e", which is not one of p, q`},
		"a type":            {"own_open gauge", "own_open counter", "own_open is a counter and should be a gauge"},
		"a bucket":          {`le="2"`, `le="3"`, "wait_ms has the buckets [1 3] and should have [1 2]"},
		"a bucket less":     {"wait_ms_bucket{le=\"2\"} 2\n", "", "wait_ms has the buckets [1] and should have [1 2]"},
		"no help":           {"# HELP own_open Open.\n", "", "own_open has no help text"},
		"over budget":       {"jobs_total{", "jobs_total{pool_id=\"p\",reason=\"b\"} 1\njobs_total{pool_id=\"q\",reason=\"b\"} 1\njobs_total{", "jobs_total has 3 combinations of labels, over its budget of 2"},
		"an unknown series": {"own_open", "own_shut", "own_shut is not in the contract"},
		"one that waits":    {"own_open", "later", "later is there, and the contract says that it waits for LO-1"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, fine, c.from)
			found := small.Lint(scrape(t, strings.ReplaceAll(fine, c.from, c.to)), configured)
			require.Contains(t, strings.Join(found, "\n"), c.says)
		})
	}
	require.Equal(t, []string{"own_open never showed up"}, small.Missing(scrape(t, strings.ReplaceAll(fine, "own_open", "own_shut"))))
	_, err := metrics.Parse([]byte("jobs_total{pool_id=} 1\n"))
	require.Error(t, err)
}

// ORCH-3028
func TestTheGateFindsWhatDidNotMove(t *testing.T) {
	after := strings.NewReplacer(`reason="a"} 1`, `reason="a"} 3`, "wait_ms_count 2", "wait_ms_count 3", "own_open 1", "own_open 0").Replace(fine)
	before, now := scrape(t, fine), scrape(t, after)
	jobs := metrics.Move{Series: `jobs_total{reason="a"}`, Figure: 2}
	waits := metrics.Move{Series: "wait_ms", Figure: 1}
	require.Empty(t, small.Unmoved(before, now, []metrics.Move{jobs, waits, {Series: "own_open", Kind: metrics.Is}}, nil))
	require.Empty(t, small.Unmoved(before, now, []metrics.Move{waits}, []metrics.Move{{Series: `jobs_total{pool_id="p"}`}}))
	require.Empty(t, small.Unmoved(scrape(t, ""), now, []metrics.Move{{Series: "jobs_total", Figure: 3}, {Series: "wait_ms", Kind: metrics.AtLeast, Figure: 2}}, nil))

	for says, moves := range map[string][]metrics.Move{
		`jobs_total{pool_id="p",reason="a"} moved by 2, and nothing should have moved it`: {waits},
		`wait_ms{} moved by 1, and nothing should have moved it`:                          {jobs},
		`wait_ms moved by 1, and should by 2`:                                             {jobs, {Series: "wait_ms", Figure: 2}},
		`wait_ms moved by 1, and should by 2 or more`:                                     {jobs, {Series: "wait_ms", Kind: metrics.AtLeast, Figure: 2}},
		`own_open is 0, and should be 1`:                                                  {jobs, waits, {Series: "own_open", Kind: metrics.Is, Figure: 1}},
		`jobs_total{reason="b"} is not there`:                                             {jobs, waits, {Series: `jobs_total{reason="b"}`, Figure: 0}},
	} {
		require.Equal(t, []string{says}, small.Unmoved(before, now, moves, nil))
	}
}

// ORCH-3028: known remarks are taken, others are not, and one that isn't made any more doesn't stay.
func TestPromtoolsRemarks(t *testing.T) {
	dir := t.TempDir()
	stub := func(script string) string {
		path := filepath.Join(dir, "promtool")
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\ncat >/dev/null\n"+script), 0o700))
		return path
	}
	wrong, err := small.Promtool(t.Context(), stub("echo known remark >&2; exit 3"), nil)
	require.NoError(t, err)
	require.Empty(t, wrong)
	wrong, err = small.Promtool(t.Context(), stub("echo known remark; echo known remark, and more; exit 3"), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"promtool: known remark, and more"}, wrong)
	wrong, err = small.Promtool(t.Context(), stub("exit 0"), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"promtool does not remark any more: known remark; take it off " + metrics.LintPath}, wrong)
	_, err = small.Promtool(t.Context(), stub("echo cannot read it >&2; exit 1"), nil)
	require.ErrorContains(t, err, "cannot read it")
}

// ORCH-3028: without promtool the lint says how to get it, and does not pass.
func TestAMissingPromtoolIsAFailure(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err := metrics.FindPromtool()
	require.ErrorIs(t, err, metrics.ErrNoPrometheus)
	require.ErrorContains(t, metrics.FetchPrometheus(t.Context(), func(string) {}), "apt-get install")
}
