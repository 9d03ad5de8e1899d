// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/record/ledger"
)

// renewals is how often a lease is renewed in its time.
const renewals = 4

// enter makes this daemon's claim, before it holds anything, and takes the first numbers.
func (l *Ledger) enter(ctx context.Context, c *pgx.Conn) error {
	var fence int
	var last uint64
	var place int64
	err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2)`, l.w.class, claiming); err != nil {
			return err
		}
		if l.o.Alone {
			others, err := l.o.inUse(ctx, tx)
			if err != nil {
				return err
			}
			if len(others) > 0 {
				return &Error{
					Fault: Held, Where: l.o.where, What: fmt.Sprintf("is in use by another orchestratord (%s)", strings.Join(others, ", ")),
					Remedy: "stop that one first, or name another ledger.postgres.schema",
				}
			}
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
	l.w.ours.Store(last)
	l.starts, l.endSeq, l.nextSeq = place, last+1, last-seqBlock+1
	return nil
}

const insertClaim = `INSERT INTO claim (owner, schema, since, until) VALUES ($1, $2, clock_timestamp(), clock_timestamp() + $3) RETURNING fence`

// Claim implements ledger.Ledger.
func (l *Ledger) Claim(ctx context.Context, owner string) (ledger.Claim, error) {
	c := ledger.Claim{Owner: owner}
	var place int64
	err := l.submit(ctx, &op{
		kind: opClaim, id: owner, free: true,
		run: func(ctx context.Context, x *transaction) error {
			c = ledger.Claim{Owner: owner}
			if err := x.claim(ctx, owner); err != nil {
				return err
			}
			seqs, err := x.takeOver(ctx)
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

// takeOver ends the claims whose lease is over, and those of a daemon of the same name, of which this one is the next life. Then it takes all live tasks that
// no claim holds, and returns their numbers. A commit of a daemon whose claim is being ended is waited for: behind it, that daemon can write nothing more.
func (x *transaction) takeOver(ctx context.Context) ([]int64, error) {
	const over = `fence <> $1 AND (until <= clock_timestamp() OR owner = (SELECT owner FROM claim WHERE fence = $1))`
	rows, err := x.c.Query(ctx, `SELECT fence FROM claim WHERE `+over, x.fence)
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
	if _, err := x.c.Exec(ctx, `DELETE FROM claim WHERE fence = ANY($2) AND `+over, x.fence, fences); err != nil {
		return nil, err
	}
	rows, err = x.c.Query(ctx, `UPDATE task SET fence = $1 WHERE finished_ms IS NULL AND fence <> $1 AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.fence = task.fence) RETURNING seq`, int64(x.fence))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// renewal renews the lease. A lease that has ended goes on if nobody has taken the tasks meanwhile.
func (l *Ledger) renewal() *op {
	kept := false
	fence := l.fence.Load()
	return &op{
		kind: opClaim, id: "lease", free: true,
		run: func(ctx context.Context, x *transaction) error {
			done, err := x.c.Exec(ctx, `UPDATE claim SET until = clock_timestamp() + $1 WHERE fence = $2`, l.o.Lease, fence)
			kept = done.RowsAffected() == 1
			return err
		},
		then: func() {
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
