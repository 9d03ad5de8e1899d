// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/ci/command"
)

// The dashboards and the alert rules are made of the metrics contract by a module of its own (ADR 042).
const (
	deployPath   = "deploy"
	deployModule = "deploy/gen"
	metricsPath  = "ci/metrics.lint.json"
)

// madeDeploy reports whether a file of deployPath, by its path in there, is made by the module.
func madeDeploy(name string) bool {
	dir := filepath.Dir(name)
	return dir == "grafana" && strings.HasSuffix(name, ".json") || dir == "prometheus/tests" || name == "prometheus/rules.yml"
}

// deployAnew makes them, and removes those of panels and rules that are gone.
func deployAnew(ctx context.Context) error {
	have, err := readTree(deployPath)
	if err != nil {
		return err
	}
	for name := range have {
		if madeDeploy(name) {
			if err := os.Remove(filepath.Join(deployPath, name)); err != nil {
				return fmt.Errorf("removing a dashboard or a rule: %w", err)
			}
		}
	}
	return generateDeploy(ctx, deployPath)
}

func generateDeploy(ctx context.Context, target string) error {
	contract, err := filepath.Abs(metricsPath)
	if err != nil {
		return fmt.Errorf("finding the metrics contract: %w", err)
	}
	if target, err = filepath.Abs(target); err != nil {
		return fmt.Errorf("finding the folder of the dashboards: %w", err)
	}
	return command.Run(ctx, "go", "run", "-C", deployModule, ".", contract, target)
}

// staleDeploy makes them in another folder, and says what differs.
func staleDeploy(ctx context.Context, second string) ([]string, error) {
	again := filepath.Join(second, deployPath)
	if err := generateDeploy(ctx, again); err != nil {
		return nil, err
	}
	want, err := readTree(again)
	if err != nil {
		return nil, err
	}
	have, err := readTree(deployPath)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(have, func(name string, _ []byte) bool { return !madeDeploy(name) })
	return differences(deployPath, have, want), nil
}
