// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger/entry"
	"github.com/llama-orch/llama-orch/service/record/ledger/note"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// kind is what an operation does, a label of llorch_ledger_ops_total.
type kind string

const (
	opAccept     kind = "accept"
	opRender     kind = "render"
	opDispatch   kind = "dispatch"
	opCheckpoint kind = "checkpoint"
	opFinish     kind = "finish"
	opSession    kind = "session"
	opClaim      kind = "claim"
	opForget     kind = "forget"
	opDelete     kind = "delete"
	opExpire     kind = "expire"
	opProbe      kind = "probe"
	opBatch      kind = "batch"
)

// op is one operation that waits for the writer.
type op struct {
	kind  kind
	id    string
	seq   uint64 // of the task that the operation brings, else 0
	size  int    // about how many bytes it writes
	run   func(*writer) error
	then  func()      // called on the writing goroutine once run is committed; may be nil
	back  func()      // called when the commit failed; may be nil
	err   error       // why it was refused, where the database is not at fault
	taken atomic.Bool // set by the writer, which then answers, or by a caller that gives up
	done  chan error  // capacity 1; nil: nobody waits
}

// The bounds of one commit.
const (
	maxBatch      = 1024
	maxBatchBytes = 8 << 20
)

// write is the one goroutine that writes. It ends when the ledger is closed and nothing waits any more.
func (l *Ledger) write() {
	due := l.o.Now() // of the next sweep; zero: nothing to sweep for
	note, sweep, erase := stopped(), stopped(), stopped()
	defer note.Stop()
	defer sweep.Stop()
	defer erase.Stop()
	for {
		l.turns.Add(1)
		l.gather()
		batch, noteDue, closing := l.take()
		if len(batch) > 0 {
			l.commit(batch)
		}
		// A sweep goes on in small steps between the commits, so that no accept waits for it.
		more := false
		switch now := l.o.Now(); {
		case closing:
		case l.w.written >= sweepAfter || !due.IsZero() && !now.Before(due):
			if more = l.sweepStep(); !more {
				l.w.written, l.w.finished, due = 0, 0, l.nextSweep()
			}
		case due.IsZero() && l.w.finished > 0:
			l.w.finished, due = 0, l.nextSweep()
		}
		erasing, again := false, time.Duration(0)
		if !closing {
			erasing, again = l.eraseStep()
		}
		if len(batch) > 0 || more || erasing {
			continue
		}
		if closing {
			l.erased(ledger.ErrClosed)
			return
		}
		if again > 0 {
			erase.Reset(again)
		}
		if !noteDue.IsZero() {
			note.Reset(time.Until(noteDue))
		}
		if !due.IsZero() {
			sweep.Reset(due.Sub(l.o.Now()))
		}
		select {
		case <-l.wake:
		case <-note.C:
		case <-sweep.C:
		case <-erase.C:
		}
	}
}

// unsound is deferred by the writer's goroutine, and ends the process where that panics. Nobody knows what the writer and the driver have
// in hand then, or which locks they hold, so nothing could be promised any more. All that was answered is on the disk (LO-803).
func (l *Ledger) unsound() {
	if p := recover(); p != nil {
		l.log.Fatal("the writer of the ledger panicked, so this process ends on purpose: what was accepted is on the disk, and the next start goes on with it",
			contain.Fields(p)...)
	}
}

// gather yields once to other goroutines, which may add their operations to the queue. One commit for all of them is less work than
// one for each. It sets no timer, so that a lone caller does not wait.
func (l *Ledger) gather() {
	l.mu.Lock()
	n := len(l.queue)
	l.mu.Unlock()
	if n > 0 && n < maxBatch {
		runtime.Gosched()
	}
}

