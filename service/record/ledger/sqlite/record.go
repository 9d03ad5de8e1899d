// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

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

// storedTask is a task as JSON, without the fields that have columns. It is part of the file's format: fields may be added, but
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
	Error   *storedError    `json:"error,omitempty"`
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

// storedError is a task.Error without its cause, which only the log tells.
type storedError struct {
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

func encodeTask(t task.Task) ([]byte, error) {
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
	return encode(s)
}

// encode writes JSON that has the JSON in it as it came: the schemas of tools are part of what an engine reads, and the digest of a result is in
// the proof bundle.
func encode(v any) ([]byte, error) {
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

func encodeOutcome(r task.Record) ([]byte, error) {
	s := storedOutcome{End: r.End, EnergyJ: r.EnergyJ, EnergyCost: r.EnergyCost}
	if r.Err != nil {
		s.Error = storeError(r.Err)
	}
	if d := r.Deleted; d != nil {
		s.Deleted = &storedDeletion{TokensIn: d.TokensIn, TokensOut: d.TokensOut}
	}
	return encode(s)
}

func storeError(e *task.Error) *storedError {
	return &storedError{
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

// columns are the columns of a query for tasks, in the order in which row.into takes them.
const columns = `t.seq, t.id, t.state, t.priority, t.pool_id, t.accepted_ms, t.started_ms, t.finished_ms, t.replica_id,
	t.fingerprint, t.checkpoint_event, t.checkpoint_sum, t.sealed_at, t.last_event_id, t.outcome, t.proof_sum, t.proof_bytes,
	t.proof_keeps, t.deleted_ms, q.task, q.sum`

// The tables of a query for tasks, without and with transcripts.
const (
	tasks     = ` FROM task t LEFT JOIN request q ON q.seq = t.seq`
	withTexts = tasks + ` LEFT JOIN transcript x ON x.seq = t.seq`
)

// row is a row of a query for tasks.
type row struct {
	r                    task.Record
	seq, accepted        int64
	started, finished    sql.NullInt64
	replica, fingerprint sql.NullString
	event, deleted       sql.NullInt64
	sum                  []byte
	sealed, last         sql.NullString
	proof                proof
	outcome, task, ends  []byte
	requestSum, textSum  []byte
	text                 sql.NullString
	marks                []byte
	logprobs             sql.NullString
}

// into returns what to scan the columns into, with those of the transcript at the end.
func (w *row) into() []any {
	return []any{
		&w.seq, &w.r.Task.ID, &w.r.State, &w.r.Task.Request.Priority, &w.r.Task.PoolID, &w.accepted, &w.started, &w.finished,
		&w.replica, &w.fingerprint, &w.event, &w.sum, &w.sealed, &w.last, &w.outcome,
		&w.proof.sum, &w.proof.bytes, &w.proof.keeps, &w.deleted, &w.task, &w.requestSum,
		&w.ends, &w.text, &w.marks, &w.logprobs, &w.textSum,
	}
}

// record makes a record of a row. It fails where the row is damaged.
func (w *row) record() (task.Record, error) {
	r := w.r
	r.Task.Seq, r.Task.AcceptedAt = uint64(w.seq), fromMS(sql.NullInt64{Int64: w.accepted, Valid: true})
	r.StartedAt, r.FinishedAt = fromMS(w.started), fromMS(w.finished)
	r.ReplicaID, r.Fingerprint, r.SealedAt, r.LastEventID = w.replica.String, w.fingerprint.String, w.sealed.String, w.last.String
	r.Checkpoint.Event = int(w.event.Int64)
	copy(r.Checkpoint.Sum[:], w.sum)
	r.Proof = w.proof.record()
	r.Transcript.Text = w.text.String
	err := w.intact()
	if err == nil {
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
		r.Deleted.At = fromMS(w.deleted)
	}
	if err != nil {
		return r, damage(r.Task.ID, err)
	}
	return r, nil
}

// proof is a task.Proof in columns.
type proof struct {
	sum          []byte
	bytes, keeps sql.NullInt64
}

// The bits of proof_keeps.
const (
	keepsPrompt = 1 << iota
	keepsTranscript
)

func toProof(p task.Proof) proof {
	if p.SHA256 == [sha256.Size]byte{} {
		return proof{}
	}
	keeps := int64(0)
	if p.KeepsPrompt {
		keeps |= keepsPrompt
	}
	if p.KeepsTranscript {
		keeps |= keepsTranscript
	}
	return proof{sum: p.SHA256[:], bytes: sql.NullInt64{Int64: int64(p.Size), Valid: true}, keeps: sql.NullInt64{Int64: keeps, Valid: true}}
}

func (p proof) record() (out task.Proof) {
	copy(out.SHA256[:], p.sum)
	out.Size = int(p.bytes.Int64)
	out.KeepsPrompt, out.KeepsTranscript = p.keeps.Int64&keepsPrompt != 0, p.keeps.Int64&keepsTranscript != 0
	return out
}

func toMS(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

func fromMS(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}

func orNull(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }
