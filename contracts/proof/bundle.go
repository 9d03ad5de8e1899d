// SPDX-License-Identifier: GPL-3.0-or-later

// Package proof is the form of proof bundles, which the server makes and clients read: what is needed to run a task again and
// to see whether the answer is the same (OC-CTRL-2067, LO-301).
package proof

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// Format names the form of a bundle. Another form has another name.
const Format = "llama-orch.proof.v1"

// MediaType is that of a bundle.
const MediaType = "application/json"

// Bundle is a proof bundle. Digests are SHA-256 in hex, times of day UTC, durations whole milliseconds. What a client wrote
// and what a model answered stand here by their digests, unless the server's configuration says that they are kept.
type Bundle struct {
	Format        string     `json:"format"`
	TaskID        string     `json:"task_id"`
	Outcome       string     `json:"outcome"` // completed, failed or canceled
	Error         *Error     `json:"error,omitempty"`
	Request       Request    `json:"request"`
	Seed          uint32     `json:"seed"`        // the one that was used
	Determinism   string     `json:"determinism"` // the promise that was made
	Sampling      Sampling   `json:"sampling"`
	RequestDigest string     `json:"request_digest,omitempty"`
	Placement     Placement  `json:"placement"`
	Timing        Timing     `json:"timing"`
	Metrics       Metrics    `json:"metrics"`
	Transcript    Transcript `json:"transcript"`
	Result        *Result    `json:"result,omitempty"` // of an embedding or rerank
	Receipt       *Receipt   `json:"receipt,omitempty"`
	LastEventID   string     `json:"last_event_id,omitempty"`
}

// Error is why a task ended without an answer.
type Error struct {
	Code         string `json:"code"`
	Message      string `json:"message"`
	Retriable    bool   `json:"retriable"`
	RetryAfterMS *int64 `json:"retry_after_ms,omitempty"`
	PolicyLabel  string `json:"policy_label,omitempty"`
	Engine       string `json:"engine,omitempty"`
	PoolID       string `json:"pool_id,omitempty"`
	Hint         string `json:"hint,omitempty"`
}

// Request is what the client asked for. Of prompt, messages and inputs the digest is there where the request had it; the text
// only where Kept says so. The digest of a prompt is over its bytes, that of messages, inputs and the chat over their JSON without white
// space and with no character escaped that JSON lets stand. In the digest of messages an image stands by its own.
type Request struct {
	ModelRef       string    `json:"model_ref"`
	Workload       string    `json:"workload"`
	Engine         string    `json:"engine,omitempty"`
	Priority       string    `json:"priority"`
	SessionID      string    `json:"session_id,omitempty"`
	Determinism    string    `json:"determinism,omitempty"`
	Seed           *uint32   `json:"seed,omitempty"`
	Params         Params    `json:"params"`
	SamplerProfile string    `json:"sampler_profile,omitempty"`
	MaxTokens      int       `json:"max_tokens,omitempty"`
	DeadlineMS     int64     `json:"deadline_ms,omitempty"`
	Ctx            int       `json:"ctx,omitempty"`
	Placement      Wish      `json:"placement"`
	Kept           bool      `json:"kept"`
	PromptSHA256   string    `json:"prompt_sha256,omitempty"`
	MessagesSHA256 string    `json:"messages_sha256,omitempty"`
	InputsSHA256   string    `json:"inputs_sha256,omitempty"`
	ChatSHA256     string    `json:"chat_sha256,omitempty"` // of what was asked besides the messages
	Prompt         string    `json:"prompt,omitempty"`
	Messages       []Message `json:"messages,omitempty"`
	Inputs         []string  `json:"inputs,omitempty"`
	Chat           *Chat     `json:"chat,omitempty"`
	BodySHA256     string    `json:"body_sha256"` // of the JSON as it was sent, without white space
	CorrelationID  string    `json:"correlation_id,omitempty"`
	Actor          string    `json:"actor,omitempty"`
}

// Params are the sampling parameters that the request set.
type Params struct {
	Temperature   *float64 `json:"temperature,omitempty"`
	TopP          *float64 `json:"top_p,omitempty"`
	TopK          *int     `json:"top_k,omitempty"`
	MinP          *float64 `json:"min_p,omitempty"`
	RepeatPenalty *float64 `json:"repeat_penalty,omitempty"`
	Stop          []string `json:"stop,omitempty"`
}

// Sampling is the sampler profile with every value resolved.
type Sampling struct {
	Profile       string   `json:"profile"`
	Temperature   float64  `json:"temperature"`
	TopP          float64  `json:"top_p"`
	TopK          int      `json:"top_k"`
	MinP          float64  `json:"min_p"`
	RepeatPenalty float64  `json:"repeat_penalty"`
	Stop          []string `json:"stop"`
}

// Wish is the request's wish for a pool.
type Wish struct {
	Mode   string   `json:"mode"`
	PoolID string   `json:"pool_id,omitempty"`
	Avoid  []string `json:"avoid,omitempty"`
}