// stopped returns a timer that is not running.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// take returns the next batch, with the notes that are written along with it. NoteDue is when the next of the other notes has to
// be written.
func (l *Ledger) take() (batch []*op, noteDue time.Time, closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, n := 0, 0
	for ; n < len(l.queue) && n < maxBatch && size < maxBatchBytes; n++ {
		o := l.queue[n]
		l.queue[n] = nil
		if !o.taken.CompareAndSwap(false, true) {
			continue // its caller has gone
		}
		if o.kind == opFinish {
			l.notes.Unmark(o.id)
		}
		if o.kind == opFinish || o.kind == opDispatch {
			if s := l.notes.Drop(o.id); s != nil {
				o.back = func() { l.putBack(s) }
			}
		}
		size += o.size
		batch = append(batch, o)
	}
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	if l.notes.Empty() {
		return batch, noteDue, l.closed
	}
	starts, checkpoints := l.notes.Take(time.Now(), len(batch) > 0)
	for _, s := range starts {
		batch = append(batch, &op{
			kind: opDispatch, id: s.ID, run: func(w *writer) error { return w.dispatch(s.Dispatch, s.Place) }, back: func() { l.putBack(s) },
		})
	}
	for id, c := range checkpoints {
		batch = append(batch, &op{kind: opCheckpoint, id: id, run: func(w *writer) error { return w.checkpoint(id, c) }})
	}
	return batch, l.notes.Due(), l.closed
}

// putBack keeps a start for a later commit. If it got lost, tasks that were started later would come first after a crash, and this
// one might go on elsewhere.
func (l *Ledger) putBack(s *note.Start) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.notes.Back(s, time.Now().Add(time.Second))
	}
}

// commit writes a batch and answers its callers.
func (l *Ledger) commit(batch []*op) {
	begun := time.Now() // the real time, for a metric
	err := l.w.try(batch)
	if err != nil && len(batch) > 1 && !errors.Is(err, errBegin) {
		// One operation that does not fit must not fail the others: the halves are tried apart, in their order.
		half := len(batch) / 2
		l.commit(batch[:half])
		l.commit(batch[half:])
		return
	}
	if err != nil {
		if l.w.failing == 0 {
			l.log.Error("the ledger cannot write", zap.String("first_task", batch[0].id), zap.Error(err))
		}
		l.w.failing += len(batch)
		l.wrote.Store(0)
		l.metrics.Errors.Add(float64(len(batch)))
		for _, o := range batch {
			if o.back != nil {
				o.back()
			}
			o.answer(fmt.Errorf("%w: %w", ledger.ErrUnavailable, err))
		}
		return
	}
	if l.w.failing > 0 {
		l.log.Info("the ledger writes again", zap.Int("failed", l.w.failing))
		l.w.failing = 0
	}
	l.wrote.Store(begun.Unix())
	l.metrics.Committed(len(batch), time.Since(begun))
	l.mu.Lock()
	for _, o := range batch {
		if o.err == nil {
			l.nextSeq = max(l.nextSeq, o.seq+1)
		}
	}
	l.mu.Unlock()
	for _, o := range batch {
		if o.err == nil {
			l.metrics.Ops.WithLabelValues(string(o.kind)).Inc()
		}
		if o.kind == opFinish {
			l.w.finished++
		}
		l.w.written += o.size
		if o.then != nil {
			o.then()
		}
		o.answer(o.err)
	}
}

func (o *op) answer(err error) {
	if o.done != nil {
		o.done <- err
	}
}

// writer is the writing goroutine's connection.
type writer struct {
	db       *sql.DB
	conn     *sql.Conn
	fence    uint64      // of the claim; 0 before it is made
	failing  int         // operations that failed since the last commit
	written  int         // about how many bytes since the last sweep
	finished int         // tasks that ended since the next sweep was timed
	parting  atomic.Bool // BeforeForgetting is being called
	window   time.Time   // of the budgets that are being charged; older windows were forgotten
	erase    erase
	tip      *tipFile
	now      func() time.Time
	log      *zap.Logger

	beginTx, commitTx, countCommit, findAll *sql.Stmt

	insertTask, insertBody, findSeq, findID, findLive, insertClaim, startTask, markTask, endTask, insertText *sql.Stmt
	keepSession, replaceSession, dropSession, chargeSession, spend, forget                                   *sql.Stmt
	findLine, changeLine, insertLine                                                                         *sql.Stmt
}

