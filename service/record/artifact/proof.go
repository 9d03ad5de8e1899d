// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/service/task"
)

// ProofFormat names the form of a proof bundle. Another form has another name.
const ProofFormat = "llama-orch.proof.v1"

// ProofMediaType is the media type of a proof bundle.
const ProofMediaType = "application/json"

// Proof is a proof bundle: what is needed to run a task again and to see whether the answer is the same (OC-CTRL-2067,
// LO-301). Digests are SHA-256 in hex, times of day UTC, durations whole milliseconds. What a client wrote and what a model
// answered stand here by their digests, unless the configuration says that they are kept.
type Proof struct {
	Format      string           `json:"format"`
	TaskID      string           `json:"task_id"`
	Outcome     task.State       `json:"outcome"` // completed, failed or canceled
	Error       *task.Envelope   `json:"error,omitempty"`
	Request     ProofRequest     `json:"request"`
	Seed        uint32           `json:"seed"`        // the one that was used
	Determinism task.Determinism `json:"determinism"` // the promise that was made
	Sampling    task.Sampling    `json:"sampling"`    // with every value resolved
	Digest      string           `json:"request_digest,omitempty"`
	Placement   ProofPlacement   `json:"placement"`
	Timing      ProofTiming      `json:"timing"`
	Metrics     ProofMetrics     `json:"metrics"`
	Transcript  ProofTranscript  `json:"transcript"`
	Result      *ProofResult     `json:"result,omitempty"` // of an embedding or rerank
	Receipt     *task.Receipt    `json:"receipt,omitempty"`
	LastEventID string           `json:"last_event_id,omitempty"`
}

// ProofRequest is what the client asked for. Of prompt, messages and inputs the digest is there where the request had it; the
// text only where Kept says so. The digest of a prompt is over its bytes, that of messages and inputs over their JSON without
// white space and with no character escaped that JSON lets stand.
type ProofRequest struct {
	ModelRef       string           `json:"model_ref"`
	Workload       task.Workload    `json:"workload"`
	Engine         string           `json:"engine,omitempty"`
	Priority       task.Priority    `json:"priority"`
	SessionID      string           `json:"session_id,omitempty"`
	Determinism    task.Determinism `json:"determinism,omitempty"`
	Seed           *uint32          `json:"seed,omitempty"`
	Params         task.Params      `json:"params"`
	SamplerProfile string           `json:"sampler_profile,omitempty"`
	MaxTokens      int              `json:"max_tokens,omitempty"`
	DeadlineMS     int64            `json:"deadline_ms,omitempty"`
	Ctx            int              `json:"ctx,omitempty"`
	Placement      task.Placement   `json:"placement"`
	Kept           bool             `json:"kept"`
	PromptSHA256   string           `json:"prompt_sha256,omitempty"`
	MessagesSHA256 string           `json:"messages_sha256,omitempty"`
	InputsSHA256   string           `json:"inputs_sha256,omitempty"`
	Prompt         string           `json:"prompt,omitempty"`
	Messages       []task.Message   `json:"messages,omitempty"`
	Inputs         []string         `json:"inputs,omitempty"`
	BodySHA256     string           `json:"body_sha256"` // of the JSON as it was sent, without white space
	CorrelationID  string           `json:"correlation_id,omitempty"`
	Actor          string           `json:"actor,omitempty"`
}

// ProofPlacement is where the task ran and why. ReplicaID and Fingerprint are empty where it never left the queue.
type ProofPlacement struct {
	PoolID        string   `json:"pool_id"`
	ModelID       string   `json:"model_id,omitempty"`
	Engine        string   `json:"engine"`
	EngineVersion string   `json:"engine_version,omitempty"`
	ReplicaID     string   `json:"replica_id,omitempty"`
	Fingerprint   string   `json:"fingerprint,omitempty"`
	Reasons       []string `json:"reasons"`
}

// ProofTiming says when what happened.
type ProofTiming struct {
	AcceptedAt       time.Time  `json:"accepted_at"`
	StartedAt        *time.Time `json:"started_at,omitempty"` // when it was dispatched last
	FinishedAt       time.Time  `json:"finished_at"`
	PredictedStartMS int64      `json:"predicted_start_ms"` // from AcceptedAt, as promised at admission
	WaitedMS         int64      `json:"waited_ms"`
	RanMS            int64      `json:"ran_ms"`
	DecodeTimeMS     int64      `json:"decode_time_ms,omitempty"`
}

