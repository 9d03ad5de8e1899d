// SPDX-License-Identifier: GPL-3.0-or-later

package live

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/metrics"
)

// withClients adds what the series of clients and of waits say of the same tasks. All of them are submitted from this machine.
func withClients(moves []metrics.Move) []metrics.Move {
	same := map[string]string{
		"llorch_prediction_error_ms": `llorch_queue_wait_ms`, "tokens_in_total": `llorch_client_tokens_total{client="localhost",direction="in"}`,
		"tokens_out_total": `llorch_client_tokens_total{client="localhost",direction="out"}`,
	}
	for _, m := range moves {
		name, labels, _ := strings.Cut(m.Series, "{")
		other := same[name]
		if name == "llorch_tasks_finished_total" {
			other = `llorch_client_tasks_total{client="localhost",` + outcome.FindString(labels) + `}`
		}
		if other != "" {
			moves = append(moves, metrics.Move{Series: other, Kind: m.Kind, Figure: m.Figure})
		}
	}
	return moves
}

var outcome = regexp.MustCompile(`outcome="[a-z]+"`)

// server is a Prometheus that scrapes the bench's daemon, as deploy/prometheus says, but more often.
type server struct{ url string }

// scrapes starts it. It ends with the test, or with the test's thread.
func scrapes(t *testing.T, b *bench) server {
	t.Helper()
	program, err := metrics.FindPrometheus()
	require.NoError(t, err)
	dir := t.TempDir()
	config, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "prometheus.yml"))
	require.NoError(t, err)
	host := strings.TrimPrefix(b.daemon.URL, "http://")
	for from, to := range map[string]string{"127.0.0.1:8080": host, "_interval: 15s": "_interval: 1s"} {
		require.Contains(t, string(config), from)
		config = []byte(strings.ReplaceAll(string(config), from, to))
	}
	rules, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules.yml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), config, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules.yml"), rules, 0o600))

	cmd := exec.CommandContext(t.Context(), program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0", "--log.level=info")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	at, read := make(chan string, 1), make(chan struct{})
	var said []string // until read is closed it belongs to the goroutine that reads
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			said = append(said, lines.Text())
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case at <- m[1]:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
		http.DefaultClient.CloseIdleConnections()
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", strings.Join(said, "\n"))
		}
	})
	select {
	case address := <-at:
		return server{"http://" + address}
	case <-read:
		require.Fail(t, "Prometheus ended")
	case <-bounded(t).Done():
		require.Fail(t, "Prometheus does not listen")
	}
	return server{}
}

var listening = regexp.MustCompile(`msg="Listening on".*address=([0-9.:]+)`)

// get reads an answer of Prometheus's API.
func (s server) get(t *testing.T, path string, data any) {
	t.Helper()
	r, err := http.NewRequestWithContext(bounded(t), http.MethodGet, s.url+path, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&answer))
	require.Equal(t, "success", answer.Status, "%s: %s", path, answer.Error)
}

// board is as much of a dashboard as has queries.
type board struct {
	Title  string
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// filled is what Grafana puts in the place of variables, for a test that is minutes long.
var filled = strings.NewReplacer("$__rate_interval", "10m", "$__range", "10m", "$pool", ".*")

// answersEveryPanel asks what the panels ask, until each query has had an answer with a number in it.
func (s server) answersEveryPanel(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 5)
	asked := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var b board
		require.NoError(t, json.Unmarshal(text, &b))
		for _, p := range b.Panels {
			for _, target := range p.Targets {
				asked++
				eventually(t, func() []string {
					if s.numbers(t, filled.Replace(target.Expr)) == 0 {
						return []string{fmt.Sprintf("%s, %s: no data for %s", b.Title, p.Title, target.Expr)}
					}
					return nil
				})
			}
		}
	}
	require.Greater(t, asked, 70)
}

// numbers is how many series of an answer have a number.
func (s server) numbers(t *testing.T, query string) (n int) {
	var got struct {
		Result []struct{ Value [2]any }
	}
	s.get(t, "/api/v1/query?query="+url.QueryEscape(query), &got)
	for _, r := range got.Result {
		text, ok := r.Value[1].(string)
		require.True(t, ok, "%v", r.Value)
		value, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			n++
		}
	}
	return n
}

// evaluatesEveryRule has Prometheus say of each rule that it can be evaluated on the daemon's own series.
func (s server) evaluatesEveryRule(t *testing.T) {
	var got struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	s.get(t, "/api/v1/rules", &got)
	require.Len(t, got.Groups, 1)
	require.Greater(t, len(got.Groups[0].Rules), 10)
	for _, r := range got.Groups[0].Rules {
		require.Equal(t, "ok", r.Health, "%s: %s", r.Name, r.LastError)
	}
}
