// SPDX-License-Identifier: GPL-3.0-or-later

package contract

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/tape"
)

// A suite records where the context says so, and only as long as it runs.
//
// LO-845
func TestASuiteIsRecorded(t *testing.T) {
	t.Setenv(tape.Env, "")
	var seen []string
	suite := Recorded(func(context.Context, *tally.Tally) error {
		seen = append(seen, os.Getenv(tape.Env))
		return nil
	})
	require.NoError(t, suite(t.Context(), tally.New()))
	ctx, done, err := Recording(t.Context())
	require.NoError(t, err)
	require.NoError(t, suite(ctx, tally.New()))
	require.Empty(t, seen[0])
	require.DirExists(t, seen[1])
	require.Empty(t, os.Getenv(tape.Env))
	done()
	require.NoDirExists(t, seen[1])
}
