// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// An idle ledger removes what gets too old, and is not woken up for anything else.
// LO-202
func TestIdleLedgerSweepsWhenItIsTime(t *testing.T) {
	path := file(t)
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		l, err := Open(Options{Path: path, RetainAge: 24 * time.Hour, Now: func() time.Time { looks++; return time.Now() }})
		require.NoError(t, err)
		s := sample(1)
		s.AcceptedAt = time.Now()
		require.NoError(t, l.Accept(t.Context(), s))
		r := ended(s, task.Completed, "x")
		r.FinishedAt = time.Now()
		end(t, l, r)
		time.Sleep(23*time.Hour + 59*time.Minute)
		synctest.Wait()
		get(t, l, s.ID)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		_, ok, err := l.Get(t.Context(), s.ID)
		require.NoError(t, err)
		require.False(t, ok)
		time.Sleep(240 * time.Hour)
		synctest.Wait()
		require.NoError(t, l.Close())
		require.Less(t, looks, 30)
	})
}
