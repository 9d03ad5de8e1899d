// SPDX-License-Identifier: GPL-3.0-or-later

// Package engine says what the orchestrator needs of an inference engine. One sub-package per engine implements it.
package engine

import (
	"context"
	"encoding/json"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Engine is one replica's engine, reached over HTTP. Its methods may be called from several goroutines. Errors are
// *task.Error: INVALID_PARAMS for what the engine refused, WORKER_RESET (retriable) when the connection broke or the
// engine failed, and the context's error, wrapped, when the caller ended the call.
type Engine interface {
	// Health returns nil when the model is loaded and the engine answers.
	Health(ctx context.Context) error
	// Props reads what the engine says of itself.
	Props(ctx context.Context) (Props, error)
	// CountTokens counts the prompt's tokens as Generate would see them, BOS included.
	CountTokens(ctx context.Context, prompt string) (int, error)
	// ApplyTemplate turns chat turns into a prompt with the model's own template.
	ApplyTemplate(ctx context.Context, messages []task.Message) (string, error)
	// Generate decodes and calls emit for every token, in order, from the goroutine that reads the engine's socket. Text
	// is whole runes; a token whose bytes end within a rune is held back and joined to the next. When emit returns an
	// error, or ctx ends, the connection is closed, which makes the engine stop, and Generate returns that error.
	Generate(ctx context.Context, job Job, emit func(text string) error) (Result, error)
	// Answer runs an embedding or rerank job; its answer is the `result` of the task's `end` event.
	Answer(ctx context.Context, job Job) (json.RawMessage, Result, error)
	// Busy counts the engine's busy slots.
	Busy(ctx context.Context) (int, error)
}

// Props are an engine's own figures.
type Props struct {
	Build  string // build or version string
	System string // what the engine says of the processor it runs on, which can change bytes; empty: nothing
	Ctx    int    // tokens a slot's context holds
	Slots  int
}

// Job is one generation.
type Job struct {
	Workload     task.Workload
	Prompt       string // after templating
	PromptTokens int    // as CountTokens said; 0: unknown, Generate counts itself
	Inputs       []string
	Seed         uint32
	Sampling     task.Sampling
	MaxTokens    int // 0: as many as the context holds
	// CachePrompt lets the engine reuse the KV of an earlier prompt. Never for strict tasks: the bytes would depend on
	// what ran before.
	CachePrompt bool
	// Cached is told, before the first token, how many tokens of the prompt came from that KV. Nil: nobody asks.
	Cached func(tokens int)
}

// Result is what an engine reports when a job is done.
type Result struct {
	TokensIn  int
	TokensOut int
	Prefill   time.Duration
	Decode    time.Duration
	Finish    task.FinishReason
	Slot      int // where it ran
	Cells     int // tokens that the slot's KV then held
	Cached    int // tokens of the prompt that were there already
}

// Keeper is an Engine that tells what its slots hold, and empties them.
type Keeper interface {
	Slots(ctx context.Context) ([]Slot, error)
	// Erase forgets what a slot holds.
	Erase(ctx context.Context, slot int) error
}

// Slot is one slot of an engine.
type Slot struct {
	ID    int
	Busy  bool
	Job   int   // a number of its last job, where Told
	Told  bool  //
	Bytes int64 // of its KV; 0: not told
}
