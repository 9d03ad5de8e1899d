// SPDX-License-Identifier: GPL-3.0-or-later

// Package entry is how a task is written in a store of tasks, whatever the store is: as JSON and columns, with a SHA-256 over both. Stores share it, so that
// what one has written can be moved to another, and digests stay what they are.
package entry

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// storedTask is a task as JSON, without the fields that have columns. It is part of the stores' format: fields may be added, but
// not renamed without a migration. Durations are nanoseconds, so that what a client was told comes back exactly.
type storedTask struct {
	Engine           string           `json:"engine"`
	EngineVersion    string           `json:"engine_version,omitempty"`
	ModelID          string           `json:"model_id,omitempty"`
	Prompt           *string          `json:"prompt,omitempty"` // nil: it is the request's
	RenderedMS       int64            `json:"rendered_ms,omitempty"`
	PromptTokens     int              `json:"prompt_tokens,omitempty"`
	Seed             uint32           `json:"seed"`
	Sampling         task.Sampling    `json:"sampling"`
	Determinism      task.Determinism `json:"determinism"`
	RequestDigest    string           `json:"request_digest"`
	QueuePosition    int              `json:"queue_position"`
	PredictedStartNS time.Duration    `json:"predicted_start_ns"`
	BackoffNS        time.Duration    `json:"backoff_ns"`
	PinnedPool       bool             `json:"pinned_pool,omitempty"`
	Fallback         bool             `json:"fallback,omitempty"`
	MostTokens       int              `json:"most_tokens,omitempty"`
	Request          storedRequest    `json:"request"`
}

type storedRequest struct {
	ID             string            `json:"task_id,omitempty"`
	ModelRef       string            `json:"model_ref"`
	Workload       task.Workload     `json:"workload"`
	Engine         string            `json:"engine,omitempty"`
	SessionID      string            `json:"session_id,omitempty"`
	Prompt         string            `json:"prompt,omitempty"`
	Messages       []task.Message    `json:"messages,omitempty"`
	Chat           *task.Chat        `json:"chat,omitempty"`
	Inputs         []string          `json:"inputs,omitempty"`
	ReplayOf       string            `json:"replay_of,omitempty"`
	Seed           *uint32           `json:"seed,omitempty"`
	Params         task.Params       `json:"params"`
	SamplerProfile string            `json:"sampler_profile,omitempty"`
	Determinism    task.Determinism  `json:"determinism,omitempty"`
	MaxTokens      int               `json:"max_tokens,omitempty"`
	AtMost         bool              `json:"at_most,omitempty"`
	DeadlineNS     time.Duration     `json:"deadline_ns,omitempty"`
	Ctx            int               `json:"ctx,omitempty"`
	Quantisation   string            `json:"quantisation,omitempty"`
	ExpectedTokens int               `json:"expected_tokens,omitempty"`
	Placement      task.Placement    `json:"placement"`
	KVHint         string            `json:"kv_hint,omitempty"`
	OnDisconnect   task.OnDisconnect `json:"on_disconnect,omitempty"`
	ReturnWithinNS time.Duration     `json:"return_within_ns,omitempty"`
	Front          string            `json:"front,omitempty"`
	Reply          json.RawMessage   `json:"reply,omitempty"`
	KeepTextNS     time.Duration     `json:"keep_text_ns,omitempty"`
	BatchID        string            `json:"batch_id,omitempty"`
	BatchLine      int               `json:"batch_line,omitempty"`
	OutputMode     string            `json:"output_mode,omitempty"`
	BodySHA256     string            `json:"body_sha256"`
	CorrelationID  string            `json:"correlation_id,omitempty"`
	Traceparent    string            `json:"traceparent,omitempty"`
	Actor          string            `json:"actor,omitempty"`
}

// storedOutcome is the JSON of how a task ended.
type storedOutcome struct {
	End     *task.End       `json:"end,omitempty"`
	Error   *StoredError    `json:"error,omitempty"`
	Deleted *storedDeletion `json:"deleted,omitempty"`
	// EnergyJ and EnergyCost are those of a task without an End.
	EnergyJ    *float64 `json:"energy_j,omitempty"`
	EnergyCost *float64 `json:"energy_cost,omitempty"`
}

// storedDeletion is a task.Deletion without its time.
type storedDeletion struct {
	TokensIn  int `json:"tokens_in"`
	TokensOut int `json:"tokens_out"`
}