// ProofMetrics are the task's figures.
type ProofMetrics struct {
	QueuePosition int     `json:"queue_position"` // tasks ahead at admission
	TokensIn      int     `json:"tokens_in"`
	TokensOut     int     `json:"tokens_out"`
	TokensPerSec  float64 `json:"tokens_per_second,omitempty"`
}

// ProofTranscript is what the model answered. Text and Ends are there only where the configuration keeps them: Ends[i] is the
// length of Text after token i.
type ProofTranscript struct {
	SHA256 string `json:"sha256"`
	Bytes  int    `json:"bytes"`
	Tokens int    `json:"tokens"`
	Kept   bool   `json:"kept"`
	Text   string `json:"text,omitempty"`
	Ends   []int  `json:"ends,omitempty"`
}

// ProofResult is the answer of a task that streams no tokens. SHA256 is over its JSON without white space.
type ProofResult struct {
	SHA256 string          `json:"sha256"`
	Value  json.RawMessage `json:"value,omitempty"`
}

// ProofOptions say what a bundle keeps beside digests, and what it cannot know from the record.
type ProofOptions struct {
	KeepPrompts     bool
	KeepTranscripts bool
	Reasons         []string // why the replica was chosen; those that the record tells come first
}

// Bundle makes the proof bundle of a task that has ended. The same record and options give the same bundle.
func Bundle(r task.Record, o ProofOptions) Proof {
	t := r.Task
	p := Proof{
		Format: ProofFormat, TaskID: t.ID, Outcome: r.State, Request: bundleRequest(t.Request, o.KeepPrompts), Seed: t.Seed,
		Determinism: t.Determinism, Sampling: t.Sampling, Digest: t.RequestDigest,
		Placement: ProofPlacement{
			PoolID: t.PoolID, ModelID: t.ModelID, Engine: t.Engine, EngineVersion: t.EngineVersion, ReplicaID: r.ReplicaID,
			Fingerprint: r.Fingerprint, Reasons: append(placementReasons(r), o.Reasons...),
		},
		Timing: ProofTiming{
			AcceptedAt: moment(t.AcceptedAt), FinishedAt: moment(r.FinishedAt), PredictedStartMS: t.PredictedStart.Milliseconds(),
		},
		Metrics: ProofMetrics{QueuePosition: t.QueuePosition, TokensIn: t.PromptTokens, TokensOut: len(r.Transcript.Ends)},
		Transcript: ProofTranscript{
			SHA256: digest([]byte(r.Transcript.Text)), Bytes: len(r.Transcript.Text), Tokens: len(r.Transcript.Ends), Kept: o.KeepTranscripts,
		},
		LastEventID: r.LastEventID,
	}
	if o.KeepTranscripts {
		p.Transcript.Text, p.Transcript.Ends = r.Transcript.Text, r.Transcript.Ends
	}
	ran := p.Timing.FinishedAt // where it never did
	if !r.StartedAt.IsZero() {
		ran = moment(r.StartedAt)
		p.Timing.StartedAt = &ran
	}
	p.Timing.WaitedMS = max(ran.Sub(p.Timing.AcceptedAt).Milliseconds(), 0)
	p.Timing.RanMS = max(p.Timing.FinishedAt.Sub(ran).Milliseconds(), 0)
	if r.Err != nil {
		e := r.Err.Envelope()
		p.Error = &e
	}
	if e := r.End; e != nil {
		receipt := e.Receipt
		p.Receipt = &receipt
		p.Timing.DecodeTimeMS = e.DecodeTimeMS
		p.Metrics.TokensIn, p.Metrics.TokensOut = e.TokensIn, e.TokensOut
		if e.DecodeTimeMS > 0 {
			p.Metrics.TokensPerSec = float64(e.TokensOut*1000*100/int(e.DecodeTimeMS)) / 100
		}
		p.Result = bundleResult(e.Result, o.KeepTranscripts)
	}
	return p
}

