// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// floorMain is the reverse proxy with the least that makes its answers durable tasks: each is accepted in the daemon's ledger before its first byte
// leaves, and its end is recorded before the end leaves. There is no queue, no placement, no API and no log. So it says what a durable task
// can cost at best. Its arguments are the target and the data folder.
func floorMain(args []string) (err error) {
	target, err := url.Parse(args[0])
	if err != nil {
		return fmt.Errorf("the target: %w", err)
	}
	record, err := sqlite.Open(sqlite.Options{Path: filepath.Join(args[1], sqlite.FileName)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, record.Close()) }()
	p := reverse(target)
	p.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodPost {
			t, err := acceptOne(r.Request, record)
			if err != nil {
				return err
			}
			r.Body = &recorded{ReadCloser: r.Body, ctx: r.Request.Context(), task: t, in: record}
		}
		return nil
	}
	return serve(whole(p))
}

// acceptOne records a task. The engine works meanwhile, as it does in the daemon where a slot is free.
func acceptOne(r *http.Request, in ledger.Ledger) (task.Task, error) {
	seq, err := in.NextSeq()
	if err != nil {
		return task.Task{}, err
	}
	t := entry(seq, time.Now())
	return t, in.AcceptRunning(r.Context(), t, task.Dispatch{ID: t.ID, ReplicaID: "bench-0", Fingerprint: "f", At: t.AcceptedAt})
}

// recorded is an answer whose end is recorded before somebody sees it.
type recorded struct {
	io.ReadCloser

	ctx  context.Context
	task task.Task
	in   ledger.Ledger
	done bool
}

// Read holds back the end, until it is recorded.
func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err == io.EOF && !r.done {
		r.done = true
		if failed := r.in.Finish(r.ctx, outcome(r.task, length)); failed != nil {
			return n, failed
		}
	}
	return n, err
}
