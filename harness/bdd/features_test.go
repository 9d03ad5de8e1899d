// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cucumber/godog"
	"github.com/stretchr/testify/require"
)

// Scenarios mostly wait, for a paced stream or a worker's start, so more of them run at a time than there are cores.
const atOnce = 4

var only = flag.String("tags", "", "run only the scenarios with these tags, such as @ORCH-3026")

var features = []string{"../../features"}

// HME-042
func TestFeatures(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	lab, err := newLab(t.TempDir(), root)
	require.NoError(t, err)
	defer func() { require.NoError(t, lab.close()) }()
	suite := godog.TestSuite{
		Name: "llama-orch",
		ScenarioInitializer: func(sc *godog.ScenarioContext) {
			w := newWorld(lab)
			sc.Before(w.begin)
			sc.After(w.end)
			w.steps(func(expr string, fn any) { sc.Step(expr, fn) })
		},
		Options: &godog.Options{
			Format: "progress", Paths: features, Tags: *only, Strict: true, NoColors: true, Concurrency: atOnce,
			TestingT: t, DefaultContext: context.Background(),
		},
	}
	require.Zero(t, suite.Run())
}

// A step definition that no scenario uses is dead code, one that isn't anchored catches what it shouldn't, and a step with
// two definitions means either.
//
// HME-042
func TestStepDefinitionsAreAnchoredUsedAndUnambiguous(t *testing.T) {
	uses := map[*regexp.Regexp]int{}
	newWorld(&lab{}).steps(func(expr string, _ any) {
		require.Regexp(t, `^\^.*\$$`, expr)
		uses[regexp.MustCompile(expr)] = 0
	})
	found, err := godog.TestSuite{Options: &godog.Options{Paths: features}}.RetrieveFeatures()
	require.NoError(t, err)
	require.NotEmpty(t, found)
	for _, feature := range found {
		for _, pickle := range feature.Pickles {
			for _, step := range pickle.Steps {
				definitions := 0
				for expr := range uses {
					if expr.MatchString(step.Text) {
						uses[expr]++
						definitions++
					}
				}
				require.Equal(t, 1, definitions, "definitions of %q in %s", step.Text, feature.Uri)
			}
		}
	}
	for expr, n := range uses {
		require.NotZero(t, n, "no scenario uses the step %s", expr)
	}
}

var specified = regexp.MustCompile(`(?m)^- \*\*([A-Z0-9-]+)\*\* \([^;)]*(?:; also: ([A-Z0-9, -]+))?`)

// Every scenario says which requirement it serves, by an ID that stands in the specs.
//
// HME-042
func TestScenariosNameTheirRequirements(t *testing.T) {
	known := map[string]bool{}
	files, err := filepath.Glob("../../.specs/*.md")
	require.NoError(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		joined := regexp.MustCompile(`\n  +`).ReplaceAllString(string(content), " ")
		for _, m := range specified.FindAllStringSubmatch(joined, -1) {
			known["@"+m[1]] = true
			for alias := range strings.SplitSeq(m[2], ", ") {
				known["@"+strings.TrimSpace(alias)] = true
			}
		}
	}
	require.True(t, known["@ORCH-3026"])
	found, err := godog.TestSuite{Options: &godog.Options{Paths: features}}.RetrieveFeatures()
	require.NoError(t, err)
	for _, feature := range found {
		for _, pickle := range feature.Pickles {
			require.NotEmpty(t, pickle.Tags, "%s: %s", feature.Uri, pickle.Name)
			for _, tag := range pickle.Tags {
				require.True(t, known[tag.Name], "%s: %s: the specs have no %s", feature.Uri, pickle.Name, tag.Name)
			}
		}
	}
}