// Placement is where the task ran and why. ReplicaID and Fingerprint are empty where it never left the queue.
type Placement struct {
	PoolID        string   `json:"pool_id"`
	ModelID       string   `json:"model_id,omitempty"`
	Engine        string   `json:"engine"`
	EngineVersion string   `json:"engine_version,omitempty"`
	ReplicaID     string   `json:"replica_id,omitempty"`
	Fingerprint   string   `json:"fingerprint,omitempty"`
	Reasons       []string `json:"reasons"`
}

// Timing says when what happened.
type Timing struct {
	AcceptedAt       time.Time  `json:"accepted_at"`
	StartedAt        *time.Time `json:"started_at,omitempty"` // when it was dispatched first
	FinishedAt       time.Time  `json:"finished_at"`
	PredictedStartMS int64      `json:"predicted_start_ms"` // from AcceptedAt, as promised at admission
	WaitedMS         int64      `json:"waited_ms"`
	RanMS            int64      `json:"ran_ms"`
	DecodeTimeMS     int64      `json:"decode_time_ms,omitempty"`
}

// Metrics are the task's figures.
type Metrics struct {
	QueuePosition int     `json:"queue_position"` // tasks ahead at admission
	TokensIn      int     `json:"tokens_in"`
	TokensOut     int     `json:"tokens_out"`
	TokensPerSec  float64 `json:"tokens_per_second,omitempty"`
	// EnergyJ and EnergyCost are what the cards took for the task, in joules, and what that cost; nil: that is not known.
	EnergyJ    *float64 `json:"energy_j,omitempty"`
	EnergyCost *float64 `json:"energy_cost,omitempty"`
}

// Transcript is what the model answered. Text, Ends and Runs are there only where the configuration keeps them: Ends[i] is the
// length of Text after token i, and Runs say which tokens are no text of the answer. A token is a `token` or `tool_call` event.
type Transcript struct {
	SHA256 string `json:"sha256"`
	Form   string `json:"form,omitempty"` // of the digest: FormParts; empty: FormText
	Bytes  int    `json:"bytes"`
	Tokens int    `json:"tokens"`
	Kept   bool   `json:"kept"`
	Text   string `json:"text,omitempty"`
	Ends   []int  `json:"ends,omitempty"`
	Runs   []Run  `json:"runs,omitempty"`
	// Logprobs[i] are the tokens of the answer in token i, as the event has them; null: it has none.
	Logprobs []json.RawMessage `json:"logprobs,omitempty"`
}

// Result is the answer of a task that streams no tokens. SHA256 is over its JSON without white space.
type Result struct {
	SHA256 string          `json:"sha256"`
	Value  json.RawMessage `json:"value,omitempty"`
}

// Receipt is the receipt that the task's stream ended with.
type Receipt struct {
	Seed             uint32 `json:"seed"`
	Determinism      string `json:"determinism"`
	Fingerprint      string `json:"fingerprint"`
	RequestDigest    string `json:"request_digest"`
	TranscriptSHA256 string `json:"transcript_sha256"`
	ReplicaID        string `json:"replica_id"`
	EngineVersion    string `json:"engine_version"`
	ModelDigest      string `json:"model_digest"`
	TranscriptForm   string `json:"transcript_form,omitempty"`
	TokensCached     int    `json:"tokens_cached,omitempty"`
	ContinuedAt      []int  `json:"continued_at,omitempty"` // the events with which another run went on
}

// Encode writes a bundle in its one form: the fields in their order, no white space, no escapes that JSON can do without. It
// fails on numbers that JSON has no word for.
func (b Bundle) Encode() ([]byte, error) {
	text, err := plainjson.Encode(b)
	if err != nil {
		return nil, fmt.Errorf("encode the proof bundle of task %s: %w", b.TaskID, err)
	}
	return text, nil
}

// Decode reads a bundle and checks that it says one thing.
func Decode(text []byte) (*Bundle, error) {
	b := &Bundle{}
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("this is no proof bundle: %w", err)
	}
	if b.Format != Format {
		return nil, fmt.Errorf("this is no proof bundle that this program reads: its format is %.40q, not %q", b.Format, Format)
	}
	if b.Transcript.Kept && !b.Transcript.whole() {
		return nil, errors.New("this proof bundle was changed: its transcript is not the one that its digest is of")
	}
	return b, nil
}

// whole reports whether the tokens make up the text, and are those of the digest.
func (t Transcript) whole() bool {
	last := 0
	if n := len(t.Ends); n > 0 {
		last = t.Ends[n-1]
	}
	pieces := t.Pieces()
	return utf8.ValidString(t.Text) && pieces != nil && digestOf(pieces) == t.SHA256 && len(t.Text) == t.Bytes && len(pieces) == t.Tokens && last == len(t.Text) &&
		(t.Logprobs == nil || len(t.Logprobs) == t.Tokens)
}

// Digest is the SHA-256 of some bytes, in hex.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// DigestInputs is that of inputs.
func DigestInputs(in []string) string { return digestJSON(in) }

func digestJSON(v any) string {
	text, err := plainjson.Encode(v)
	if err != nil {
		panic("proof: " + err.Error()) // texts always encode
	}
	return Digest(text)
}
