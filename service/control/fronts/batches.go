// SPDX-License-Identifier: GPL-3.0-or-later

package fronts

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/task"
)

// records is the ledger, as batches use it.
type records struct{ ledger.Ledger }

// KeepBatch implements batch.Records.
func (r records) KeepBatch(ctx context.Context, b task.BatchRecord, lines []task.Line) error {
	return worded(r.Ledger.KeepBatch(ctx, b, lines), "the file of the batch")
}

// DropFile implements batch.Records.
func (r records) DropFile(ctx context.Context, id string) error {
	return worded(r.Ledger.DropFile(ctx, id), "the file")
}

// Files implements batch.Records.
func (r records) Files(ctx context.Context, f task.FileFilter) ([]task.Listed, error) {
	found, err := r.Ledger.Files(ctx, f)
	return found, worded(err, "the file behind which the list is to be")
}

// Batches implements batch.Records.
func (r records) Batches(ctx context.Context, f task.BatchFilter) ([]task.BatchRecord, error) {
	found, err := r.Ledger.Batches(ctx, f)
	return found, worded(err, "the batch before or behind which the list is to be")
}

// DropBatch implements batch.Records.
func (r records) DropBatch(ctx context.Context, id string, at time.Time) error {
	return worded(r.Ledger.DropBatch(ctx, id, at), "the batch")
}

// worded makes of what the ledger refuses what clients are told.
func worded(err error, what string) error {
	switch {
	case errors.Is(err, ledger.ErrUnknown):
		return task.Errorf(task.NotFound, "%s is not there, or not any more", what).Because(err)
	case errors.Is(err, ledger.ErrLive):
		return task.Errorf(task.Conflict, "%s is in use by a batch that has not ended", what).Because(err)
	}
	return err
}

// store is the store of artifacts, as batches use it.
type store struct{ *artifact.Store }

// batchTag marks the artifacts of batches, which are removed with them.
const batchTag = "batch"

// Put implements batch.Store.
func (s store) Put(ctx context.Context, name string, r io.Reader, most int64) (string, int64, error) {
	e, err := s.PutUpTo(ctx, artifact.Meta{
		Kind: artifact.KindOther, MediaType: "application/jsonl", Tags: []string{batchTag}, Metadata: map[string]string{"filename": strings.ToValidUTF8(name, "\uFFFD")},
	}, r, most)
	return e.ID, e.Size, err
}

// Open implements batch.Store.
func (s store) Open(id string) (io.ReadSeekCloser, error) {
	_, in, err := s.Store.Open(id)
	return in, err
}

// Has implements batch.Store.
func (s store) Has(id string) bool {
	_, err := s.Get(id)
	return err == nil
}

// Remove implements batch.Store.
func (s store) Remove(id string) error { return s.Store.Remove(id, batchTag) }
