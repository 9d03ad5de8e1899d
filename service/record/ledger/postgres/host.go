// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/llama-orch/llama-orch/service/task"
)

// forgetAfter is how long a daemon that has gone is known. Then its tasks are those of nobody, and end (LO-710).
const forgetAfter = 24 * time.Hour

// served is what is kept of a pool that a host can serve.
type served struct {
	Engine string `json:"engine"`
	Model  string `json:"model"`
	Ref    string `json:"ref"`
	Digest string `json:"digest,omitempty"`
}

// announce records what a daemon says of itself, and forgets those that went long ago.
func (x *transaction) announce(ctx context.Context, by task.Host) error {
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO host (id, name, address, version, since, seen) VALUES ($1, $2, $3, $4, (SELECT since FROM claim WHERE fence = $5), clock_timestamp())
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address, version = excluded.version, since = excluded.since, seen = excluded.seen`,
		by.ID, by.Name, by.Address, by.Version, x.fence)
	b.Queue(`DELETE FROM host WHERE seen < clock_timestamp() - $1::interval AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.owner = host.id)`, forgetAfter)
	b.Queue(`DELETE FROM session WHERE host IS NOT NULL AND NOT EXISTS (SELECT 1 FROM host h WHERE h.id = session.host)`) // its time is over
	b.Queue(`DELETE FROM host_pool WHERE host = $1 OR NOT EXISTS (SELECT 1 FROM host h WHERE h.id = host_pool.host)`, by.ID)
	for _, p := range by.Pools {
		text, err := json.Marshal(served{p.Engine, p.Model, p.Ref, p.Digest})
		if err != nil {
			return err
		}
		b.Queue(`INSERT INTO host_pool (host, pool, about) VALUES ($1, $2, $3)`, by.ID, []byte(p.ID), text)
	}
	return x.c.SendBatch(ctx, b).Close()
}

// Hosts implements ledger.Shared.
func (r *Reader) Hosts(ctx context.Context) ([]task.Host, error) {
	var found []task.Host
	rows, err := r.query(ctx, `SELECT h.id, h.name, h.address, h.version, h.since, h.seen, coalesce(c.until > clock_timestamp(), false), hp.pool, hp.about,
		coalesce(p.fence = c.fence, false) FROM host h LEFT JOIN (SELECT owner, max(fence) AS fence FROM claim GROUP BY owner) l ON l.owner = h.id
		LEFT JOIN claim c ON c.fence = l.fence LEFT JOIN host_pool hp ON hp.host = h.id LEFT JOIN pool p ON p.id = hp.pool ORDER BY h.name, h.id, hp.pool`)
	if err == nil {
		var h task.Host
		var id, text []byte
		var holds bool
		_, err = pgx.ForEachRow(rows, []any{&h.ID, &h.Name, &h.Address, &h.Version, &h.Since, &h.Seen, &h.Up, &id, &text, &holds}, func() error {
			if n := len(found); n == 0 || found[n-1].ID != h.ID {
				found = append(found, h)
			}
			if id == nil {
				return nil
			}
			var a served
			if err := json.Unmarshal(text, &a); err != nil {
				return err
			}
			last := &found[len(found)-1]
			last.Pools = append(last.Pools, task.HostPool{ID: string(id), Engine: a.Engine, Model: a.Model, Ref: a.Ref, Digest: a.Digest, Holds: holds})
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read the hosts: %w", err)
	}
	return found, nil
}

// Holder implements ledger.Shared.
func (r *Reader) Holder(ctx context.Context, id string) (owner string, err error) {
	err = r.row(ctx, []any{&owner}, `SELECT c.owner FROM task t JOIN claim c ON c.fence = t.fence WHERE t.id = $1 AND t.finished_ms IS NULL`, []byte(id))
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for who holds task %.128q: %w", id, err)
	}
	return owner, nil
}
