// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/trace"
)

// Trace keeps the table of which test serves which requirement (TRACE-12).
type Trace mg.Namespace

// traceTags are the build tags whose tests a step of `test` runs. Tests behind any other prove nothing there.
var traceTags = []string{"pact"}

// Requirements reads the specs, the tests that serve them, and what is admitted to be open.
func Requirements() (*trace.Trace, error) {
	return trace.Read(trace.Options{Root: ".", Tags: traceTags})
}

// Write gives new refinements their IDs, regenerates the catalogue of tests and the stage table, and says which requirements are not done any more.
func (Trace) Write(context.Context) error {
	if err := trace.NumberSpecs("."); err != nil {
		return err
	}
	t, err := Requirements()
	if err != nil {
		return err
	}
	lost, err := t.Write(".")
	if err != nil {
		return err
	}
	fmt.Print(t.StageTable())
	if len(lost) > 0 {
		fmt.Printf("\nnot done any more; commit this only if it is meant:\n  %s\n", strings.Join(lost, "\n  "))
	}
	return findings(t.Findings())
}

// Check holds the committed catalogue against specs and tests. It runs no test; `test` and `dev:loop` also ask whether those
// named in it have passed.
func (Trace) Check(ctx context.Context) error { return checkTrace(ctx, nil) }

// checkTrace belongs behind every step that runs tests: it asks the tally, if there is one, whether they passed.
func checkTrace(_ context.Context, ran *tally.Tally) error {
	t, err := Requirements()
	if err != nil {
		return err
	}
	wrong, err := t.Check(".")
	if err != nil {
		return err
	}
	if ran != nil {
		wrong = append(wrong, t.Unproven(func(pkg, run string) (o trace.Outcome) {
			o.Passed, o.Failed, o.Skipped = ran.Outcome(pkg, run)
			return o
		})...)
	}
	return findings(wrong)
}

func findings(wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(append([]string{"found:"}, wrong...), "\n  "))
}
