// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

func session(id string) task.Session { return ledgertest.Session(id) }

// A ledger from before sessions gets their tables.
// ORCH-3021, LO-202
func TestLedgerFromBeforeSessions(t *testing.T) {
	path := file(t)
	require.NoError(t, create(t.Context(), path, steps[:1]))
	l := open(t, Options{Path: path})
	require.NoError(t, l.KeepSession(t.Context(), session("s")))
	found, err := l.Sessions(t.Context())
	require.NoError(t, err)
	require.Equal(t, []task.Session{session("s")}, found)
}
