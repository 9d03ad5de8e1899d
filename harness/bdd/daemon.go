// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/tape"
)

// row is one setting of a config file: a name and its value in YAML.
type row struct{ name, value string }

// setup is a configuration that will be written to a file.
type setup struct {
	dir      string
	settings []row
	pools    []string // as YAML
	replicas int      // how many there will be
	env      map[string]string
	args     []string
	selfTest bool // the daemon tests itself at its start
}

func newSetup(dir string) *setup { return &setup{dir: dir, env: map[string]string{}} }

// set replaces or adds settings.
func set(rows []row, more ...row) []row {
	for _, m := range more {
		found := false
		for i := range rows {
			if rows[i].name == m.name {
				rows[i], found = m, true
			}
		}
		if !found {
			rows = append(rows, m)
		}
	}
	return rows
}

// builtin returns a pool of built-in workers with the bundled model.
func (l *lab) builtin(more ...row) []row {
	return set([]row{
		{"model", fmt.Sprintf(`{id: haiku, ref: "file:%s"}`, l.Model)},
		{"device", "cpu"},
		{"ctx", "256"},
		{"sampler_profile", "v1"},
		{"provisioning", "{mode: builtin}"},
	}, more...)
}

// external returns a pool with an engine that is already running.
func external(url string, more ...row) []row {
	return set([]row{
		{"model", `{id: haiku, ref: "label"}`},
		{"sampler_profile", "v1"},
		{"provisioning", fmt.Sprintf(`{mode: external, urls: [%q]}`, url)},
	}, more...)
}

func (s *setup) pool(id string, rows []row) {
	var b strings.Builder
	fmt.Fprintf(&b, "  - id: %s\n", id)
	replicas := 1
	for _, r := range rows {
		fmt.Fprintf(&b, "    %s: %s\n", r.name, r.value)
		switch {
		case r.name == "replicas":
			_, _ = fmt.Sscan(r.value, &replicas) // the daemon says what is wrong with it
		case r.name == "lifecycle" && r.value == "on_demand":
			replicas = 0 // none is ready before a task asks for it
		}
	}
	s.pools = append(s.pools, b.String())
	s.replicas += replicas
}

// yaml returns the text of the config file.
func (s *setup) yaml() string {
	var b strings.Builder
	for _, r := range set([]row{
		{"bind_addr", "127.0.0.1:0"},
		{"data_dir", "data"},
		{"catalog", "{folders: [.]}"},
		{"auth", "{optional_on_loopback: true}"},
		{"log", "{level: debug}"},
		{"policy", `{outbound: "off"}`}, // scenarios only call this machine
		{"sampler_profiles", "{v1: {temperature: 0.8, top_p: 0.95, top_k: 40}}"},
	}, s.settings...) {
		fmt.Fprintf(&b, "%s: %s\n", r.name, r.value)
	}
	return b.String() + "pools:\n" + strings.Join(s.pools, "")
}

// printedPath is the file for the daemon's standard output, which is for people. The log goes to standard error.
func (s *setup) printedPath() string { return filepath.Join(s.dir, "printed") }

func (s *setup) write() (path string, err error) {
	path = filepath.Join(s.dir, "config.yaml")
	if err := os.WriteFile(path, []byte(s.yaml()), 0o600); err != nil {
		return "", fmt.Errorf("write the config file: %w", err)
	}
	return path, nil
}

// server is a running orchestratord.
type server struct {
	*daemon.Daemon

	token  string // sent with every request that does not name another
	client *http.Client
}

// startDaemon starts a daemon and waits until it serves.
func (l *lab) startDaemon(s *setup) (*server, error) {
	path, err := s.write()
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(s.printedPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file for the daemon's standard output: %w", err)
	}
	args := s.args
	if !s.selfTest {
		args = append([]string{"--no-self-test"}, args...)
	}
	d, err := l.Serve(context.Background(), daemon.Options{Config: path, Options: process.Options{Args: args, Env: l.Env(s.dir, s.env), Stdout: out}})
	_ = out.Close() // the daemon has it
	if err != nil {
		return nil, err
	}
	l.logs.watch(d, s.env["LLORCH_API_TOKEN"])
	return &server{
		Daemon: d, token: s.env["LLORCH_API_TOKEN"],
		client: &http.Client{Transport: tape.Transport(&http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 4})},
	}, nil
}

// ready waits until the given number of replicas is ready.
func (d *server) ready(replicas int) error {
	seen := map[any]bool{}
	err := d.logged(fmt.Sprintf("%d ready replicas", replicas), func(line logLine) bool {
		if line["msg"] == "replica is ready" {
			seen[line["replica_id"]] = true
		}
		return len(seen) == replicas
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, d.Tail(20))
	}
	return nil
}

// kill ends the daemon at once. Its workers have to follow.
func (d *server) kill() {
	d.Daemon.Kill()
	d.client.CloseIdleConnections()
}

// logLine is one line of the daemon's log.
type logLine map[string]any

// parseLog reads a line of the log. It returns nil for a text that is no such line.
func parseLog(line string) logLine {
	var l logLine
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	if decoder.Decode(&l) != nil {
		return nil
	}
	return l
}

// logged waits for a line of the log.
func (d *server) logged(what string, find func(logLine) bool) error {
	return d.Said(what, func(line string) bool {
		l := parseLog(line)
		return l != nil && find(l)
	})
}

// log returns all lines so far. Every line has to be a JSON object (ORCH-3027).
func (d *server) log() ([]logLine, error) {
	var all []logLine
	var err error
	for _, line := range d.Lines() {
		if l := parseLog(line); l != nil {
			all = append(all, l)
		} else {
			err = errors.Join(err, fmt.Errorf("a line of the log is no JSON object: %.200s", line))
		}
	}
	return all, err
}