func newWriter(ctx context.Context, o Options, version int) (*writer, error) {
	sync := "_sync=FULL"
	if o.offhand {
		sync = "_sync=OFF"
	}
	// SQLite copies the log of writes into the database each 4 MB, which is its default. Where it has grown beyond that in a rush, it is
	// cut down again.
	db, err := sql.Open("sqlite", dsn(o.Path, "mode=rw", sync, "_journal=WAL", "_pragma=journal_size_limit(67108864)", "_pragma=secure_delete(1)"))
	if err != nil {
		return nil, err
	}
	w := &writer{db: db, now: o.Now, log: o.Log.Named("ledger")}
	if w.tip, err = openTip(o.Path); err == nil {
		err = w.begin(ctx, o, version)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// begin brings the schema up to date and makes sure that the ledger can be written.
func (w *writer) begin(ctx context.Context, o Options, version int) (err error) {
	if w.conn, err = w.db.Conn(ctx); err != nil {
		return err
	}
	if err := migrate(ctx, w.conn, version, o.steps); err != nil {
		return err
	}
	if o.MaxPages > 0 {
		if _, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", o.MaxPages)); err != nil {
			return err
		}
	}
	// If the folder cannot be written, that shows here and not with the first task.
	for _, text := range []string{"BEGIN IMMEDIATE", "ROLLBACK"} {
		if _, err := w.conn.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	return w.prepare(ctx)
}

func (w *writer) prepare(ctx context.Context) error {
	for into, text := range map[**sql.Stmt]string{
		&w.beginTx:     `BEGIN IMMEDIATE`,
		&w.commitTx:    `COMMIT`,
		&w.countCommit: `UPDATE tip SET commits = ?, at_ms = ?`,
		&w.insertTask: `INSERT INTO task (seq, id, state, priority, pool_id, accepted_ms, replica_id, fingerprint, started_ms, start_order)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		&w.insertBody:  `INSERT INTO request (seq, task, sum) VALUES (?, ?, ?)`,
		&w.findSeq:     `SELECT id FROM task WHERE seq = ?`,
		&w.insertClaim: `INSERT INTO claim (owner, claimed_ms) VALUES (?, ?)`,
		&w.findLive:    liveTasks,
		&w.findAll:     everything + ` WHERE t.id = ?`,
		&w.findID:      `SELECT state, coalesce(last_event_id, '') FROM task WHERE id = ?`,
		&w.startTask: `UPDATE task SET state = 'running', replica_id = ?, fingerprint = ?, started_ms = coalesce(started_ms, ?), start_order = coalesce(start_order, ?)
			WHERE id = ? AND finished_ms IS NULL`,
		&w.markTask: `UPDATE task SET checkpoint_event = ?, checkpoint_sum = ? WHERE id = ? AND finished_ms IS NULL AND coalesce(checkpoint_event, -1) < ?`,
		&w.endTask: `UPDATE task SET state = ?, replica_id = ?, fingerprint = ?, started_ms = ?, finished_ms = ?, sealed_at = ?,
			last_event_id = ?, outcome = ?, proof_sum = ?, proof_bytes = ?, proof_keeps = ?, text_until_ms = ? WHERE seq = ? AND id = ? AND finished_ms IS NULL`,
		&w.insertText: `INSERT INTO transcript (seq, ends, text, marks, logprobs, sum) VALUES (?, ?, ?, ?, ?, ?)`,
		&w.keepSession: `INSERT INTO session (id, created_ms, ttl_ms, max_turns, turns, pool_id, replica_id, budget_tokens, budget_time_ms, budget_cost,
			budget_mj, explicit, spent_tokens, spent_time_ms, spent_cost) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0) ON CONFLICT DO UPDATE SET turns = excluded.turns`,
		&w.replaceSession: `DELETE FROM session WHERE id = ? AND created_ms <> ?`,
		&w.dropSession:    `DELETE FROM session WHERE id = ? AND created_ms = ?`,
		&w.chargeSession: `UPDATE session SET spent_tokens = spent_tokens + ?, spent_time_ms = spent_time_ms + ?, spent_cost = spent_cost + ?, spent_mj = spent_mj + ?,
			pool_id = coalesce(?, pool_id), replica_id = coalesce(?, replica_id) WHERE id = ?`,
		&w.spend: `INSERT INTO spending (account, window_ms, tokens, time_ms, cost, mj) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
			tokens = tokens + excluded.tokens, time_ms = time_ms + excluded.time_ms, cost = cost + excluded.cost, mj = mj + excluded.mj`,
		&w.forget:     `DELETE FROM spending WHERE window_ms < ?`,
		&w.findLine:   `SELECT ` + lineColumns + ` FROM batch b JOIN batch_line l ON l.batch = b.seq WHERE b.id = ? AND l.n = ?`,
		&w.changeLine: `UPDATE batch_line SET state = ?, tries = ?, outcome = ? WHERE batch = ? AND n = ?`,
		&w.insertLine: `INSERT INTO batch_line (batch, n, custom_id, at, bytes, state, tries, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
	} {
		stmt, err := w.conn.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		*into = stmt
	}
	return nil
}

// close closes the connection. SQLite copies the log of writes into the database when the last one closes.
func (w *writer) close() error {
	var err error
	for _, s := range []*sql.Stmt{
		w.beginTx, w.commitTx, w.countCommit, w.findAll, w.insertTask, w.insertBody, w.findSeq, w.findID, w.findLive, w.insertClaim, w.startTask, w.markTask, w.endTask, w.insertText,
		w.keepSession, w.replaceSession, w.dropSession, w.chargeSession, w.spend, w.forget,
		w.findLine, w.changeLine, w.insertLine,
	} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	if w.conn != nil {
		err = errors.Join(err, w.conn.Close())
	}
	return errors.Join(err, w.db.Close(), w.tip.close())
}

// last returns the greatest sequence number that a task had, and the last place in the order of starts.
func (w *writer) last(ctx context.Context) (seq uint64, place int64, err error) {
	err = w.conn.QueryRowContext(ctx, "SELECT (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'task'), "+
		"(SELECT coalesce(max(start_order), 0) FROM task WHERE finished_ms IS NULL)").Scan(&seq, &place)
	return seq, place, err
}

// claim records a claim and returns its fencing number.
func (w *writer) claim(owner string, now time.Time) (fence uint64, err error) {
	done, err := w.insertClaim.Exec(owner, entry.ToMS(now))
	if err != nil {
		return 0, err
	}
	last, err := done.LastInsertId()
	return uint64(last), err
}

// live returns the tasks without an outcome, as they are within this commit.
func (w *writer) live() ([]task.Record, error) {
	return records(w.findLive.Query())
}

// try runs a batch in one transaction. Either all of it is durable, or nothing is.
func (w *writer) try(batch []*op) error {
	counted, now := false, w.now()
	err := w.transaction(func() (err error) {
		for _, o := range batch {
			o.err = nil
			if err := o.run(w); refused(err) {
				o.err = err
			} else if err != nil {
				return err
			}
		}
		counted, err = w.count(batch, now)
		return err
	})
	if err == nil && counted {
		w.tell(batch, now, w.log)
	}
	return err
}

// refused reports whether an error is about one operation alone, and not about the database.
func refused(err error) bool {
	return errors.Is(err, ledger.ErrTaken) || errors.Is(err, ledger.ErrUnknown) || errors.Is(err, ledger.ErrEnded) || errors.Is(err, ledger.ErrLive)
}

// errBegin says that no operation of the batch is the cause, such as when another program holds the file.
var errBegin = errors.New("begin a commit")

func (w *writer) transaction(do func() error) error {
	if _, err := w.beginTx.Exec(); err != nil {
		return fmt.Errorf("%w: %w", errBegin, err)
	}
	err := do()
	if err == nil {
		_, err = w.commitTx.Exec()
	}
	if err != nil {
		// If SQLite has rolled back by itself, this fails, and that is fine.
		_, _ = w.conn.ExecContext(context.Background(), "ROLLBACK")
	}
	return err
}

// accept makes a task's entry if there is none; s is its first start, or nil. Text returns the task's JSON, and is called only then.
func (w *writer) accept(t task.Task, s *note.Start, text func() ([]byte, error)) error {
	state, replica, fingerprint, startedAt, place := task.Queued, any(nil), any(nil), any(nil), any(nil)
	if s != nil {
		state, replica, fingerprint, startedAt, place = task.Running, s.ReplicaID, s.Fingerprint, entry.ToMS(s.At), s.Place
	}
	line, err := w.lineOf(t)
	if err != nil {
		return err
	}
	done, err := w.insertTask.Exec(int64(t.Seq), t.ID, string(state), string(t.Request.Priority), t.PoolID, entry.ToMS(t.AcceptedAt),
		replica, fingerprint, startedAt, place)
	if err != nil {
		return err
	}
	n, err := done.RowsAffected()
	if err != nil {
		return err
	}
	if n == 1 {
		body, err := text()
		if err != nil {
			return err
		}
		if _, err = w.insertBody.Exec(int64(t.Seq), string(body), entry.TaskSum(t, body)); err == nil && t.Session != nil {
			err = w.session(*t.Session)
		}
		if err == nil && line != nil {
			line.State = task.LineFed
			err = w.setLine(line)
		}
		return err
	}
	var id string
	if err := w.findSeq.QueryRow(int64(t.Seq)).Scan(&id); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if id != t.ID {
		return ledger.ErrTaken
	}
	return nil
}

// render replaces what is recorded of a task's accept by the task as it is now, unless that is recorded already.
func (w *writer) render(t task.Task, body []byte) error {
	sum := entry.TaskSum(t, body)
	_, err := w.conn.ExecContext(context.Background(), `UPDATE request SET task = ?1, sum = ?2 WHERE seq = ?3 AND sum IS NOT ?2`, string(body), sum, int64(t.Seq))
	return err
}

func (w *writer) dispatch(d task.Dispatch, place int64) error {
	done, err := w.startTask.Exec(d.ReplicaID, d.Fingerprint, entry.ToMS(d.At), place, d.ID)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n == 1 {
		return err
	}
	state, _, err := w.find(d.ID)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: it is %s", ledger.ErrEnded, state)
}

func (w *writer) find(id string) (state task.State, last string, err error) {
	err = w.findID.QueryRow(id).Scan(&state, &last)
	return state, last, unknown(err)
}

// unknown turns the want of a row into ledger.ErrUnknown.
func unknown(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ledger.ErrUnknown
	}
	return err
}

// checkpoint does nothing if the task has ended or is unknown.
func (w *writer) checkpoint(id string, c task.Checkpoint) error {
	_, err := w.markTask.Exec(c.Event, c.Sum[:], id, c.Event)
	return err
}

// finish records an outcome. If the task has no entry, it makes one first: a task may be dropped from its queue before its accept
// is through. Rendered is the task's JSON where a run made its prompt, else nil.
func (w *writer) finish(r task.Record, outcome, rendered []byte) error {
	ended, err := w.end(r, outcome, rendered)
	if ended || err != nil {
		return err
	}
	if err := w.accept(r.Task, nil, func() ([]byte, error) { return entry.EncodeTask(r.Task) }); err != nil {
		return err
	}
	if ended, err := w.end(r, outcome, rendered); ended || err != nil {
		return err
	}
	state, last, err := w.find(r.Task.ID)
	if err != nil {
		return err
	}
	if state != r.State || last != r.LastEventID {
		return fmt.Errorf("%w: it is %s at event %s", ledger.ErrEnded, state, last)
	}
	return nil
}

// end records an outcome, the transcript and the charge. It does nothing and returns false if the task has an outcome, or no entry.
func (w *writer) end(r task.Record, outcome, rendered []byte) (bool, error) {
	p := entry.ToProof(r.Proof)
	done, err := w.endTask.Exec(string(r.State), entry.OrNull(r.ReplicaID), entry.OrNull(r.Fingerprint), entry.ToMS(r.StartedAt), entry.ToMS(r.FinishedAt),
		entry.OrNull(r.SealedAt), entry.OrNull(r.LastEventID), string(outcome), p.Sum, p.Bytes, p.Keeps, entry.TextUntil(r), int64(r.Task.Seq), r.Task.ID)
	if err != nil {
		return false, err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	if rendered != nil { // it may have ended before its new prompt was recorded, and its bundle is of that
		if err := w.render(r.Task, rendered); err != nil {
			return false, err
		}
	}
	ends := entry.EncodeEnds(r.Transcript.Ends)
	marks := entry.EncodeMarks(r.Transcript.Marks)
	logprobs := entry.EncodeLogprobs(r.Transcript.Logprobs)
	sum := entry.EndSum(int64(r.Task.Seq), r, p, outcome, ends, marks, logprobs.String)
	if _, err = w.insertText.Exec(int64(r.Task.Seq), ends, r.Transcript.Text, marks, logprobs, sum); err == nil && r.Charge != nil {
		err = w.charge(*r.Charge, r)
	}
	if err == nil {
		err = w.endOfLine(r)
	}
	return true, err
}
