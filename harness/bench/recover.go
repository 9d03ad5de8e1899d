// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// recovery measures starts of a daemon with a long record, each after a `kill -9` of the daemon before.
func (l *lab) recovery() error {
	finished, queued, starts := 100_000, 10_000, 5
	if l.quick {
		finished, queued, starts = 10_000, 1000, 1
	}
	data := filepath.Join(l.disk, "recover")
	begun := time.Now()
	if err := fill(l.ctx, data, finished, queued); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(data, sqlite.FileName))
	if err != nil {
		return fmt.Errorf("look at the ledger: %w", err)
	}
	fmt.Fprintf(l.out, "\n### Start with %d finished and %d queued tasks\n\nledger of %.0f MB, written in %.0f s; %d starts each; load average %s\n\n",
		finished, queued, float64(info.Size())/1e6, time.Since(begun).Seconds(), starts, loadAverage())
	fmt.Fprintln(l.out, "| | serving after, s | a pool ready after, s | RSS, MB |\n|---|---:|---:|---:|")
	for _, c := range []struct {
		name  string
		evict bool
	}{{"ledger in the page cache", false}, {"ledger not in the page cache", true}} {
		var serving, ready, memory []float64
		for range starts {
			if c.evict {
				if err := evict(data); err != nil {
					return err
				}
			}
			s, r, rss, err := l.restart(data, queued)
			if err != nil {
				return err
			}
			serving, ready, memory = append(serving, s.Seconds()), append(ready, r.Seconds()), append(memory, float64(rss)/1e6)
		}
		fmt.Fprintf(l.out, "| %s | %.2f | %.2f | %.0f |\n", c.name, median(serving), median(ready), median(memory))
	}
	return nil
}

// restart starts a daemon, checks that it has the queue, and kills it.
func (l *lab) restart(data string, queued int) (serving, ready time.Duration, rss int64, err error) {
	d, err := l.serve("recoverer", l.exe, data, narrow(l.stub))
	if err != nil {
		return 0, 0, 0, err
	}
	defer d.Kill()
	if serving, err = l.answers(d, "/healthz"); err != nil {
		return 0, 0, 0, err
	}
	if ready, err = l.answers(d, "/readyz"); err != nil {
		return 0, 0, 0, err
	}
	depth, err := series(d, "queue_depth", "")
	if err == nil && int(depth) != queued && int(depth) != queued-1 { // one may already have been dispatched
		err = fmt.Errorf("%d tasks should be queued, and %.0f are", queued, depth)
	}
	rss, _ = d.rss()
	return serving, ready, rss, err
}

// fill writes a ledger: every eleventh task has no outcome.
func fill(ctx context.Context, dir string, finished, queued int) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	record, err := sqlite.Open(sqlite.Options{Path: filepath.Join(dir, sqlite.FileName)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, record.Close()) }()
	now := time.Now()
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(1024) // share a commit
	every := (finished + queued) / queued
	for seq := 1; seq <= finished+queued; seq++ {
		all.Go(func() error {
			t := entry(uint64(seq), now.Add(time.Duration(seq-finished-queued)*100*time.Millisecond))
			if seq%every == 0 {
				return record.Accept(ctx, t)
			}
			return record.Finish(ctx, outcome(t, 30))
		})
	}
	return all.Wait()
}

func entry(seq uint64, at time.Time) task.Task {
	body := sha256.Sum256(fmt.Append(nil, seq))
	return task.Task{
		ID: hex.EncodeToString(body[:16]), Seq: seq, PoolID: "bench", Engine: task.LlamaCpp, EngineVersion: "stub", ModelID: "bench",
		Prompt: "hold", PromptTokens: 3, Seed: uint32(seq), Determinism: task.Strict, RequestDigest: hex.EncodeToString(body[:]), AcceptedAt: at,
		Request: task.Request{
			ModelRef: "bench", Workload: task.Completion, Priority: task.Interactive, Prompt: "hold", BodySHA256: body,
			Placement: task.Placement{Mode: task.Auto},
		},
	}
}

// outcome returns the outcome of so many tokens: a haiku has 30.
func outcome(t task.Task, tokens int) task.Record {
	r := task.Record{
		Task: t, State: task.Completed, ReplicaID: "bench-0", Fingerprint: "f", StartedAt: t.AcceptedAt, FinishedAt: t.AcceptedAt.Add(time.Second),
		SealedAt: "30-00000000", LastEventID: "31-00000000", Transcript: task.Transcript{Text: strings.Repeat("rain ", tokens)},
	}
	for i := range tokens {
		r.Transcript.Ends = append(r.Transcript.Ends, 5*(i+1))
	}
	sum := sha256.Sum256([]byte(r.Transcript.Text))
	r.End = &task.End{
		TokensIn: 3, TokensOut: tokens, DecodeTimeMS: 900, FinishReason: task.FinishStop,
		Receipt: task.Receipt{Seed: t.Seed, Determinism: task.Strict, Fingerprint: "f", RequestDigest: t.RequestDigest, TranscriptSHA256: hex.EncodeToString(sum[:])},
	}
	return r
}

// evict has the kernel drop the ledger's pages, which are on the disk.
func evict(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, sqlite.FileName+"*"))
	if err != nil {
		return fmt.Errorf("find the ledger: %w", err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("open the ledger: %w", err)
		}
		err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
		if err != nil {
			return fmt.Errorf("evict the ledger: %w", err)
		}
	}
	return nil
}
