// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// renewals is how often a lease is renewed in its time.
const renewals = 4

// enter makes this daemon's claim, before it holds anything, and takes the first numbers.
func (l *Ledger) enter(ctx context.Context, c *pgx.Conn) error {
	var fence int
	var last uint64
	var place int64
	at := time.Now()
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2)`, l.w.class, claiming); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, insertClaim, l.o.Owner, len(l.o.steps), l.o.Lease).Scan(&fence); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `UPDATE counter SET seq = seq + $1 RETURNING seq`, seqBlock).Scan(&last); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT coalesce(max(start_order), 0) FROM task WHERE finished_ms IS NULL`).Scan(&place)
	})
	if err != nil {
		return err
	}
	l.fence.Store(int64(fence))
	l.renewed.Store(&at)
	l.w.ours.Store(last)
	l.starts, l.endSeq, l.nextSeq = place, last+1, last-seqBlock+1
	return nil
}

const insertClaim = `INSERT INTO claim (owner, schema, since, until) VALUES ($1, $2, clock_timestamp(), clock_timestamp() + $3) RETURNING fence`

// Claim implements ledger.Ledger.
func (l *Ledger) Claim(ctx context.Context, by task.Host) (ledger.Claim, error) {
	c := ledger.Claim{Owner: by.ID}
	var place int64
	var at time.Time
	err := l.submit(ctx, &op{
		kind: opClaim, id: by.ID, free: true,
		run: func(ctx context.Context, x *transaction) error {
			c, at = ledger.Claim{Owner: by.ID}, time.Now()
			if err := x.claim(ctx, by.ID); err != nil {
				return err
			}
			seqs, err := x.takeOver(ctx, by, &c)
			if err != nil {
				return err
			}
			c.Fence = uint64(x.fence)
			rows, err := x.c.Query(ctx, `SELECT `+liveTasks+` AND t.seq = ANY($1) ORDER BY `+inOrder, seqs)
			if c.Tasks, err = records(rows, err); err != nil {
				return err
			}
			return x.c.QueryRow(ctx, `SELECT coalesce(max(start_order), 0) FROM task WHERE finished_ms IS NULL`).Scan(&place)
		},
		then: func() {
			l.fence.Store(int64(c.Fence))
			l.renewed.Store(&at)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.starts = max(l.starts, place)
			for _, r := range c.Tasks {
				l.used(r.Task.Seq)
			}
		},
	})
	return c, err
}

// claim renews this daemon's claim, or makes another where it was taken. From then on the transaction has its number.
func (x *transaction) claim(ctx context.Context, owner string) error {
	if _, err := x.c.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2)`, x.w.class, claiming); err != nil {
		return err
	}
	lease := x.w.o.Lease
	done, err := x.c.Exec(ctx, `UPDATE claim SET owner = $1, until = clock_timestamp() + $2 WHERE fence = $3`, owner, lease, x.fence)
	if err != nil || done.RowsAffected() == 1 {
		return err
	}
	return x.c.QueryRow(ctx, insertClaim, owner, len(x.w.o.steps), lease).Scan(&x.fence)
}

// takeOver ends the claims of which this daemon takes something: those of a daemon of the same name, of which this one is the next life, and those whose lease is
// over and that hold one of its pools. Then it takes the pools and the live tasks that no claim holds, and returns the tasks' numbers. A commit of a daemon
// whose claim is being ended is waited for: behind it, that daemon can write nothing more.
func (x *transaction) takeOver(ctx context.Context, by task.Host, c *ledger.Claim) ([]int64, error) {
	var pools [][]byte // nil: all
	if len(by.Pools) > 0 {
		pools = [][]byte{}
	}
	for _, p := range by.Pools {
		if p.Holds {
			pools = append(pools, []byte(p.ID))
		}
	}
	const over = `fence <> $1 AND (owner = (SELECT owner FROM claim WHERE fence = $1) OR until <= clock_timestamp() AND
		($2::bytea[] IS NULL OR EXISTS (SELECT 1 FROM pool p WHERE p.fence = claim.fence AND p.id = ANY($2)) OR NOT EXISTS (SELECT 1 FROM pool p WHERE p.fence = claim.fence)))`
	rows, err := x.c.Query(ctx, `SELECT fence FROM claim WHERE `+over, x.fence, pools)
	if err != nil {
		return nil, err
	}
	fences, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return nil, err
	}
	for _, f := range fences {
		if _, err := x.c.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2)`, x.w.class, f); err != nil {
			return nil, err
		}
	}
	if _, err := x.c.Exec(ctx, `DELETE FROM claim WHERE fence = ANY($3) AND `+over, x.fence, pools, fences); err != nil {
		return nil, err
	}
	if pools != nil {
		if err := x.announce(ctx, by); err != nil {
			return nil, err
		}
		if err := x.takePools(ctx, pools, c); err != nil {
			return nil, err
		}
		pools = [][]byte{}
		for _, id := range c.Pools {
			pools = append(pools, []byte(id))
		}
	}
	rows, err = x.c.Query(ctx, `UPDATE task SET fence = $1 WHERE finished_ms IS NULL AND fence <> $1 AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.fence = task.fence) AND
		($2::bytea[] IS NULL OR pool_id = ANY($2) OR NOT EXISTS (SELECT 1 FROM host_pool h WHERE h.pool = task.pool_id)) RETURNING seq`, int64(x.fence), pools)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// takePools takes the queues of pools that no claim holds, with the sessions whose last turn was there, and gives up those that the daemon has no more.
