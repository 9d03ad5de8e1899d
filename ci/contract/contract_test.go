// SPDX-License-Identifier: GPL-3.0-or-later

package contract

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/tape"
)

// A suite records where the context says so.
//
// LO-845
func TestASuiteIsRecorded(t *testing.T) {
	t.Setenv(tape.Env, "")
	var seen []string
	suite := Recorded(func(ctx context.Context, _ *tally.Tally) error {
		dir, err := command.Output(ctx, "sh", "-c", "echo $"+tape.Env)
		seen = append(seen, dir)
		return err
	})
	require.NoError(t, suite(t.Context(), tally.New()))
	ctx, done, err := Recording(t.Context())
	require.NoError(t, err)
	require.NoError(t, suite(ctx, tally.New()))
	require.Empty(t, seen[0])
	require.DirExists(t, seen[1])
	done()
	require.NoDirExists(t, seen[1])
}
