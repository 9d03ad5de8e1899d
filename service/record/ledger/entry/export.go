// SPDX-License-Identifier: GPL-3.0-or-later

package entry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Exported is a line of an export. It has the digests of prompts and answers, and their text if the caller asks for it.
type Exported struct {
	TaskID           string              `json:"task_id"`
	Seq              uint64              `json:"seq"`
	State            task.State          `json:"state"`
	PoolID           string              `json:"pool_id"`
	Engine           string              `json:"engine"`
	Workload         task.Workload       `json:"workload"`
	Priority         task.Priority       `json:"priority"`
	ModelRef         string              `json:"model_ref"`
	SessionID        string              `json:"session_id,omitempty"`
	Seed             uint32              `json:"seed"`
	Determinism      task.Determinism    `json:"determinism"`
	RequestDigest    string              `json:"request_digest"`
	ReplicaID        string              `json:"replica_id,omitempty"`
	Fingerprint      string              `json:"fingerprint,omitempty"`
	AcceptedAt       time.Time           `json:"accepted_at"`
	StartedAt        time.Time           `json:"started_at,omitzero"`
	FinishedAt       time.Time           `json:"finished_at,omitzero"`
	TokensIn         int                 `json:"tokens_in"`
	TokensOut        int                 `json:"tokens_out"`
	LastEventID      string              `json:"last_event_id,omitempty"`
	PromptSHA256     string              `json:"prompt_sha256,omitempty"`
	TranscriptSHA256 string              `json:"transcript_sha256,omitempty"`
	TranscriptForm   task.TranscriptForm `json:"transcript_form,omitempty"`
	Receipt          *task.Receipt       `json:"receipt,omitempty"`
	Error            *StoredError        `json:"error,omitempty"`
	DeletedAt        time.Time           `json:"deleted_at,omitzero"`
	Text             *Text               `json:"text,omitempty"`
}

// Text is the text of a task, which an export leaves out unless the caller asks for it.
type Text struct {
	Prompt     string          `json:"prompt"`
	Messages   []task.Message  `json:"messages,omitempty"`
	Chat       *task.Chat      `json:"chat,omitempty"`
	Inputs     []string        `json:"inputs,omitempty"`
	Transcript string          `json:"transcript,omitempty"` // of the answer
	Reasoning  string          `json:"reasoning,omitempty"`
	ToolCalls  []task.ToolCall `json:"tool_calls,omitempty"`
	Result     json.RawMessage `json:"result,omitempty"`
}

// Export is a task as an export has it.
func Export(r task.Record, withText bool) Exported {
	s, t := r.Status(), r.Task
	e := Exported{
		TaskID: t.ID, Seq: t.Seq, State: r.State, PoolID: t.PoolID, Engine: t.Engine, Workload: s.Workload, Priority: s.Priority,
		ModelRef: s.ModelRef, SessionID: t.Request.SessionID, Seed: t.Seed, Determinism: t.Determinism,
		RequestDigest: t.RequestDigest, ReplicaID: r.ReplicaID, Fingerprint: r.Fingerprint, AcceptedAt: t.AcceptedAt,
		StartedAt: r.StartedAt, FinishedAt: r.FinishedAt, TokensIn: s.TokensIn, TokensOut: s.TokensOut,
		LastEventID: r.LastEventID,
	}
	if r.Err != nil {
		e.Error = storeError(r.Err)
	}
	if r.Deleted != nil {
		e.DeletedAt = r.Deleted.At
		return e
	}
	e.PromptSHA256 = digest(t.Prompt)
	if r.State.Final() {
		e.TranscriptSHA256, e.TranscriptForm = r.Transcript.Digest(), r.Transcript.Form()
	}
	if r.End != nil {
		e.Receipt = &r.End.Receipt
	}
	if withText {
		p := r.Transcript.Parts()
		e.Text = &Text{
			Prompt: t.Prompt, Messages: t.Request.Messages, Chat: t.Request.Chat, Inputs: t.Request.Inputs, Transcript: p.Answer, Reasoning: p.Reasoning,
			ToolCalls: p.Calls,
		}
		if r.End != nil {
			e.Text.Result = r.End.Result
		}
	}
	return e
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
