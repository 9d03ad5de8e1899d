// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"context"
	"fmt"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/record/ledger"
)

// Numbers are taken from the database by the thousand, so that handing one out asks nobody. The next ones are fetched when half are gone.
const seqBlock = 1024

// NextSeq implements ledger.Ledger. It waits where no number is left, which is only while the database is away.
func (l *Ledger) NextSeq() (uint64, error) {
	for {
		l.mu.Lock()
		switch {
		case l.closed:
			l.mu.Unlock()
			return 0, ledger.ErrClosed
		case l.nextSeq < l.endSeq:
			next := l.nextSeq
			l.nextSeq++
			if l.endSeq-l.nextSeq < seqBlock/2 {
				l.fetch()
			}
			l.mu.Unlock()
			return next, nil
		}
		l.fetch()
		come := l.fetching
		l.mu.Unlock()
		<-come
		l.mu.Lock()
		none := l.nextSeq >= l.endSeq && l.fetching == nil
		l.mu.Unlock()
		if none {
			return 0, fmt.Errorf("take the next numbers of tasks: %w", ledger.ErrUnavailable)
		}
	}
}

// fetch has the next numbers fetched, while mu is held.
func (l *Ledger) fetch() {
	if l.fetching != nil || l.closed {
		return
	}
	come := make(chan struct{})
	l.fetching = come
	least := l.nextSeq
	l.beside.Go(func() {
		_ = contain.Do(l.log, "taking the next numbers of tasks panicked: the next task tries again", func() { l.takeBlock(least, come) })
	})
}

// takeBlock fetches the next numbers, and lets those go on who wait for them.
func (l *Ledger) takeBlock(least uint64, come chan struct{}) {
	var last uint64
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if last > 0 {
			l.own(last)
		}
		l.fetching = nil
		close(come)
	}()
	err := l.submit(context.Background(), &op{kind: opClaim, id: "numbers", run: func(ctx context.Context, x *transaction) (err error) {
		last, err = x.numbers(ctx, least)
		return err
	}})
	if err != nil { // what was not committed is nobody's
		last = 0
	}
}

// own takes a block of numbers into use, of which this is the last. While mu is held. Where the block before goes on into it, both are used up.
func (l *Ledger) own(last uint64) {
	if first := last - seqBlock + 1; first > l.endSeq || l.nextSeq >= l.endSeq {
		l.nextSeq = max(l.nextSeq, first)
	}
	l.endSeq = last + 1
	l.w.ours.Store(last)
}

// used notes the number of a task that is in the ledger. While mu is held.
func (l *Ledger) used(seq uint64) { l.nextSeq = max(l.nextSeq, seq+1) }

// numbers takes a block of numbers behind all that were taken, and returns the last of it.
func (x *transaction) numbers(ctx context.Context, least uint64) (last uint64, err error) {
	err = x.c.QueryRow(ctx, `UPDATE counter SET seq = greatest(seq, $1) + $2 RETURNING seq`, int64(least)-1, seqBlock).Scan(&last)
	return last, err
}
