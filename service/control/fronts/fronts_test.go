// SPDX-License-Identifier: GPL-3.0-or-later

package fronts

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// refusing is a ledger that refuses what batches write.
type refusing struct {
	ledger.Ledger

	err error
}

func (r refusing) KeepBatch(context.Context, task.BatchRecord, []task.Line) error { return r.err }
func (r refusing) DropFile(context.Context, string) error                         { return r.err }
func (r refusing) DropBatch(context.Context, string, time.Time) error             { return r.err }
func (r refusing) Batches(context.Context, task.BatchFilter) ([]task.BatchRecord, error) {
	return nil, r.err
}

// LO-435, LO-436: what the ledger refuses of batches is told in codes that clients know; other errors stay what they are.
func TestWhatTheLedgerRefusesIsTold(t *testing.T) {
	for _, c := range []struct {
		err  error
		code task.Code
	}{{ledger.ErrUnknown, task.NotFound}, {ledger.ErrLive, task.Conflict}, {errors.New("other"), ""}, {nil, ""}} {
		r := records{refusing{err: c.err}}
		_, listed := r.Batches(t.Context(), task.BatchFilter{})
		for _, err := range []error{
			r.KeepBatch(t.Context(), task.BatchRecord{}, nil), r.DropFile(t.Context(), "f"), r.DropBatch(t.Context(), "b", time.Time{}), listed,
		} {
			if c.code == "" {
				require.Equal(t, c.err, err)
				continue
			}
			require.ErrorIs(t, err, c.err)
			require.True(t, task.HasCode(err, c.code), "%v", err)
		}
	}
}
