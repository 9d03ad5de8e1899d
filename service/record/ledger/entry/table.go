// SPDX-License-Identifier: GPL-3.0-or-later

package entry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Table is a table that every store has, with what is moved from one store to another.
type Table struct {
	Name    string
	Key     string // the columns by which its rows are in order
	Columns []string
	Numbers int // how many of the columns, from the first one, are numbers; the others are bytes
}

// Tables are all of them. What only says how a store is used stays where it is: claims, counters, and what was found to be lost.
var Tables = []Table{
	{"task", "seq", words(`seq accepted_ms started_ms finished_ms start_order checkpoint_event proof_bytes proof_keeps deleted_ms text_until_ms
		id state priority pool_id replica_id fingerprint checkpoint_sum sealed_at last_event_id outcome proof_sum`), 10},
	{"request", "seq", words(`seq task sum`), 1},
	{"transcript", "seq", words(`seq ends text marks logprobs sum`), 1},
	{"session", "id", words(`created_ms ttl_ms max_turns turns budget_tokens budget_time_ms budget_cost budget_mj spent_tokens spent_time_ms spent_cost spent_mj explicit id pool_id replica_id`), 13},
	{"spending", "account, window_ms", words(`window_ms tokens time_ms cost mj account`), 5},
	{"file", "seq", words(`seq created_ms id file artifact`), 2},
	{"batch", "seq", words(`seq ended_ms id dialect file_id record artifact`), 2},
	{"batch_line", "batch, n", words(`batch n at bytes tries custom_id state outcome`), 5},
}

func words(text string) []string { return strings.Fields(text) }

// Select asks for all rows of a table, in order.
func (t Table) Select() string {
	return `SELECT ` + strings.Join(t.Columns, `, `) + ` FROM ` + t.Name + ` ORDER BY ` + t.Key
}

// Store is a store of which all rows can be read. A value is an int64, a []byte, or nil.
type Store interface {
	// Rows calls do with each row of a table, in order. The row may be kept.
	Rows(ctx context.Context, t Table, do func(row []any) error) error
}

// Digests returns the SHA-256 of each table, and how many rows it has. They are the same for two stores of which one was moved to the other.
func Digests(ctx context.Context, s Store) (sums map[string]string, rows map[string]int, err error) {
	sums, rows = map[string]string{}, map[string]int{}
	for _, t := range Tables {
		sum := sha256.New()
		err := s.Rows(ctx, t, func(row []any) error {
			h := newHashed("row", 0)
			for _, v := range row {
				switch v := v.(type) {
				case nil:
					h = h.text("null")
				case int64:
					h = h.text("number").number(v)
				case []byte:
					h = h.text("bytes").data(v)
				default:
					return fmt.Errorf("table %s has a value of type %T", t.Name, v)
				}
			}
			rows[t.Name]++
			_, err := sum.Write(h)
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read table %s: %w", t.Name, err)
		}
		sums[t.Name] = hex.EncodeToString(sum.Sum(nil))
	}
	return sums, rows, nil
}
