// SPDX-License-Identifier: GPL-3.0-or-later

// Package bundle makes proof bundles. A bundle is a view of a task's record: it is made when somebody asks for it, and the
// record holds its digest, so that everybody gets the same bytes (OC-CTRL-2067).
package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/service/task"
)

// Keep says what bundles have in full, and not by their digests alone.
type Keep struct {
	Prompts     bool
	Transcripts bool
}

// Prove is what the end of a task records of its bundle.
func Prove(r task.Record, k Keep) (task.Proof, error) {
	r.Proof = task.Proof{KeepsPrompt: k.Prompts, KeepsTranscript: k.Transcripts}
	text, err := Of(r).Encode()
	if err != nil {
		return task.Proof{}, err
	}
	r.Proof.SHA256, r.Proof.Size = sha256.Sum256(text), len(text)
	return r.Proof, nil
}

// Why a record gives no bundle.
var (
	// ErrNone: the record has no digest of a bundle. The task has not ended, or a version ended it that wrote bundles to files.
	ErrNone = errors.New("the record has no proof bundle")
	// ErrChanged: what the record holds is not what it held when the task ended.
	ErrChanged = errors.New("the record does not give the proof bundle whose digest it holds")
)

// Text returns the bytes of a task's bundle. They have the digest that is in the record. ErrNone, ErrChanged.
func Text(r task.Record) ([]byte, error) {
	if r.Proof.SHA256 == [sha256.Size]byte{} {
		return nil, fmt.Errorf("task %s: %w", r.Task.ID, ErrNone)
	}
	text, err := Of(r).Encode()
	if err == nil && sha256.Sum256(text) != r.Proof.SHA256 {
		err = fmt.Errorf("task %s: %w", r.Task.ID, ErrChanged)
	}
	return text, err
}

// Of makes the bundle of a task that has ended. The same record gives the same bundle.
func Of(r task.Record) proof.Bundle {
	t := r.Task
	b := proof.Bundle{
		Format: proof.Format, TaskID: t.ID, Outcome: string(r.State), Request: request(t.Request, r.Proof.KeepsPrompt), Seed: t.Seed,
		Determinism: string(t.Determinism), Sampling: proof.Sampling(t.Sampling), RequestDigest: t.RequestDigest,
		Placement: proof.Placement{
			PoolID: t.PoolID, ModelID: t.ModelID, Engine: t.Engine, EngineVersion: t.EngineVersion, ReplicaID: r.ReplicaID,
			Fingerprint: r.Fingerprint, Reasons: reasons(r),
		},
		Timing: proof.Timing{
			AcceptedAt: moment(t.AcceptedAt), FinishedAt: moment(r.FinishedAt), PredictedStartMS: t.PredictedStart.Milliseconds(),
		},
		Metrics: proof.Metrics{QueuePosition: t.QueuePosition, TokensIn: t.PromptTokens, TokensOut: len(r.Transcript.Ends)},
		Transcript: proof.Transcript{
			SHA256: r.Transcript.Digest(), Bytes: len(r.Transcript.Text), Tokens: len(r.Transcript.Ends), Kept: r.Proof.KeepsTranscript,
		},
		LastEventID: r.LastEventID,
	}
	if form := r.Transcript.Form(); form != task.FormText {
		b.Transcript.Form = string(form)
	}
	if r.Proof.KeepsTranscript {
		b.Transcript.Text, b.Transcript.Ends, b.Transcript.Runs = r.Transcript.Text, r.Transcript.Ends, runs(r.Transcript.Marks)
		for _, l := range r.Transcript.Logprobs {
			b.Transcript.Logprobs = append(b.Transcript.Logprobs, json.RawMessage(cmp.Or(l, "null")))
		}
	}
	ran := b.Timing.FinishedAt // for a task that never ran
	if !r.StartedAt.IsZero() {
		ran = moment(r.StartedAt)
		b.Timing.StartedAt = &ran
	}
	b.Timing.WaitedMS = max(ran.Sub(b.Timing.AcceptedAt).Milliseconds(), 0)
	b.Timing.RanMS = max(b.Timing.FinishedAt.Sub(ran).Milliseconds(), 0)
	b.Metrics.EnergyJ, b.Metrics.EnergyCost = r.Energy()
	if r.Err != nil {
		b.Error = failure(r.Err.Envelope())
	}
	if e := r.End; e != nil {
		b.Receipt = receipt(e.Receipt)
		b.Timing.DecodeTimeMS = e.DecodeTimeMS
		b.Metrics.TokensIn, b.Metrics.TokensOut = e.TokensIn, e.TokensOut
		if e.DecodeTimeMS > 0 {
			b.Metrics.TokensPerSec = float64(e.TokensOut*1000*100/int(e.DecodeTimeMS)) / 100
		}
		b.Result = result(e.Result, r.Proof.KeepsTranscript)
	}
	return b
}