// StoredError is a task.Error without its cause, which only the log tells.
type StoredError struct {
	Code         task.Code     `json:"code"`
	Message      string        `json:"message"`
	Hint         string        `json:"hint,omitempty"`
	Retriable    bool          `json:"retriable"`
	Final        bool          `json:"final,omitempty"`
	RetryAfterNS time.Duration `json:"retry_after_ns,omitempty"`
	PolicyLabel  string        `json:"policy_label,omitempty"`
	Engine       string        `json:"engine,omitempty"`
	PoolID       string        `json:"pool_id,omitempty"`
}

// EncodeTask writes a task as JSON.
func EncodeTask(t task.Task) ([]byte, error) {
	q := t.Request
	s := storedTask{
		Engine: t.Engine, EngineVersion: t.EngineVersion, ModelID: t.ModelID, PromptTokens: t.PromptTokens, Seed: t.Seed, Sampling: t.Sampling,
		Determinism: t.Determinism, RequestDigest: t.RequestDigest, QueuePosition: t.QueuePosition,
		PredictedStartNS: t.PredictedStart, BackoffNS: t.Backoff, PinnedPool: t.PinnedPool, Fallback: t.Fallback,
		MostTokens: t.MostTokens,
		Request: storedRequest{
			ID: q.ID, ModelRef: q.ModelRef, Workload: q.Workload, Engine: q.Engine, SessionID: q.SessionID, Prompt: q.Prompt,
			Messages: q.Messages, Chat: q.Chat, Inputs: q.Inputs, ReplayOf: q.ReplayOf, Seed: q.Seed, Params: q.Params, SamplerProfile: q.SamplerProfile,
			Determinism: q.Determinism, MaxTokens: q.MaxTokens, AtMost: q.AtMost, DeadlineNS: q.Deadline, Ctx: q.Ctx, Quantisation: q.Quantisation,
			ExpectedTokens: q.ExpectedTokens, Placement: q.Placement, KVHint: q.KVHint, OnDisconnect: q.OnDisconnect,
			ReturnWithinNS: q.ReturnWithin, Front: q.Front.Dialect, Reply: q.Front.Reply, KeepTextNS: q.KeepText, OutputMode: q.OutputMode,
			BodySHA256: hex.EncodeToString(q.BodySHA256[:]), CorrelationID: q.CorrelationID, Traceparent: q.Traceparent, Actor: q.Actor,
			BatchID: q.BatchID, BatchLine: q.BatchLine,
		},
	}
	if t.Prompt != q.Prompt {
		s.Prompt = &t.Prompt
	}
	if !t.RenderedAt.IsZero() {
		s.RenderedMS = t.RenderedAt.UnixMilli()
	}
	return Encode(s)
}

// Encode writes JSON that has the JSON in it as it came: the schemas of tools are part of what an engine reads, and the digest of a result is in
// the proof bundle.
func Encode(v any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(v)
	return bytes.TrimSuffix(text.Bytes(), []byte{'\n'}), err
}

// decodeTask sets the fields that have no columns.
func decodeTask(text []byte, t *task.Task) error {
	var s storedTask
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	q := s.Request
	t.Engine, t.EngineVersion, t.Prompt, t.PromptTokens, t.Seed = s.Engine, s.EngineVersion, q.Prompt, s.PromptTokens, s.Seed
	t.Sampling, t.Determinism, t.RequestDigest, t.QueuePosition = s.Sampling, s.Determinism, s.RequestDigest, s.QueuePosition
	t.PredictedStart, t.Backoff, t.PinnedPool, t.Fallback = s.PredictedStartNS, s.BackoffNS, s.PinnedPool, s.Fallback
	t.ModelID, t.MostTokens = s.ModelID, s.MostTokens
	if s.Prompt != nil {
		t.Prompt = *s.Prompt
	}
	if s.RenderedMS != 0 {
		t.RenderedAt = time.UnixMilli(s.RenderedMS).UTC()
	}
	t.Request = task.Request{
		ID: q.ID, ModelRef: q.ModelRef, Workload: q.Workload, Engine: q.Engine, SessionID: q.SessionID,
		Priority: t.Request.Priority, Prompt: q.Prompt, Messages: q.Messages, Chat: q.Chat, Inputs: q.Inputs, ReplayOf: q.ReplayOf, Seed: q.Seed, Params: q.Params,
		SamplerProfile: q.SamplerProfile, Determinism: q.Determinism, MaxTokens: q.MaxTokens, AtMost: q.AtMost, Deadline: q.DeadlineNS, Ctx: q.Ctx, Quantisation: q.Quantisation,
		ExpectedTokens: q.ExpectedTokens, Placement: q.Placement, KVHint: q.KVHint, OnDisconnect: q.OnDisconnect,
		ReturnWithin: q.ReturnWithinNS, Front: task.Front{Dialect: q.Front, Reply: q.Reply}, KeepText: q.KeepTextNS, OutputMode: q.OutputMode,
		CorrelationID: q.CorrelationID, Traceparent: q.Traceparent, Actor: q.Actor, BatchID: q.BatchID, BatchLine: q.BatchLine,
	}
	if n, err := hex.Decode(t.Request.BodySHA256[:], []byte(q.BodySHA256)); err != nil || n != sha256.Size {
		return errors.Join(fmt.Errorf("body_sha256 %.80q is no SHA-256", q.BodySHA256), err)
	}
	return nil
}

