// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// batchLines is how many lines the measured batch has.
const batchLines = 10_000

// brief is a task of 50 ms.
const brief = "rate=200 tokens=10"

// batches measures how long a batch of many lines takes to be accepted, and what it costs interactive tasks: the time from a submit to its first
// token, at a pool with one slot, without a batch and with one that is accepted and waits or runs meanwhile.
func (l *lab) batches() (err error) {
	d, err := l.serve("batcher", l.exe, filepath.Join(l.disk, "batch"), narrow(l.stub))
	if err != nil {
		return err
	}
	defer d.Kill() // nobody waits for the batch
	if _, err := l.answers(d, "/readyz"); err != nil {
		return err
	}
	w := newWay("daemon", d.url(), d, asTask)
	file, err := uploadLines(l.ctx, w, batchLines)
	if err != nil {
		return err
	}
	rounds, window := 3, 8*time.Second
	if l.quick {
		rounds, window = 1, 4*time.Second
	}
	fmt.Fprintf(l.out, "\n### A batch of %d lines beside interactive tasks of 50 ms, one slot\n\n%d rounds; load average %s\n\n", batchLines, rounds, loadAverage())
	fmt.Fprintln(l.out, "| clients | accepted in, s | p50 wait without, ms | with, ms | p99 wait without, ms | with, ms | with / without |")
	fmt.Fprintln(l.out, "|---|---:|---:|---:|---:|---:|---:|")
	for _, load := range []struct {
		name    string
		clients int
		pause   time.Duration
	}{{"4, so that some always wait", 4, 0}, {"1, which pauses for 100 ms", 1, 100 * time.Millisecond}} {
		var alone, beside []time.Duration
		var accepted []float64
		for range rounds {
			took, err := firstTokens(l.ctx, w, load.clients, load.pause, window)
			if err != nil {
				return err
			}
			alone = append(alone, took...)
			id, within, err := startBatch(l.ctx, w, file, func() error {
				took, err := firstTokens(l.ctx, w, load.clients, load.pause, window)
				beside = append(beside, took...)
				return err
			})
			if err != nil {
				return err
			}
			accepted = append(accepted, within.Seconds())
			if err := endBatch(l.ctx, w, id); err != nil {
				return err
			}
		}
		ms := func(of []time.Duration, p int) float64 { return percentile(of, p).Seconds() * 1e3 }
		fmt.Fprintf(l.out, "| %s | %.2f | %.1f | %.1f | %.1f | %.1f | %.2f |\n", load.name, median(accepted), ms(alone, 50), ms(beside, 50), ms(alone, 99), ms(beside, 99),
			ms(beside, 99)/ms(alone, 99))
	}
	return nil
}

// firstTokens are the times that clients wait for the first token of their tasks. Each client sends the next one when the one before has ended.
func firstTokens(ctx context.Context, w *way, clients int, pause, window time.Duration) (took []time.Duration, err error) {
	var mu sync.Mutex
	var running sync.WaitGroup
	for began := time.Now(); clients > 0; clients-- {
		running.Go(func() {
			for time.Since(began) < window {
				asked := time.Now()
				body, failed := asTask(ctx, w, brief)
				var first time.Duration
				if failed == nil {
					_, failed = follow(body, &meter{}, func() { first = time.Since(asked) })
					failed = errors.Join(failed, body.Close())
				}
				mu.Lock()
				took, err = append(took, first), errors.Join(err, failed)
				mu.Unlock()
				if failed != nil {
					return
				}
				time.Sleep(pause)
			}
		})
	}
	running.Wait()
	return took, err
}

// called reads the object that a call is answered with.
func called(ctx context.Context, w *way, method, path string, body any) (got struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}, err error,
) {
	answer, err := w.send(ctx, method, path, body, http.StatusOK)
	if err != nil {
		return got, err
	}
	err = json.NewDecoder(answer).Decode(&got)
	_, _ = io.Copy(io.Discard, answer) // so that the connection can be used again
	return got, errors.Join(err, answer.Close())
}

// uploadLines sends a file of completions, and returns its id.
func uploadLines(ctx context.Context, w *way, n int) (id string, err error) {
	var form bytes.Buffer
	to := multipart.NewWriter(&form)
	file, err := to.CreateFormFile("file", "bench.jsonl")
	if err != nil {
		return "", fmt.Errorf("write a form: %w", err)
	}
	for i := range n {
		fmt.Fprintf(file, `{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"model":"bench","prompt":%q,"max_tokens":%d}}`+"\n", i, brief, most)
	}
	if err = errors.Join(to.WriteField("purpose", "batch"), to.Close()); err != nil {
		return "", fmt.Errorf("write a form: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/v1/files", &form)
	if err != nil {
		return "", fmt.Errorf("make a request: %w", err)
	}
	r.Header.Set("Content-Type", to.FormDataContentType())
	answer, err := w.client.Do(r)
	if err != nil {
		return "", fmt.Errorf("send a file: %w", err)
	}
	defer answer.Body.Close()
	var got struct {
		ID string `json:"id"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&got); err != nil || got.ID == "" {
		return "", errors.Join(fmt.Errorf("the file is answered with %d", answer.StatusCode), err)
	}
	return got.ID, nil
}

// startBatch makes a batch of a file and runs beside while it is accepted and goes on. It returns how long the batch took until all of its lines were recorded.
func startBatch(ctx context.Context, w *way, file string, beside func() error) (id string, within time.Duration, err error) {
	done := make(chan error, 1)
	began := time.Now()
	got, err := called(ctx, w, http.MethodPost, "/v1/batches", map[string]any{"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"})
	if err != nil {
		return "", 0, err
	}
	go func() { done <- beside() }() // joined below
	err = batchBecomes(ctx, w, got.ID, "in_progress")
	within = time.Since(began)
	return got.ID, within, errors.Join(err, <-done)
}

func endBatch(ctx context.Context, w *way, id string) error {
	if _, err := called(ctx, w, http.MethodPost, "/v1/batches/"+id+"/cancel", map[string]any{}); err != nil {
		return err
	}
	return batchBecomes(ctx, w, id, "cancelled")
}

func batchBecomes(ctx context.Context, w *way, id, status string) error {
	for until := time.Now().Add(watch.Patience); ; time.Sleep(5 * time.Millisecond) {
		got, err := called(ctx, w, http.MethodGet, "/v1/batches/"+id, nil)
		if err != nil || got.Status == status {
			return err
		}
		if time.Now().After(until) {
			return fmt.Errorf("batch %s is %s, and should be %s", id, got.Status, status)
		}
	}
}
