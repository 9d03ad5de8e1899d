// SPDX-License-Identifier: GPL-3.0-or-later

package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/harness/debian"
)

// ErrNoPrometheus says how to get Prometheus's programs.
var ErrNoPrometheus = errors.New("promtool or prometheus is missing: `go tool mage metrics:lint` fetches them where there is apt-get; " +
	"elsewhere install it (Debian: apt-get install --no-install-recommends prometheus; Arch: pacman -S prometheus)")

// The programs of Prometheus that the suite runs.
const (
	promtool   = "promtool"
	prometheus = "prometheus"
)

var programs = debian.Package{Name: "prometheus", Programs: []string{"usr/bin/" + promtool, "usr/bin/" + prometheus}, Missing: ErrNoPrometheus}

// FindPromtool returns the installed promtool, or otherwise the fetched one.
func FindPromtool() (string, error) { return programs.Find(promtool) }

// FindPrometheus returns the installed Prometheus, or otherwise the fetched one.
func FindPrometheus() (string, error) { return programs.Find(prometheus) }

// FetchPrometheus takes the programs out of Debian's package, if one is missing.
func FetchPrometheus(ctx context.Context, progress func(string)) error {
	return programs.Fetch(ctx, progress)
}

// Promtool has `promtool check metrics` read an exposition. It returns remarks that the contract does not know, and known remarks that promtool did not
// make.
func (c Contract) Promtool(ctx context.Context, program string, exposition []byte) ([]string, error) {
	const remarked = 3 // the exit code of promtool with remarks
	cmd := exec.CommandContext(ctx, program, "check", "metrics")
	cmd.Stdin = bytes.NewReader(exposition)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != remarked) {
		return nil, fmt.Errorf("promtool check metrics: %w\n%s", err, bytes.TrimSpace(append(stdout.Bytes(), stderr.Bytes()...)))
	}
	return c.remarks(stdout.String() + stderr.String()), nil
}

func (c Contract) remarks(output string) []string {
	var wrong, made []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case slices.Contains(c.Remarks, line):
			made = append(made, line)
		default:
			wrong = append(wrong, "promtool: "+line)
		}
	}
	for _, known := range c.Remarks {
		if !slices.Contains(made, known) {
			wrong = append(wrong, "promtool does not remark any more: "+known+"; take it off "+LintPath)
		}
	}
	return wrong
}
