// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"
)

// State says how far a task is.
type State string

// The states. The last three are final: a task reaches exactly one of them, once.
const (
	Queued        State = "queued"
	Running       State = "running"
	Completed     State = "completed"
	Failed        State = "failed"
	StateCanceled State = "canceled"
)

// Final reports whether s is one of the three outcomes.
func (s State) Final() bool { return s == Completed || s == Failed || s == StateCanceled }

// Task is an admitted task: its request, with everything resolved that its bytes depend on. It does not change, but for a prompt that a run makes.
type Task struct {
	ID             string // the request's, or chosen at admission; `job_id` in logs
	Seq            uint64 // order of acceptance, over all pools
	Request        Request
	PoolID         string
	Engine         string
	EngineVersion  string
	ModelID        string    // the name under which the pool serves it
	Prompt         string    // after templating
	RenderedAt     time.Time // when a run made the prompt; zero: admission did
	PromptTokens   int       // exact, as counted by the engine; 0 if nobody has counted them
	Seed           uint32
	Sampling       Sampling
	Determinism    Determinism // Strict or BestEffort
	RequestDigest  string      // see Digest; empty until the prompt has been templated
	AcceptedAt     time.Time
	QueuePosition  int           // tasks ahead at admission
	PredictedStart time.Duration // from AcceptedAt
	Backoff        time.Duration // how long the client should wait before its next task
	PinnedPool     bool          // placement.mode was pin
	Fallback       bool          // placement.mode was prefer and another pool was chosen
	MostTokens     int           // the most that it can take, in and out
	Session        *Session      // as this turn leaves it; nil if there is none, or once it is recorded
}

