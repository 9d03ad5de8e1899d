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

	"github.com/llama-orch/llama-orch/service/task"
)

// Scenarios mostly wait, for a paced stream or for a worker's start. So more of them run at a time than there are cores.
const atOnce = 6

var only = flag.String("tags", "", "run only the scenarios with these tags, such as @ORCH-3026")

var features = []string{"../../features"}

// All scenarios, and then all lines that their daemons logged.
//
// HME-042, ORCH-3027, ORCH-3300, AUTH-1007
func TestFeatures(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	lab, err := newLab(t.Context(), t.TempDir(), root)
	require.NoError(t, err)
	closed := false
	defer func() {
		if !closed {
			require.NoError(t, lab.close())
		}
	}()
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
	closed = true
	require.NoError(t, lab.close())
	lines, err := lab.logs.check()
	require.NoError(t, err)
	kinds := map[string]int{}
	for _, kind := range lab.logs.canaries {
		kinds[kind]++
	}
	t.Logf("%d lines of the logs of %d daemons are as promised, and hold none of these: %v", lines, len(lab.logs.daemons), kinds)
	if *only == "" {
		require.Len(t, kinds, 3, "tokens, prompts, generated text")
	}
}

// A step definition that no scenario uses is dead code. One that is not anchored matches what it should not. A step with two definitions may mean
// either.
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

// unreachable lists the codes of the contract that no scenario can bring about yet, with the reason.
var unreachable = map[task.Code]string{
	task.NotImplemented:   "every operation of the contract is served",
	task.Internal:         "bad input must not bring it about, and a defect that does is mended",
	task.ReplicaExhausted: "the scheduler waits for a slot itself; between it and the pools the code is an inner one",
}

var asserted = regexp.MustCompile(`(?:(?:answer is|refused with) \d+|error) ([A-Z_]{4,})`)

// A scenario asserts every code that can occur, and no code is excused that a scenario asserts.
//
// HME-042, OC-CTRL-2030
func TestEveryErrorCodeIsAsserted(t *testing.T) {
	found, err := godog.TestSuite{Options: &godog.Options{Paths: features}}.RetrieveFeatures()
	require.NoError(t, err)
	seen := map[task.Code]bool{}
	for _, feature := range found {
		for _, pickle := range feature.Pickles {
			for _, step := range pickle.Steps {
				if m := asserted.FindStringSubmatch(step.Text); m != nil {
					seen[task.Code(m[1])] = true
				}
			}
		}
	}
	for _, code := range task.Codes() {
		if why, excused := unreachable[code]; excused {
			require.False(t, seen[code], "%s is asserted, and excused: %s", code, why)
		} else {
			require.True(t, seen[code], "no scenario asserts %s", code)
		}
	}
}

// Scenarios on the shared daemon run in any order, beside one another or alone. A session or a task of one is not another's.
//
// LO-851
func TestScenariosOnTheSharedDaemonShareNoName(t *testing.T) {
	found, err := godog.TestSuite{Options: &godog.Options{Paths: features}}.RetrieveFeatures()
	require.NoError(t, err)
	named, owner := 0, map[string]string{}
	for _, feature := range found {
		for _, pickle := range feature.Pickles {
			shared, text := false, strings.Builder{}
			for _, step := range pickle.Steps {
				shared = shared || step.Text == "the shared daemon"
				text.WriteString(step.Text + "\n")
				if step.Argument == nil {
					continue
				}
				if doc := step.Argument.DocString; doc != nil {
					text.WriteString(doc.Content + "\n")
				}
				if table := step.Argument.DataTable; table != nil {
					for _, row := range table.Rows {
						for _, cell := range row.Cells {
							text.WriteString(cell.Value + " ")
						}
						text.WriteString("\n")
					}
				}
			}
			for _, m := range ownName.FindAllStringSubmatch(text.String(), -1) {
				if !shared {
					break
				}
				named++
				at := feature.Uri + ": " + pickle.Name
				if first, taken := owner[m[1]]; taken {
					require.Equal(t, first, at, "both name %s on the shared daemon", m[1])
				}
				owner[m[1]] = at
			}
		}
	}
	require.NotZero(t, named)
}

// ownName is what a client may choose itself, and the daemon keeps: the id of a session or of a task.
var ownName = regexp.MustCompile(`"?\b(?:session_id|task_id)"?:?\s+"?([0-9A-Za-z][0-9A-Za-z_-]{3,})`)

var refined = regexp.MustCompile(`(?m)^  - \*\*([A-Z0-9-]+\.[0-9]+)\*\* `)

var specified = regexp.MustCompile(`(?m)^- \*\*([A-Z0-9-]+)\*\* \([^;)]*(?:; also: ([A-Z0-9, -]+))?`)

// Every scenario names the requirement that it serves by an ID from the specs.
//
// HME-042
func TestScenariosNameTheirRequirements(t *testing.T) {
	known := map[string]bool{}
	files, err := filepath.Glob("../../.specs/*.md")
	require.NoError(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range refined.FindAllStringSubmatch(string(content), -1) {
			known["@"+m[1]] = true
		}
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