// moment is a time as exact as the ledger keeps it: a bundle that is made after a restart must be the one made before.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func failure(e task.Envelope) *proof.Error {
	return &proof.Error{
		Code: string(e.Code), Message: e.Message, Retriable: e.Retriable, RetryAfterMS: e.RetryAfterMS, PolicyLabel: e.PolicyLabel,
		Engine: e.Engine, PoolID: e.PoolID, Hint: e.Hint,
	}
}

func receipt(r task.Receipt) *proof.Receipt {
	return &proof.Receipt{
		Seed: r.Seed, Determinism: string(r.Determinism), Fingerprint: r.Fingerprint, RequestDigest: r.RequestDigest,
		TranscriptSHA256: r.TranscriptSHA256, ReplicaID: r.ReplicaID, EngineVersion: r.EngineVersion, ModelDigest: r.ModelDigest,
		TranscriptForm: string(r.TranscriptForm), TokensCached: r.TokensCached, ContinuedAt: r.ContinuedAt,
	}
}

func request(r task.Request, keep bool) proof.Request {
	p := proof.Request{
		ModelRef: r.ModelRef, Workload: string(r.Workload), Engine: r.Engine, Priority: string(r.Priority), SessionID: r.SessionID,
		Determinism: string(r.Determinism), Seed: r.Seed, Params: proof.Params(r.Params), SamplerProfile: r.SamplerProfile,
		MaxTokens: r.MaxTokens, DeadlineMS: r.Deadline.Milliseconds(), Ctx: r.Ctx,
		Placement: proof.Wish{Mode: string(r.Placement.Mode), PoolID: r.Placement.PoolID, Avoid: r.Placement.Avoid},
		Kept:      keep, BodySHA256: hex.EncodeToString(r.BodySHA256[:]), CorrelationID: r.CorrelationID, Actor: r.Actor,
	}
	messages, asked := messages(r.Messages), chat(r.Chat)
	if r.Prompt != "" {
		p.PromptSHA256 = proof.Digest([]byte(r.Prompt))
	}
	if len(messages) > 0 {
		p.MessagesSHA256 = proof.DigestMessages(messages)
	}
	if len(r.Inputs) > 0 {
		p.InputsSHA256 = proof.DigestInputs(r.Inputs)
	}
	if !asked.Empty() {
		p.ChatSHA256 = proof.DigestChat(asked)
	}
	if keep {
		p.Prompt, p.Messages, p.Inputs = r.Prompt, messages, r.Inputs
		if !asked.Empty() {
			p.Chat = &asked
		}
	}
	return p
}

func result(value json.RawMessage, keep bool) *proof.Result {
	if len(value) == 0 {
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return &proof.Result{SHA256: proof.Digest(value)} // the engine sent something that is no JSON
	}
	p := &proof.Result{SHA256: proof.Digest(compact.Bytes())}
	if keep {
		p.Value = compact.Bytes()
	}
	return p
}

// reasons say why the task ran where it did, as far as the record tells.
func reasons(r task.Record) []string {
	wish, pool := r.Task.Request.Placement, r.Task.PoolID
	var why string
	switch {
	case r.Task.PinnedPool:
		why = "the request pinned pool " + pool
	case r.Task.Fallback:
		why = "the request preferred pool " + wish.PoolID + ", which could not take it; pool " + pool + " could"
	case wish.Mode == task.Prefer:
		why = "the request preferred pool " + pool
	default:
		why = "pool " + pool + " was chosen among those that serve " + r.Task.Request.ModelRef
	}
	if r.ReplicaID == "" {
		return []string{why, "no replica was chosen: the task ended in the queue"}
	}
	return []string{why}
}
