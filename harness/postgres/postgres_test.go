// SPDX-License-Identifier: GPL-3.0-or-later

package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/postgres"
)

// What is written stays through a kill, and a wrong password is refused.
func TestAServerLivesThroughAKill(t *testing.T) {
	s, err := postgres.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.Exec(t.Context(), "CREATE TABLE kept (n int)"))
	require.NoError(t, s.Kill())
	require.Error(t, s.Exec(t.Context(), "SELECT 1"))
	require.NoError(t, s.Start())
	require.NoError(t, s.Exec(t.Context(), "SELECT n FROM kept"))
	c, err := pgx.Connect(t.Context(), s.TCP(s.Port))
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
}
