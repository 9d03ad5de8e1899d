// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
)

// Records is what a Library asks of the ledger.
type Records interface {
	Get(ctx context.Context, id string) (task.Record, bool, error)
	// List returns finished tasks, the last accepted first, without the text of their transcripts.
	List(ctx context.Context, state task.State, limit int) ([]task.Record, error)
	// Proven returns the task whose proof bundle has this SHA-256.
	Proven(ctx context.Context, sum [32]byte) (task.Record, bool, error)
}

// Library shows the store's artifacts together with the proof bundles of the tasks in the ledger (OC-CTRL-2067). A bundle is made
// when somebody reads it. If the store has a bundle as well, the store's entry counts.
type Library struct {
	store   *Store
	records Records
	log     *zap.Logger
}

// NewLibrary joins a store and a ledger.
func NewLibrary(s *Store, r Records) *Library {
	l := &Library{store: s, records: r, log: s.log}
	s.elsewhere = func(ctx context.Context, id string) (bool, error) {
		_, ok, err := l.proven(ctx, id)
		return ok, err
	}
	return l
}

// Put stores an artifact, as Store.Put does. Its parent may be a proof bundle.
func (l *Library) Put(ctx context.Context, m Meta, r io.Reader) (Entry, error) {
	return l.store.Put(ctx, m, r)
}

// Get returns the entry with this id. NOT_FOUND, INVALID_PARAMS.
func (l *Library) Get(ctx context.Context, id string) (Entry, error) {
	e, err := l.store.Get(id)
	if !task.HasCode(err, task.NotFound) {
		return e, err
	}
	r, ok, failed := l.proven(ctx, id)
	switch {
	case failed != nil:
		return Entry{}, failed
	case !ok:
		return Entry{}, err
	}
	return entryOf(r), nil
}

// Open opens an artifact's bytes for reading. NOT_FOUND, INVALID_PARAMS. A bundle comes from the record of its task as long as that is there: the
// record gives the bytes of its digest, and the store's folder may be another one since, or damaged.
func (l *Library) Open(ctx context.Context, id string) (Entry, io.ReadSeekCloser, error) {
	e, content, err := l.store.Open(id)
	if task.HasCode(err, task.InvalidParams) || err == nil && e.Kind != KindProof {
		return e, content, err
	}
	stored, missing := err == nil, task.HasCode(err, task.NotFound)
	r, ok, failed := l.proven(ctx, id)
	if failed == nil && ok {
		var text []byte
		if text, failed = l.text(r); failed == nil {
			if stored {
				_ = content.Close() // nothing was written
			} else {
				e = entryOf(r)
			}
			return e, made{bytes.NewReader(text)}, nil
		}
	}
	if missing && failed != nil {
		return Entry{}, nil, failed
	}
	return e, content, err
}

// text makes the bundle of a record, or says that it does not give that any more.
func (l *Library) text(r task.Record) ([]byte, error) {
	text, err := bundle.Text(r)
	if err != nil {
		l.store.metrics.damaged.Inc()
		l.log.Warn("a proof bundle is not the one that was recorded", zap.String("job_id", r.Task.ID), zap.Error(err))
		return nil, task.Errorf(task.Internal,
			"the record of task %s does not give its proof bundle any more: run `orchestratord ledger check` on the server, which says what is damaged",
			r.Task.ID).Because(err)
	}
	return text, nil
}

// made is the content of a bundle that was made for one reader.
type made struct{ *bytes.Reader }

func (made) Close() error { return nil }

// List returns the entries that f takes, newest first.
func (l *Library) List(ctx context.Context, f Filter) ([]Entry, error) {
	found := l.store.List(f)
	proofs, err := l.proofs(ctx, f)
	if err != nil {
		return nil, err
	}
	stored := map[string]bool{}
	for _, e := range found {
		stored[e.ID] = true
	}
	for _, e := range proofs {
		if _, err := l.store.Get(e.ID); err != nil && !stored[e.ID] {
			found = append(found, e)
		}
	}
	slices.SortStableFunc(found, func(a, b Entry) int { return inOrder(&b, &a) })
	if f.Limit > 0 {
		found = found[:min(f.Limit, len(found))]
	}
	return found, nil
}

