// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/service/front/anthropic"
	"github.com/llama-orch/llama-orch/service/front/batch"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/openai"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// makeBatches makes what runs batches, and the fronts that show them, for the dialects that are served and have batches.
func (a *App) makeBatches(fronts map[string]gate.Front, common exchange.Options, chat *openai.Front, messages *anthropic.Front) (err error) {
	dialects := map[string]batch.Dialect{}
	if chat != nil {
		dialects["openai"] = chat
	}
	if messages != nil {
		dialects["anthropic"] = messages
	}
	if len(dialects) == 0 {
		return nil
	}
	c := a.o.Config
	a.feeder, err = batch.New(batch.Options{
		Tasks: a.tasks, Records: batchRecords{a.ledger}, Store: batchStore{a.artifacts}, Dialects: dialects,
		NewID: func() string { return strings.ReplaceAll(uuid.NewString(), "-", "") },
		Feed:  c.Fronts.Feed, FileBytes: int64(c.Limits.FileBytes), LineBytes: int64(c.Limits.BodyBytes), Retain: c.Ledger.RetainAge,
		Log: a.o.Log, Registerer: a.registry, Now: time.Now,
	})
	if err != nil {
		return err
	}
	if chat != nil {
		front := batch.NewOpenAI(a.feeder, common, openai.Endpoints, chat.Refuse)
		mount(fronts, front, front.Paths())
	}
	if messages != nil {
		front := batch.NewAnthropic(a.feeder, common, anthropic.MessagesPath, messages.Refuse)
		mount(fronts, front, front.Paths())
	}
	return nil
}

// batchRecords is the ledger, as batches use it.
type batchRecords struct{ *sqlite.Ledger }

// KeepBatch implements batch.Records.
func (r batchRecords) KeepBatch(ctx context.Context, b task.BatchRecord, lines []task.Line) error {
	return worded(r.Ledger.KeepBatch(ctx, b, lines), "the file of the batch")
}

// DropFile implements batch.Records.
func (r batchRecords) DropFile(ctx context.Context, id string) error {
	return worded(r.Ledger.DropFile(ctx, id), "the file")
}

// Batches implements batch.Records.
func (r batchRecords) Batches(ctx context.Context, f task.BatchFilter) ([]task.BatchRecord, error) {
	found, err := r.Ledger.Batches(ctx, f)
	return found, worded(err, "the batch before or behind which the list is to be")
}

// DropBatch implements batch.Records.
func (r batchRecords) DropBatch(ctx context.Context, id string, at time.Time) error {
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

// batchStore is the store of artifacts, as batches use it.
type batchStore struct{ *artifact.Store }

// batchTag marks the artifacts of batches, which are removed with them.
const batchTag = "batch"

// Put implements batch.Store.
func (s batchStore) Put(ctx context.Context, name string, r io.Reader, most int64) (string, int64, error) {
	e, err := s.PutUpTo(ctx, artifact.Meta{
		Kind: artifact.KindOther, MediaType: "application/jsonl", Tags: []string{batchTag}, Metadata: map[string]string{"filename": strings.ToValidUTF8(name, "\uFFFD")},
	}, r, most)
	return e.ID, e.Size, err
}

// Open implements batch.Store.
func (s batchStore) Open(id string) (io.ReadSeekCloser, error) {
	_, in, err := s.Store.Open(id)
	return in, err
}

// Has implements batch.Store.
func (s batchStore) Has(id string) bool {
	_, err := s.Get(id)
	return err == nil
}

// Remove implements batch.Store.
func (s batchStore) Remove(id string) error { return s.Store.Remove(id, batchTag) }
