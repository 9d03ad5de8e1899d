// SPDX-License-Identifier: GPL-3.0-or-later

// Package engine says what the orchestrator needs of an inference engine: a small Engine, and faces that only some have. One
// sub-package for each kind of engine implements it, and enginetest holds every implementation to what is promised here.
package engine

import (
	"context"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Engine is one replica's engine, reached over HTTP. Several goroutines may call its methods. An error is a *task.Error: INVALID_PARAMS
// if the engine refused the request, POLICY_DENIED if the policy about outbound calls refused it, WORKER_RESET (retriable) if the connection broke
// or the engine failed. If the caller ended the call, it wraps the error of the context.
type Engine interface {
	// Health returns nil when the model is loaded and the engine answers.
	Health(ctx context.Context) error
	// Props reads what the engine says of itself.
	Props(ctx context.Context) (Props, error)
	// Generate decodes a completion and calls emit for every piece, in order, from the goroutine that reads the engine's
	// socket: of the answer, of the thinking, or of a tool call. A piece's text is whole runes; what ends within a rune is held
	// back and joined to the next. When emit returns an error, or ctx ends, the connection is closed, which makes the engine
	// stop, and Generate returns that error.
	Generate(ctx context.Context, job Job, emit func(task.Piece) error) (Result, error)
}

// Props are an engine's own figures.
type Props struct {
	Build  string // build or version string
	System string // what the engine says of the processor it runs on, which can change bytes; empty: nothing
	Ctx    int    // tokens a slot's context holds
	Slots  int
	// Features are what the engine and its model can do of what only some can.
	Features []task.Feature
}

// Job is one run of a task.
type Job struct {
	Workload task.Workload
	Prompt   string // after templating; of a chat it may be empty, and then the engine makes it
	// Messages are the turns of a chat, and Chat what is asked besides them; nil: nothing. Where there is a prompt, it was made of them.
	Messages []task.Message
	Chat     *task.Chat
	// RenderedOn is when Prompt was made: the template may have printed that day's date. Zero: nobody knows.
	RenderedOn time.Time
	// CallID names the calls of tools, by their numbers from 0. Nil: they get no ids.
	CallID func(n int) string
	// Rendered is called before the first piece where the engine makes another prompt of the messages than Prompt. Its error ends the run;
	// else the new prompt is decoded. Nil: nobody minds.
	Rendered func(prompt string) error
	// Sent is what an earlier run has generated of the answer, SentThinking what it has thought before that, in SentTokens tokens. Generate goes on behind it
	// and emits what follows; MaxTokens and the Result count both. Only a Continuer takes it. SentTokens 0: it generates from the beginning.
	Sent, SentThinking string
	SentTokens         int
	PromptTokens       int // as a TokenCounter said; 0: unknown, so the engine counts itself where the number matters
	Inputs             []string
	Seed               uint32
	Sampling           task.Sampling
	MaxTokens          int // 0: as many as the context holds
	Reuse              Reuse
	// Cached is called before the first token, with how many tokens of the prompt came from that KV. Nil: nobody asks.
	Cached func(tokens int)
	// Progress is called whenever the engine tells that it is further with the prompt, if it can tell. Nil: nobody asks.
	Progress func()
}

// Reuse is what a job may take from the KV that its slot holds.
type Reuse int

// What it may take.
const (
	ReuseNothing Reuse = iota
	// ReuseExact: what is certain to give the bytes of a cold start. An engine that knows of no such KV starts cold (LO-206).
	ReuseExact
	// ReuseAny: whatever fits. The bytes then depend on what ran before.
	ReuseAny
)

// Result is what an engine reports when a job is done.
type Result struct {
	TokensIn  int
	TokensOut int
	Prefill   time.Duration
	Decode    time.Duration
	Finish    task.FinishReason
	Slot      int // where it ran, or NoSlot
	Cells     int // tokens that the slot's KV then held; 0: that is not known
	Cached    int // tokens of the prompt that were there already, at most TokensIn
	// Left says that the engine was left before its own end. It may need a moment to notice, in which the slot is still busy.
	Left bool
}

// NoSlot is the Slot of a Result where the engine has not told it, which it need not where it was left, and where nothing had to be computed.
const NoSlot = -1

// Slot is one slot of an engine.
type Slot struct {
	ID    int
	Busy  bool
	Job   int   // a number of its last job, if Told
	Told  bool  // the engine tells it
	Bytes int64 // of its KV; 0: not told
}
