// SPDX-License-Identifier: GPL-3.0-or-later

package ledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-202
func TestOnlyWholeRecordsAreTaken(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	whole := task.Task{ID: "x", Seq: 1, AcceptedAt: now}
	require.NoError(t, ledger.CheckTask(whole))
	for _, lacks := range []task.Task{{Seq: 1, AcceptedAt: now}, {ID: "x", AcceptedAt: now}, {ID: "x", Seq: 1}} {
		require.Error(t, ledger.CheckTask(lacks))
		require.Error(t, ledger.CheckOutcome(task.Record{Task: lacks, State: task.Failed, FinishedAt: now}))
	}
	require.NoError(t, ledger.CheckOutcome(task.Record{Task: whole, State: task.Failed, FinishedAt: now}))
	require.Error(t, ledger.CheckOutcome(task.Record{Task: whole, State: task.Running, FinishedAt: now}))
	require.Error(t, ledger.CheckOutcome(task.Record{Task: whole, State: task.Failed}))
}
