// SPDX-License-Identifier: GPL-3.0-or-later

package dashboards

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/metrics"
)

const root = "../../.."

// run runs a program in a folder of the repository.
func run(t *testing.T, in, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = root
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// rules are those of deploy/prometheus/rules.yml.
func rules(t *testing.T) (all []rule) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/rules.yml"))
	require.NoError(t, err)
	var file struct {
		Groups []struct{ Rules []rule }
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

type rule struct {
	Alert, Expr string
	Labels      map[string]string
	Annotations map[string]string
}

// LO-602, LO-615: each rule is silent before its trouble, fires during it with a sentence that explains it, and clears.
func TestEveryRuleFiresAndClears(t *testing.T) {
	promtool, err := metrics.FindPromtool()
	require.NoError(t, err)
	run(t, "", promtool, "check", "rules", "deploy/prometheus/rules.yml")
	args := []string{"test", "rules"}
	for _, r := range rules(t) {
		path := "deploy/prometheus/tests/" + r.Alert + ".yml"
		text, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err, "rule %s has no test", r.Alert)
		require.Equal(t, 3, strings.Count(string(text), "alertname: "+r.Alert+"\n"), path)
		require.Equal(t, 2, strings.Count(string(text), "exp_alerts: []"), "%s: before and after the trouble", path)
		args = append(args, path)
	}
	require.Greater(t, len(args), 12)
	run(t, "", promtool, args...)
}

// LO-615: whoever is alarmed finds a page that says what to do.
func TestEveryRuleLeadsToItsRunbook(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, ".docs/runbooks.md"))
	require.NoError(t, err)
	anchors, linked := map[string]bool{}, map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(string(text), -1) {
		anchors[strings.ToLower(strings.NewReplacer(" ", "-", ",", "", "'", "", "`", "").Replace(h[1]))] = true
	}
	for _, r := range rules(t) {
		file, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#")
		require.Equal(t, ".docs/runbooks.md", file, r.Alert)
		require.True(t, anchors[anchor], "%s has no section #%s", file, anchor)
		require.Contains(t, string(text), "`"+r.Alert+"`")
		linked[anchor] = true
		for _, name := range []string{"summary", "description"} {
			require.NotEmpty(t, r.Annotations[name], r.Alert)
		}
		require.Contains(t, []string{"critical", "warning"}, r.Labels["severity"], r.Alert)
	}
	require.Equal(t, linked, anchors, "each section is some rule's")
}

// LO-602: what is written names only series, labels and values of the metrics contract.
func TestAQueryOfWhatIsNotThereIsRefused(t *testing.T) {
	bad := []struct{ query, says string }{
		{`sum(rate(queue_depth[5m])`, "unclosed left parenthesis"},
		{`llorch_streams_opened`, "llorch_streams_opened is not in the metrics contract"},
		{`llorch_streams_open{pool_id="a"}`, "llorch_streams_open has no label pool_id"},
		{`llorch_failovers_total{outcome="lost"}`, `llorch_failovers_total never has outcome="lost"`},
		{`llorch_failovers_total{outcome=~"resumed|lost"}`, `llorch_failovers_total never has outcome="lost"`},
		{`sum by (replica_id) (queue_depth)`, "no series has the label replica_id"},
		{`sum by (pool_id) (sum by (engine) (queue_depth))`, "no series has the label pool_id"},
		{`queue_depth * on (device) group_left (model_id) llorch_pool_info`, "no series has the label device"},
		{`latency_first_token_ms`, "latency_first_token_ms is a histogram"},
		{`rate(queue_depth_bucket[5m])`, "queue_depth_bucket is not in the metrics contract"},
	}
	good := []string{
		`histogram_quantile(0.9, sum by (le, pool_id) (rate(latency_first_token_ms_bucket{pool_id=~"$pool"}[$__rate_interval])))`,
		`sum by (model_id) (rate(tokens_out_total[5m]) * on (instance, pool_id) group_left (model_id) llorch_pool_info)`,
	}
	var in strings.Builder
	for _, b := range bad {
		in.WriteString(b.query + "\n")
	}
	in.WriteString(strings.Join(good, "\n") + "\n")
	contract, err := filepath.Abs(filepath.Join(root, metrics.LintPath))
	require.NoError(t, err)
	said := strings.Split(run(t, in.String(), "go", "run", "-C", "deploy/gen", ".", contract), "\n")
	require.Len(t, said, len(bad)+len(good)+1)
	for i, b := range bad {
		require.Contains(t, said[i], b.says)
	}
	require.Equal(t, []string{"", "", ""}, said[len(bad):])
}

// LO-614: the folders of provisioning, and nothing else, make Grafana show them.
func TestDashboardsAreWhole(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "deploy/grafana/*.json"))
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var d struct {
			UID, Title, Description string
			Panels                  []struct {
				Type, Title string
				Datasource  struct{ UID string }
				Targets     []struct{ Expr string }
				GridPos     struct{ X, W int }
			}
		}
		require.NoError(t, json.Unmarshal(text, &d))
		require.False(t, seen[d.UID], d.UID)
		seen[d.UID] = true
		require.NotEmpty(t, d.Description)
		for _, p := range d.Panels {
			require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
			if p.Type == "row" {
				continue
			}
			require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
			require.NotEmpty(t, p.Targets, p.Title)
			require.NotEmpty(t, p.Title)
		}
	}
	require.Len(t, seen, 5)
	for _, path := range []string{"deploy/grafana/provisioning/datasources/llama-orch.yml", "deploy/grafana/provisioning/dashboards/llama-orch.yml"} {
		text, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		var file map[string]any
		require.NoError(t, yaml.Unmarshal(text, &file), path)
		require.EqualValues(t, 1, file["apiVersion"], path)
	}
	promtool, err := metrics.FindPromtool()
	require.NoError(t, err)
	run(t, "", promtool, "check", "config", "deploy/prometheus/prometheus.yml")
}