// proofs returns the bundles that f takes, of the tasks in the ledger.
func (l *Library) proofs(ctx context.Context, f Filter) (found []Entry, err error) {
	state, ok := outcomeOf(f.Tag)
	if !ok || f.Kind != "" && f.Kind != KindProof {
		return nil, nil
	}
	var records []task.Record
	if f.TaskID != "" {
		r, ok, failed := l.records.Get(ctx, f.TaskID)
		if err = failed; ok {
			records = append(records, r)
		}
	} else {
		limit := f.Limit
		if limit <= 0 {
			limit = maxListed
		}
		records, err = l.records.List(ctx, state, limit)
	}
	if err != nil {
		return nil, unreadable(err)
	}
	for _, r := range records {
		if e := entryOf(r); r.Proof.SHA256 != [32]byte{} && f.takes(&e) {
			found = append(found, e)
		}
	}
	return found, nil
}

// maxListed is the limit of a list whose filter has none.
const maxListed = 10_000

const outcomeTag = "outcome:"

// outcomeOf is the outcome that a filter's tag asks for, empty if it asks for every one. It returns false if no bundle has the tag.
func outcomeOf(tag string) (task.State, bool) {
	state, ok := strings.CutPrefix(tag, outcomeTag)
	return task.State(state), tag == "" || ok && task.State(state).Final()
}

// entryOf is a task's bundle as an artifact.
func entryOf(r task.Record) Entry {
	at := r.FinishedAt.UTC()
	return Entry{
		ID:   idPrefix + hex.EncodeToString(r.Proof.SHA256[:]),
		Meta: metaOf(r),
		Size: int64(r.Proof.Size), CreatedAt: at, RenewedAt: at,
	}
}

func metaOf(r task.Record) Meta {
	return Meta{Kind: KindProof, MediaType: proof.MediaType, TaskID: r.Task.ID, Tags: []string{outcomeTag + string(r.State)}}
}

// proven returns the task whose bundle has this id.
func (l *Library) proven(ctx context.Context, id string) (task.Record, bool, error) {
	var sum [32]byte
	if _, err := hex.Decode(sum[:], []byte(strings.TrimPrefix(id, idPrefix))); err != nil {
		return task.Record{}, false, invalid("%q is no artifact's id: it is sha256- and 64 hexadecimal digits", task.Clip(id, maxQuote))
	}
	r, ok, err := l.records.Proven(ctx, sum)
	if err != nil {
		return r, false, unreadable(err)
	}
	return r, ok, nil
}

func unreadable(err error) error {
	if task.HasCode(err, task.Internal) { // a damaged record, and the error says what to do
		return err
	}
	return task.Errorf(task.LedgerUnavailable,
		"the record of tasks cannot be read: try again in a moment; the orchestrator's log has the cause").Because(err)
}

// ForgetBundles removes what is stored of a task's proof bundles, and reports whether there was any (LO-832). What clients stored about the
// task stays theirs.
func (s *Store) ForgetBundles(ctx context.Context, taskID string) (found bool, err error) {
	done, err := s.begin()
	if err != nil {
		return false, err
	}
	defer done()
	for _, e := range s.List(Filter{Kind: KindProof, TaskID: taskID}) {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		freed, err := s.remove(e.ID, forOwner, func(now *Entry) bool { return now.Kind == KindProof && now.TaskID == taskID })
		if err != nil {
			return found, fmt.Errorf("remove the proof bundle of task %s: %w", taskID, err)
		}
		found = found || freed > 0
	}
	return found, nil
}

// KeepBundles stores the bundles of tasks that the ledger is about to forget. It passes over tasks without a bundle, and over
// those whose record no longer gives the bundle that it has the digest of.
func (s *Store) KeepBundles(ctx context.Context, forgotten []task.Record) error {
	for _, r := range forgotten {
		text, err := bundle.Text(r)
		switch {
		case errors.Is(err, bundle.ErrNone):
			continue
		case err != nil:
			s.log.Warn("a task is forgotten with its proof bundle, which its record does not give any more", zap.String("job_id", r.Task.ID), zap.Error(err))
			continue
		}
		if _, err := s.Put(ctx, metaOf(r), bytes.NewReader(text)); err != nil {
			return fmt.Errorf("keep the proof bundle of task %s: %w", r.Task.ID, err)
		}
	}
	return nil
}
