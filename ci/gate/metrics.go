// SPDX-License-Identifier: GPL-3.0-or-later

//go:build mage

package main

import (
	"context"
	"fmt"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/metrics"
)

// Metrics looks after the metrics contract.
type Metrics mg.Namespace

// Lint holds ci/metrics.lint.json against the spec, and the /metrics of a real daemon under a small load against both
// (ORCH-3028). It needs promtool, and fetches it where there is apt-get.
func (Metrics) Lint(ctx context.Context) error {
	return prepared(ctx, metricsLint)
}

// checkMetrics never takes a cached result: the test runs the daemon's program, which Go's test cache cannot see.
func checkMetrics(ctx context.Context, t *tally.Tally) error {
	if err := metrics.FetchPromtool(ctx, func(message string) { fmt.Println(message) }); err != nil {
		return err
	}
	return goTest(ctx, t, "-count=1", "./harness/metrics/...")
}
