// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"encoding/json"
	"time"
)

// Workload is what a task asks an engine to do (ORCH-3054).
type Workload string

// The workloads. A completion streams tokens; the answers of the others are the `result` of their `end` event.
const (
	Completion Workload = "completion"
	Embedding  Workload = "embedding"
	Rerank     Workload = "rerank"
	// Opaque is a request that is passed to an engine as it is (LO-467). Its task is not recorded.
	Opaque Workload = "opaque"
)

// Priority orders a pool's queue (ORCH-3004).
type Priority string

// The priorities. Interactive tasks leave the queue before batch tasks.
const (
	Interactive Priority = "interactive"
	Batch       Priority = "batch"
)

// Determinism is the promise made for a task's bytes (LO-204, LO-205).
type Determinism string

// Strict promises the same bytes for the same fingerprint and request digest. BestEffort promises nothing. Unset lets the orchestrator choose:
// strict if a single-slot replica exists.
const (
	Unset      Determinism = ""
	Strict     Determinism = "strict"
	BestEffort Determinism = "best_effort"
)

// PlacementMode says how binding a task's wish for a pool is (OC-CTRL-2013).
type PlacementMode string

// The placement modes.
const (
	Auto   PlacementMode = "auto"
	Prefer PlacementMode = "prefer"
	Pin    PlacementMode = "pin"
)

// OnDisconnect says what becomes of a task when its last reader goes away and stays away (LO-201).
type OnDisconnect string

// Continue lets the task run on without its client; CancelIt cancels it.
const (
	Continue OnDisconnect = "continue"
	CancelIt OnDisconnect = "cancel"
)

// KVCold is the hint of a task that wants to start cold.
const KVCold = "cold"

// MaxSeed is the largest seed. llama.cpp reads the next value, 2^32-1, as "choose one".
const MaxSeed = 1<<32 - 2

// Params are the sampling parameters that a request may set. Nil means that the pool's sampler profile decides.
type Params struct {
	Temperature   *float64 `json:"temperature,omitempty"`
	TopP          *float64 `json:"top_p,omitempty"`
	TopK          *int     `json:"top_k,omitempty"`
	MinP          *float64 `json:"min_p,omitempty"`
	RepeatPenalty *float64 `json:"repeat_penalty,omitempty"`
	Stop          []string `json:"stop,omitempty"`
}

// Sampling is Params with every value resolved. It is part of the request digest.
type Sampling struct {
	Profile       string   `json:"profile"`
	Temperature   float64  `json:"temperature"`
	TopP          float64  `json:"top_p"`
	TopK          int      `json:"top_k"`
	MinP          float64  `json:"min_p"`
	RepeatPenalty float64  `json:"repeat_penalty"`
	Stop          []string `json:"stop"`
}

// Placement is a request's wish for a pool.
type Placement struct {
	Mode   PlacementMode `json:"mode"`
	PoolID string        `json:"pool_id,omitempty"`
	Avoid  []string      `json:"avoid,omitempty"` // pools not to use
}

// SelfTester is the actor of the tasks with which the orchestrator tests its pools.
const SelfTester = "self-test"

// Request is what a client posted to /v1/tasks, with the documented defaults filled in.
type Request struct {
	ID             string // empty: the orchestrator chooses one
	ModelRef       string
	Workload       Workload
	Path           string // of an opaque request
	Engine         string // empty: any
	SessionID      string
	Priority       Priority
	Prompt         string
	Messages       []Message
	Chat           *Chat    // what a chat asks besides its messages; nil: nothing
	Inputs         []string // texts to embed, or documents to rerank against Prompt
	Unfit          []Unfit  // what the configuration may still take out; a task has none
	ReplayOf       string   // the ended task whose words these are; empty: the client sent them
	Seed           *uint32
	Params         Params
	SamplerProfile string // empty: the pool's
	Determinism    Determinism
	MaxTokens      int           // 0: as many as the context holds
	AtMost         bool          // MaxTokens is a bound: where the context holds less, the answer is shorter, and not refused
	Deadline       time.Duration // from admission; 0: none
	Ctx            int           // context the task needs, in tokens; 0: the pool's
	Quantisation   string        // what the weights are to be in, or how that begins, in any case; empty: anything
	ExpectedTokens int           // the client's estimate of its answer, in tokens; 0: unknown
	Placement      Placement
	KVHint         string
	OnDisconnect   OnDisconnect
	ReturnWithin   time.Duration // how long a client that is gone may stay away, with CancelIt; 0: the orchestrator's default
	Front          Front         // of a dialect's request; zero: the native API's
	KeepText       time.Duration // how long what was asked and answered is kept after the end; 0: as long as the record
	BatchID        string        // of the batch whose line it is; empty: none
	BatchLine      int           // its number there, from 1
	OutputMode     string
	BodySHA256     [32]byte // of the JSON as sent, compacted; a repeated task_id must have the same (LO-101)
	CorrelationID  string
	Traceparent    string // the client's place in a trace, as W3C Trace Context has it; empty: none
	Actor          string // who asked: `localhost`, `token:<6 hex>` (AUTH-1007) or `self-test`
}

// Front is what the front of a dialect keeps with its task. It goes with the text, and is no part of the request digest. The SHA-256 of the body
// is Request.BodySHA256.
type Front struct {
	Dialect string
	Reply   json.RawMessage // JSON: what an answer repeats of the request; empty: nothing
}