// EncodeOutcome writes how a task ended as JSON.
func EncodeOutcome(r task.Record) ([]byte, error) {
	s := storedOutcome{End: r.End, EnergyJ: r.EnergyJ, EnergyCost: r.EnergyCost}
	if r.Err != nil {
		s.Error = storeError(r.Err)
	}
	if d := r.Deleted; d != nil {
		s.Deleted = &storedDeletion{TokensIn: d.TokensIn, TokensOut: d.TokensOut}
	}
	return Encode(s)
}

func storeError(e *task.Error) *StoredError {
	return &StoredError{
		Code: e.Code, Message: e.Message, Hint: e.Hint, Retriable: e.Retriable, Final: e.Final, RetryAfterNS: e.RetryAfter,
		PolicyLabel: e.PolicyLabel, Engine: e.Engine, PoolID: e.PoolID,
	}
}

func decodeOutcome(text []byte, r *task.Record) error {
	var s storedOutcome
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	r.End, r.EnergyJ, r.EnergyCost = s.End, s.EnergyJ, s.EnergyCost
	if d := s.Deleted; d != nil {
		r.Deleted = &task.Deletion{TokensIn: d.TokensIn, TokensOut: d.TokensOut}
	}
	if e := s.Error; e != nil {
		r.Err = &task.Error{
			Code: e.Code, Message: e.Message, Hint: e.Hint, Retriable: e.Retriable, Final: e.Final, RetryAfter: e.RetryAfterNS,
			PolicyLabel: e.PolicyLabel, Engine: e.Engine, PoolID: e.PoolID,
		}
	}
	return nil
}

// Columns are the columns of a query for tasks, in the order in which Row.Into takes them.
const Columns = `t.seq, t.id, t.state, t.priority, t.pool_id, t.accepted_ms, t.started_ms, t.finished_ms, t.replica_id,
	t.fingerprint, t.checkpoint_event, t.checkpoint_sum, t.sealed_at, t.last_event_id, t.outcome, t.proof_sum, t.proof_bytes,
	t.proof_keeps, t.deleted_ms, q.task, q.sum`

// Row is a row of a query for tasks.
type Row struct {
	seq, accepted        int64
	id, state, priority  []byte
	pool                 []byte
	started, finished    sql.NullInt64
	replica, fingerprint []byte
	event, deleted       sql.NullInt64
	sum                  []byte
	sealed, last         []byte
	proof                Proof
	outcome, task, ends  []byte
	requestSum, textSum  []byte
	text                 []byte
	marks, logprobs      []byte
}

// Into returns what to scan Columns into, with ends, text, marks, logprobs and sum of the transcript at the end.
func (w *Row) Into() []any {
	return []any{
		&w.seq, &w.id, &w.state, &w.priority, &w.pool, &w.accepted, &w.started, &w.finished,
		&w.replica, &w.fingerprint, &w.event, &w.sum, &w.sealed, &w.last, &w.outcome,
		&w.proof.Sum, &w.proof.Bytes, &w.proof.Keeps, &w.deleted, &w.task, &w.requestSum,
		&w.ends, &w.text, &w.marks, &w.logprobs, &w.textSum,
	}
}

// Seq is the task's sequence number.
func (w *Row) Seq() int64 { return w.seq }

// State is the task's state, also of a damaged one.
func (w *Row) State() task.State { return task.State(w.state) }

// Deleted reports whether the task was deleted.
func (w *Row) Deleted() bool { return w.deleted.Valid }