// Digest returns the request_digest: the SHA-256, in hex, of everything in the request that the bytes depend on. If the engine takes the messages
// as they are, there is no prompt made from them, and the digest covers the messages. It does so too where they have images, which no prompt holds.
func (t Task) Digest() string {
	var messages []Message
	if t.Prompt == "" || slices.Contains(t.Request.Needs(), FeatureImages) {
		messages = t.Request.Messages
	}
	b, err := json.Marshal(struct {
		Workload  Workload  `json:"workload"`
		Prompt    string    `json:"prompt"`
		Messages  []Message `json:"messages,omitempty"`
		Chat      *Chat     `json:"chat,omitempty"`
		Inputs    []string  `json:"inputs"`
		Sampling  Sampling  `json:"sampling"`
		Seed      uint32    `json:"seed"`
		MaxTokens int       `json:"max_tokens"`
	}{t.Request.Workload, t.Prompt, messages, t.Request.Chat, t.Request.Inputs, t.Sampling, t.Seed, t.Request.MaxTokens})
	if err != nil {
		panic("task: " + err.Error()) // finite numbers and strings always encode
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Admission returns the answer to the submit. It is the same however often the submit is repeated.
func (t Task) Admission() Admission {
	return Admission{
		TaskID: t.ID, PoolID: t.PoolID, QueuePosition: t.QueuePosition, PredictedStart: t.PredictedStart, Backoff: t.Backoff,
		Seed: t.Seed, Determinism: t.Determinism, PromptTokens: t.PromptTokens, AcceptedAt: t.AcceptedAt.UTC().Truncate(time.Millisecond),
	}
}

// Started returns the data of the task's event 0.
func (t Task) Started() Started {
	return Started{
		TaskID: t.ID, QueuePosition: t.QueuePosition, PredictedStartMS: t.PredictedStart.Milliseconds(), Seed: t.Seed,
		Determinism: t.Determinism,
	}
}

// Admission is the answer to a submit, the 202's body.
type Admission struct {
	TaskID         string
	PoolID         string
	QueuePosition  int
	PredictedStart time.Duration
	Backoff        time.Duration
	Seed           uint32
	Determinism    Determinism
	PromptTokens   int       // 0: nobody counted them, since they fit in any case
	AcceptedAt     time.Time // to the millisecond, as the ledger keeps it
	Failure        *Error    // of a repeated submit: how the task ended, if that was without an answer
}

// Receipt says what a stream's bytes depend on and what they are (LO-204). Digests are hex.
type Receipt struct {
	Seed             uint32      `json:"seed"`
	Determinism      Determinism `json:"determinism"`
	Fingerprint      string      `json:"fingerprint"`
	RequestDigest    string      `json:"request_digest"`
	TranscriptSHA256 string      `json:"transcript_sha256"`
	ReplicaID        string      `json:"replica_id"`
	EngineVersion    string      `json:"engine_version"`
	ModelDigest      string      `json:"model_digest"`
	// ContinuedAt are the numbers of the events with which another run went on where one had broken off (LO-209).
	ContinuedAt []int `json:"continued_at,omitempty"`
	// TranscriptForm is how TranscriptSHA256 is made. It is empty in what earlier versions recorded, which is FormText.
	TranscriptForm TranscriptForm `json:"transcript_form,omitempty"`
	// TokensCached is how many tokens of the prompt came from the KV of an earlier one. It changes no byte of a strict task (LO-443).
	TokensCached int `json:"tokens_cached,omitempty"`
}

// FinishReason says why a generation ended by itself.
type FinishReason string

// The finish reasons.
const (
	FinishStop      FinishReason = "stop"       // end of sequence, or a stop string
	FinishLength    FinishReason = "length"     // max_tokens, or the context is full
	FinishResult    FinishReason = "result"     // an embedding or rerank answered
	FinishToolCalls FinishReason = "tool_calls" // the model called tools, and waits for their results
)

// Started is the data of event 0, the snapshot taken at admission (ORCH-3029).
type Started struct {
	TaskID           string      `json:"task_id"`
	QueuePosition    int         `json:"queue_position"`
	PredictedStartMS int64       `json:"predicted_start_ms"`
	Seed             uint32      `json:"seed"`
	Determinism      Determinism `json:"determinism"`
}

// End is the data of the `end` event.
type End struct {
	TokensIn     int             `json:"tokens_in"`
	TokensOut    int             `json:"tokens_out"`
	DecodeTimeMS int64           `json:"decode_time_ms"`
	FinishReason FinishReason    `json:"finish_reason"`
	ToolCalls    []ToolCall      `json:"tool_calls,omitempty"` // whole, in the order in which they began
	Result       json.RawMessage `json:"result,omitempty"`
	Receipt      Receipt         `json:"receipt"`
	// EnergyJ is what the cards took for the task, in joules, and EnergyCost what that cost (LO-504, LO-626); nil: that is not known.
	EnergyJ    *float64 `json:"energy_j,omitempty"`
	EnergyCost *float64 `json:"energy_cost,omitempty"`
}

// Metrics is the data of a `metrics` frame: moving figures, never part of the log (OC-CTRL-2023).
type Metrics struct {
	Phase             Phase   `json:"phase"`
	LoadProgress      float64 `json:"load_progress,omitempty"` // of the pool's model, 0 to 1, in PhaseLoading
	QueueDepth        int     `json:"queue_depth"`
	QueuePosition     int     `json:"queue_position"`
	PredictedStartMS  int64   `json:"predicted_start_ms"`
	OnTimeProbability float64 `json:"on_time_probability"`
	KVWarmth          bool    `json:"kv_warmth"`
	Budgets
	Failover int `json:"failover,omitempty"` // times the task moved to another worker
}

// Phase says what a task is doing, as its stream shows it.
type Phase string

// The phases. A queued task is in PhaseLoading while the pool's model is being loaded. Prefill lasts from dispatch to the first token.
const (
	PhaseQueued  Phase = "queued"
	PhaseLoading Phase = "loading"
	PhasePrefill Phase = "prefill"
	PhaseDecode  Phase = "decode"
	PhaseMoving  Phase = "moving" // after the loss of its worker, until another one has it
)

// Checkpoint is a recorded point of a running task's log. When the task is decoded again, it must have the same sum there.
type Checkpoint struct {
	Event int      // number of the last event that it covers; 0: there is no checkpoint
	Sum   [32]byte // the running SHA-256 up to and with that event
}

// Dispatch says who runs a task.
type Dispatch struct {
	ID          string
	ReplicaID   string
	Fingerprint string
	At          time.Time
}

// Proof is what the end of a task records of its proof bundle, which is made from the record when somebody asks for it
// (OC-CTRL-2067). The zero value belongs to a task without a bundle.
type Proof struct {
	SHA256          [32]byte // of the bundle's bytes
	Size            int      // of the bundle, in bytes
	KeepsPrompt     bool     // the bundle has prompt, messages and inputs in full
	KeepsTranscript bool     // the bundle has the transcript and the result in full
}

// Record is what is known about a task besides its events. The ledger keeps it, and a status is made from it.
type Record struct {
	Task        Task
	State       State
	ReplicaID   string // empty until dispatched
	Fingerprint string // of that replica
	Checkpoint  Checkpoint
	StartedAt   time.Time
	FinishedAt  time.Time
	Transcript  Transcript // of a task in a final state
	End         *End       // set when completed
	Err         *Error     // set when failed or canceled
	EnergyJ     *float64   // as in End, of a task that has none
	EnergyCost  *float64   // the same
	SealedAt    string     // the last event before the terminal one, once final
	LastEventID string
	Proof       Proof     // set by the ledger, once final
	Charge      *Charge   // to be recorded with a final state; nil: it costs nothing
	Deleted     *Deletion // nil: it was not
}

// Deletion is what a deleted task's record says of it, besides its outcome (LO-832).
type Deletion struct {
	At                  time.Time
	TokensIn, TokensOut int
}

// Erased is what stays of the record when the task is deleted: that it existed, how it ended and when, its counts, and whose it was. Nothing of
// it tells what was asked and answered, not by a digest either.
func (r Record) Erased(at time.Time) Record {
	s, t := r.Status(), r.Task
	out := Record{
		Task: Task{
			ID: t.ID, Seq: t.Seq, PoolID: t.PoolID, Engine: t.Engine, Seed: t.Seed, Determinism: t.Determinism, AcceptedAt: t.AcceptedAt,
			PredictedStart: t.PredictedStart,
			Request: Request{
				ModelRef: t.Request.ModelRef, Workload: t.Request.Workload, SessionID: t.Request.SessionID, Priority: t.Request.Priority, Actor: t.Request.Actor,
			},
		},
		State: r.State, ReplicaID: r.ReplicaID, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		Deleted: &Deletion{At: at.UTC().Truncate(time.Millisecond), TokensIn: s.TokensIn, TokensOut: s.TokensOut},
	}
	if r.Err != nil {
		out.Err = Errorf(r.Err.Code, "the task ended with this error; what it said was deleted with the task")
		out.Err.Retriable, out.Err.Engine, out.Err.PoolID = r.Err.Retriable, r.Err.Engine, r.Err.PoolID
	}
	return out
}

// Events are the events of the task's log, as far as the record has them. One that has not ended lacks the terminal event.
func (r Record) Events() Events {
	started := r.Task.Started()
	e := Events{
		To: 1 + len(r.Transcript.Ends), Text: []byte(r.Transcript.Text), Ends: r.Transcript.Ends, Marks: r.Transcript.Marks,
		Logprobs: r.Transcript.Logprobs, Started: &started,
		End: r.End, Err: r.Err, EndedAt: r.FinishedAt,
	}
	if r.State.Final() {
		e.To++
	}
	return e
}

// Status returns the record as a client sees it. The caller fills in the figures that change while a task waits.
func (r Record) Status() Status {
	s := Status{
		ID: r.Task.ID, Seq: r.Task.Seq, State: r.State, PoolID: r.Task.PoolID, Engine: r.Task.Engine, Workload: r.Task.Request.Workload,
		Priority: r.Task.Request.Priority, ModelRef: r.Task.Request.ModelRef, ReplicaID: r.ReplicaID,
		PredictedStart: r.Task.PredictedStart, Seed: r.Task.Seed, Determinism: r.Task.Determinism, AcceptedAt: r.Task.AcceptedAt,
		StartedAt: r.StartedAt, FinishedAt: r.FinishedAt, TokensIn: r.Task.PromptTokens, TokensOut: len(r.Transcript.Ends),
		LastEventID: r.LastEventID, End: r.End, Err: r.Err, Actor: r.Task.Request.Actor,
	}
	s.EnergyJ, s.EnergyCost = r.Energy()
	if r.End != nil {
		s.TokensIn, s.TokensOut = r.End.TokensIn, r.End.TokensOut
	}
	if d := r.Deleted; d != nil {
		s.DeletedAt, s.TokensIn, s.TokensOut = d.At, d.TokensIn, d.TokensOut
	}
	return s
}

// Energy is what the cards took for the task, however it ended (LO-504).
func (r Record) Energy() (joules, cost *float64) {
	if r.End != nil {
		return r.End.EnergyJ, r.End.EnergyCost
	}
	return r.EnergyJ, r.EnergyCost
}

// CancelResult returns the answer to a cancel of a task that has ended.
func (r Record) CancelResult() CancelResult {
	result := CancelResult{TaskID: r.Task.ID, Outcome: r.State, LastEventID: r.LastEventID}
	if r.State == StateCanceled {
		result.LastEventID = r.SealedAt
	}
	return result
}

// Status is a task as GET /v1/tasks/{id} shows it.
type Status struct {
	ID             string
	State          State
	PoolID         string
	Engine         string
	Workload       Workload
	Priority       Priority
	ModelRef       string
	Actor          string // as in Request
	ReplicaID      string // empty until dispatched
	QueuePosition  int    // tasks ahead now; 0 once dispatched
	PredictedStart time.Duration
	Seed           uint32
	Determinism    Determinism
	AcceptedAt     time.Time
	StartedAt      time.Time // zero until dispatched
	FinishedAt     time.Time // zero until final
	DeletedAt      time.Time // zero unless it was deleted
	Seq            uint64    // order of acceptance
	TokensIn       int
	TokensOut      int
	LastEventID    string
	EnergyJ        *float64 // what the cards took, in joules; this and the next are nil where that is not known
	EnergyCost     *float64
	End            *End   // set when completed
	Err            *Error // set when failed or canceled
}

// CancelResult is the answer to a cancel. Outcome is the task's final state. LastEventID is the event at which the log was sealed: for a
// canceled task the last event before `error`, for any other task the log's last event.
type CancelResult struct {
	TaskID      string
	Outcome     State
	LastEventID string
}
