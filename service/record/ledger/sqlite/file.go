// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"

	"github.com/llama-orch/llama-orch/service/task"
)

// Files implements ledger.Batches. Files and batches are in order by the time, by which of the two they are, and by their number. The order stands right
// behind the union, so that both are read from an index, and no further than the page goes.
func (r *Reader) Files(ctx context.Context, f task.FileFilter) (found []task.Listed, err error) {
	ms, kind, seq := int64(math.MaxInt64), int64(0), int64(0) // nothing is behind that
	side, order := `<`, `DESC`
	if f.Oldest {
		ms, side, order = math.MinInt64, `>`, `ASC`
	}
	if f.After != "" {
		err := r.db.QueryRowContext(ctx, `SELECT created_ms, 0, seq FROM file WHERE id = ?1 UNION ALL
			SELECT ended_ms, 1, seq FROM batch WHERE id = ?1 AND ended_ms IS NOT NULL`, f.After).Scan(&ms, &kind, &seq)
		if err != nil {
			return nil, fmt.Errorf("look for file %.128q: %w", f.After, unknown(err))
		}
	}
	if f.Limit <= 0 {
		f.Limit = -1
	}
	rows, err := r.db.QueryContext(ctx,
		`SELECT created_ms AS ms, 0 AS kind, seq, file AS text FROM file WHERE ?1 AND (created_ms, 0, seq) `+side+` (?3, ?4, ?5) UNION ALL
		SELECT ended_ms, 1, seq, record FROM batch WHERE ended_ms IS NOT NULL AND dialect = ?2 AND (ended_ms, 1, seq) `+side+` (?3, ?4, ?5)
		ORDER BY ms `+order+`, kind `+order+`, seq `+order+` LIMIT ?6`, f.Sent, f.Results, ms, kind, seq, f.Limit)
	err = scan(rows, err, func(rows *sql.Rows) error {
		var isBatch bool
		var text []byte
		if err := rows.Scan(&ms, &isBatch, &seq, &text); err != nil {
			return err
		}
		var one task.Listed
		var into any = &one.File
		if isBatch {
			one.Batch = &task.BatchRecord{}
			into = one.Batch
		}
		if err := json.Unmarshal(text, into); err != nil {
			return err
		}
		found = append(found, one)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the files: %w", err)
	}
	return found, nil
}

// Uses implements ledger.Batches.
func (r *Reader) Uses(ctx context.Context, artifact string) (used bool, err error) {
	err = r.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM file WHERE artifact = ?1) OR
		EXISTS (SELECT 1 FROM batch WHERE artifact = ?1 AND (file_id = '' OR ended_ms IS NULL))`, artifact).Scan(&used)
	if err != nil {
		return false, fmt.Errorf("look for what uses artifact %.128q: %w", artifact, err)
	}
	return used, nil
}