// Record makes a record of a row. It fails where the row is damaged.
func (w *Row) Record() (r task.Record, err error) {
	r.Task.ID, r.State, r.Task.Request.Priority, r.Task.PoolID = string(w.id), task.State(w.state), task.Priority(w.priority), string(w.pool)
	r.Task.Seq, r.Task.AcceptedAt = uint64(w.seq), FromMS(sql.NullInt64{Int64: w.accepted, Valid: true})
	r.StartedAt, r.FinishedAt = FromMS(w.started), FromMS(w.finished)
	r.ReplicaID, r.Fingerprint, r.SealedAt, r.LastEventID = string(w.replica), string(w.fingerprint), string(w.sealed), string(w.last)
	r.Checkpoint.Event = int(w.event.Int64)
	copy(r.Checkpoint.Sum[:], w.sum)
	r.Proof = w.proof.record()
	r.Transcript.Text = string(w.text)
	if err = w.intact(r); err == nil {
		err = decodeTask(w.task, &r.Task)
	}
	if err == nil && w.outcome != nil {
		err = decodeOutcome(w.outcome, &r)
	}
	if err == nil {
		r.Transcript.Ends, err = decodeEnds(w.ends)
	}
	if err == nil {
		r.Transcript.Marks, err = decodeMarks(w.marks, len(r.Transcript.Ends))
	}
	if err == nil {
		r.Transcript.Logprobs, err = decodeLogprobs(w.logprobs, len(r.Transcript.Ends))
	}
	if err == nil && w.deleted.Valid != (r.Deleted != nil) {
		err = errors.New("it is half deleted")
	}
	if r.Deleted != nil {
		r.Deleted.At = FromMS(w.deleted)
	}
	if err != nil {
		return r, Damage(r.Task.ID, err)
	}
	return r, nil
}

// Proof is a task.Proof in columns.
type Proof struct {
	Sum          []byte
	Bytes, Keeps sql.NullInt64
}

// The bits of proof_keeps.
const (
	keepsPrompt = 1 << iota
	keepsTranscript
)

// ToProof puts a proof into columns.
func ToProof(p task.Proof) Proof {
	if p.SHA256 == [sha256.Size]byte{} {
		return Proof{}
	}
	keeps := int64(0)
	if p.KeepsPrompt {
		keeps |= keepsPrompt
	}
	if p.KeepsTranscript {
		keeps |= keepsTranscript
	}
	return Proof{Sum: p.SHA256[:], Bytes: sql.NullInt64{Int64: int64(p.Size), Valid: true}, Keeps: sql.NullInt64{Int64: keeps, Valid: true}}
}

func (p Proof) record() (out task.Proof) {
	copy(out.SHA256[:], p.Sum)
	out.Size = int(p.Bytes.Int64)
	out.KeepsPrompt, out.KeepsTranscript = p.Keeps.Int64&keepsPrompt != 0, p.Keeps.Int64&keepsTranscript != 0
	return out
}

// ToMS is a time in milliseconds since 1970; NULL: none.
func ToMS(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

// FromMS is the time that ToMS was given.
func FromMS(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}

// OrNull is a text; NULL where it is empty.
func OrNull(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// lineOutcome is the JSON of how a line of a batch ended without a task.
type lineOutcome struct {
	Status  int              `json:"status,omitempty"`
	Refusal json.RawMessage  `json:"refusal,omitempty"`
	Fault   *task.BatchFault `json:"fault,omitempty"`
}

// EncodeLine is the outcome of a line; nil: it has none, or its task tells.
func EncodeLine(l task.Line) ([]byte, error) {
	if l.Status == 0 && l.Fault == nil {
		return nil, nil
	}
	return Encode(lineOutcome{l.Status, l.Refusal, l.Fault})
}

// DecodeLine sets the outcome of a line.
func DecodeLine(outcome []byte, l *task.Line) error {
	if outcome == nil {
		return nil
	}
	var o lineOutcome
	err := json.Unmarshal(outcome, &o)
	l.Status, l.Refusal, l.Fault = o.Status, o.Refusal, o.Fault
	return err
}

// TextUntil is when the text of an ended task is to be deleted; NULL: it is kept as long as the record.
func TextUntil(r task.Record) sql.NullInt64 {
	if r.Task.Request.KeepText <= 0 {
		return sql.NullInt64{}
	}
	return ToMS(r.FinishedAt.Add(r.Task.Request.KeepText))
}