// moment is a time as exact as the ledger keeps it: a bundle made after a restart must be the one made before.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func bundleRequest(r task.Request, keep bool) ProofRequest {
	p := ProofRequest{
		ModelRef: r.ModelRef, Workload: r.Workload, Engine: r.Engine, Priority: r.Priority, SessionID: r.SessionID,
		Determinism: r.Determinism, Seed: r.Seed, Params: r.Params, SamplerProfile: r.SamplerProfile, MaxTokens: r.MaxTokens,
		DeadlineMS: r.Deadline.Milliseconds(), Ctx: r.Ctx, Placement: r.Placement, Kept: keep, BodySHA256: hex.EncodeToString(r.BodySHA256[:]),
		CorrelationID: r.CorrelationID, Actor: r.Actor,
	}
	if r.Prompt != "" {
		p.PromptSHA256 = digest([]byte(r.Prompt))
	}
	if len(r.Messages) > 0 {
		p.MessagesSHA256 = digestJSON(r.Messages)
	}
	if len(r.Inputs) > 0 {
		p.InputsSHA256 = digestJSON(r.Inputs)
	}
	if keep {
		p.Prompt, p.Messages, p.Inputs = r.Prompt, r.Messages, r.Inputs
	}
	return p
}

func bundleResult(value json.RawMessage, keep bool) *ProofResult {
	if len(value) == 0 {
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return &ProofResult{SHA256: digest(value)} // it is no JSON: it came so from the engine
	}
	p := &ProofResult{SHA256: digest(compact.Bytes())}
	if keep {
		p.Value = compact.Bytes()
	}
	return p
}

// placementReasons are what the record itself tells of why the task ran where it did.
func placementReasons(r task.Record) []string {
	wish, pool := r.Task.Request.Placement, r.Task.PoolID
	var why string
	switch {
	case r.Task.PinnedPool:
		why = fmt.Sprintf("the request pinned pool %s", pool)
	case r.Task.Fallback:
		why = fmt.Sprintf("the request preferred pool %s, which could not take it; pool %s could", wish.PoolID, pool)
	case wish.Mode == task.Prefer:
		why = fmt.Sprintf("the request preferred pool %s", pool)
	default:
		why = fmt.Sprintf("pool %s was chosen among those that serve %s", pool, r.Task.Request.ModelRef)
	}
	reasons := []string{why}
	if r.ReplicaID == "" {
		reasons = append(reasons, "no replica was chosen: the task ended in the queue")
	}
	return reasons
}

// Encode writes a bundle in its one form: the fields in their order, no white space, no escapes that JSON can do without. It
// fails on numbers that JSON has no word for.
func (p Proof) Encode() ([]byte, error) {
	text, err := encode(p)
	if err != nil {
		return nil, fmt.Errorf("encode the proof bundle of task %s: %w", p.TaskID, err)
	}
	return text, nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
}

// digestJSON is the digest of texts, which always encode.
func digestJSON(v any) string {
	text, err := encode(v)
	if err != nil {
		panic("artifact: " + err.Error())
	}
	return digest(text)
}

// DecodeProof reads a bundle and checks that it says one thing.
func DecodeProof(text []byte) (Proof, error) {
	var p Proof
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("read a proof bundle: %w", err)
	}
	if p.Format != ProofFormat {
		return p, fmt.Errorf("read a proof bundle: its format is %q, not %q", task.Clip(p.Format, maxQuote), ProofFormat)
	}
	if err := p.Transcript.check(); err != nil {
		return p, fmt.Errorf("read the proof bundle of task %q: %w", task.Clip(p.TaskID, maxQuote), err)
	}
	return p, nil
}

func (t ProofTranscript) check() error {
	if !t.Kept {
		return nil
	}
	switch last := slices.Max(append(slices.Clone(t.Ends), 0)); {
	case !utf8.ValidString(t.Text) || digest([]byte(t.Text)) != t.SHA256:
		return errors.New("its transcript is not the one that its digest is of")
	case len(t.Ends) != t.Tokens || len(t.Text) != t.Bytes || !slices.IsSorted(t.Ends) || last != len(t.Text):
		return errors.New("its tokens do not make up its transcript")
	case len(t.Ends) > 0 && t.Ends[0] < 0:
		return errors.New("its tokens do not make up its transcript")
	}
	return nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