func (x *transaction) takePools(ctx context.Context, pools [][]byte, c *ledger.Claim) error {
	if err := x.exec(ctx, `DELETE FROM pool WHERE fence = $1 AND id <> ALL($2)`, x.fence, pools); err != nil {
		return err
	}
	rows, err := x.c.Query(ctx, `INSERT INTO pool AS p (id, fence) SELECT id, $1 FROM unnest($2::bytea[]) AS n(id) ON CONFLICT (id) DO UPDATE SET fence = excluded.fence
		WHERE p.fence <> excluded.fence AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.fence = p.fence) RETURNING id`, x.fence, pools)
	if err != nil {
		return err
	}
	came, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return err
	}
	c.Sessions, err = sessions(x.c.Query(ctx, `UPDATE session s SET host = $1 WHERE pool_id = ANY($2) AND host <> $1
		AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.owner = s.host) RETURNING `+sessionColumns, c.Owner, came))
	if err != nil {
		return err
	}
	rows, err = x.c.Query(ctx, `SELECT p.id, c.owner, c.fence = $1 FROM pool p JOIN claim c ON c.fence = p.fence WHERE p.id = ANY($2) ORDER BY p.id`, x.fence, pools)
	if err != nil {
		return err
	}
	var id []byte
	var owner string
	var ours bool
	c.Others = map[string]string{}
	_, err = pgx.ForEachRow(rows, []any{&id, &owner, &ours}, func() error {
		if ours {
			c.Pools = append(c.Pools, string(id))
		} else {
			c.Others[string(id)] = owner
		}
		return nil
	})
	return err
}

// renewal renews the lease. A lease that has ended goes on if nobody has taken the tasks meanwhile.
func (l *Ledger) renewal() *op {
	kept := false
	fence := l.fence.Load()
	var at time.Time
	return &op{
		kind: opClaim, id: "lease", free: true,
		run: func(ctx context.Context, x *transaction) error {
			at = time.Now()
			done, err := x.c.Exec(ctx, `WITH c AS (UPDATE claim SET until = clock_timestamp() + $1 WHERE fence = $2 RETURNING owner), h AS (UPDATE host SET seen = clock_timestamp() FROM c WHERE id = c.owner)
				SELECT 1 FROM c`, l.o.Lease, fence)
			kept = done.RowsAffected() == 1
			return err
		},
		then: func() {
			if kept {
				l.renewed.Store(&at)
			}
			if kept || l.w.lost == fence {
				return
			}
			l.w.lost = fence
			err := fmt.Errorf("%w: the database could not be reached for longer than the lease of %s", ledger.ErrFenced, l.o.Lease)
			l.log.Error("another orchestratord has taken the tasks of this one", zap.Error(err))
			if l.o.Lost != nil {
				l.o.Lost(err)
			}
		},
	}
}

// Holds implements ledger.Shared. The lease began no earlier than what renewed it was sent. The time is that of the process, and where the machine slept, in which
// that stands still, that of its clock.
func (l *Ledger) Holds() bool {
	at := l.renewed.Load()
	now := time.Now()
	return at != nil && max(now.Sub(*at), now.Round(0).Sub(at.Round(0))) < l.o.Lease
}

// leave gives up the claim, as far as the database can be reached. Where it cannot, the lease ends by itself.
func (l *Ledger) leave() {
	ctx, stop := context.WithTimeout(context.Background(), connectWithin)
	defer stop()
	c, err := l.w.connect(ctx)
	if err == nil {
		_, err = c.Exec(ctx, `DELETE FROM claim WHERE fence = $1`, l.fence.Load())
	}
	if err != nil {
		l.log.Warn("the lease of the tasks could not be given up, and ends by itself", zap.Error(err), zap.Duration("lease_ms", l.o.Lease))
	}
}

// Writable says whether an accept could be recorded now. Where nothing was written for a while, or the last commit failed, it makes a small
// commit that changes nothing.
func (l *Ledger) Writable(ctx context.Context) error {
	if at := l.wrote.Load(); at != 0 && time.Since(time.Unix(at, 0)) < probeAfter {
		return nil
	}
	ctx, stop := context.WithTimeoutCause(ctx, probeWithin, fmt.Errorf("no commit within %s", probeWithin))
	defer stop()
	return l.submit(ctx, &op{kind: opProbe, run: func(ctx context.Context, x *transaction) error {
		_, err := x.c.Exec(ctx, `UPDATE counter SET seq = seq`)
		return err
	}})
}

// How old the last commit may be before Writable tries one, and how long it waits for that.
const (
	probeAfter  = 15 * time.Second
	probeWithin = 2 * time.Second
)

// turnLook is how often Turns looks whether the writing goroutine came round.
const turnLook = 10 * time.Millisecond

// Turns returns once the writing goroutine has come round, whether or not it could write. It fails when ctx ends before that (LO-635).
func (l *Ledger) Turns(ctx context.Context) error {
	for before := l.turns.Load(); l.turns.Load() == before; {
		l.nudge()
		select {
		case <-l.halt.Done(): // it is being closed
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the ledger does not turn: %w", context.Cause(ctx))
		case <-time.After(turnLook):
		}
	}
	return nil
}
