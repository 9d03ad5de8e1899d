// SPDX-License-Identifier: GPL-3.0-or-later

// Package ledgertest holds every implementation of the ledger to the same promises, and has one in memory that keeps them
// in the plainest way.
package ledgertest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Epoch is when the samples begin.
var Epoch = time.UnixMilli(1_700_000_000_123).UTC()

// ID returns the id of the sample with the given number.
func ID(seq uint64) string { return fmt.Sprintf("task-%d", seq) }

// Sample is a task with the given number.
func Sample(seq uint64) task.Task {
	return task.Task{
		ID: ID(seq), Seq: seq, PoolID: "default", Engine: task.LlamaCpp, Prompt: "Say something.", Seed: uint32(seq),
		Determinism: task.Strict, RequestDigest: strings.Repeat("ab", 32), AcceptedAt: Epoch.Add(time.Duration(seq) * time.Second),
		Request: task.Request{
			ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, Prompt: "Say something.",
			BodySHA256: sha256.Sum256([]byte(ID(seq))), Placement: task.Placement{Mode: task.Auto},
		},
	}
}

// Dispatched is a dispatch of a task.
func Dispatched(t task.Task) task.Dispatch {
	return task.Dispatch{ID: t.ID, ReplicaID: "default-0", Fingerprint: "f1", At: t.AcceptedAt.Add(time.Second)}
}

// Ended is the record of a task with these tokens.
func Ended(t task.Task, state task.State, tokens ...string) task.Record {
	r := task.Record{
		Task: t, State: state, ReplicaID: "default-0", Fingerprint: "f1", StartedAt: t.AcceptedAt.Add(time.Second),
		FinishedAt: t.AcceptedAt.Add(2 * time.Second), SealedAt: fmt.Sprintf("%d-00000000", len(tokens)),
		LastEventID: fmt.Sprintf("%d-11111111", len(tokens)+1),
	}
	for _, token := range tokens {
		r.Transcript.Text += token
		r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
	}
	sum := sha256.Sum256([]byte(r.Transcript.Text))
	if state == task.Completed {
		r.End = &task.End{
			TokensIn: 3, TokensOut: len(tokens), DecodeTimeMS: 12, FinishReason: task.FinishStop,
			Receipt: task.Receipt{Seed: t.Seed, Determinism: t.Determinism, Fingerprint: "f1", TranscriptSHA256: hex.EncodeToString(sum[:])},
		}
	} else {
		r.Err = task.Errorf(task.Canceled, "the task was canceled by its client").Retry(1500 * time.Microsecond)
	}
	return r
}

// Session is a session with no turn yet.
func Session(id string) task.Session {
	return task.Session{
		ID: id, CreatedAt: Epoch, TTL: time.Minute, MaxTurns: 8, Explicit: true, Budget: task.Amount{Tokens: 100, Time: time.Second, Cost: 5, Energy: 90_000},
	}
}

// Full is a record with every field set, but those that exclude each other.
func Full(state task.State) task.Record {
	var r task.Record
	n := 0
	populate(reflect.ValueOf(&r).Elem(), &n)
	r.State, r.Transcript = state, task.Transcript{
		Text: "a\x00ü" + strings.Repeat("x", 300) + "{}!", Ends: []int{2, 2, 4, 304, 304, 305, 306, 307},
		Marks: []task.Mark{
			{Piece: 1, Kind: task.EventReasoning},
			{Piece: 2, Kind: task.EventReasoning},
			{Piece: 4, Kind: task.EventToolCall, Call: task.CallPart{N: 1, ID: "c\x001", Name: "näme"}},
			{Piece: 5, Kind: task.EventToolCall, Call: task.CallPart{N: 1}},
			{Piece: 6, Kind: task.EventToolCall, Call: task.CallPart{N: 1}},
		},
		Logprobs: []string{`[{"token":"\n"}]`, "", "", "", "", "", "", "[]"},
	}
	r.End.Receipt.TranscriptSHA256 = r.Transcript.Digest()
	if state == task.Completed {
		r.Err, r.EnergyJ, r.EnergyCost = nil, nil, nil
	} else {
		r.End = nil
		r.Err.Reasons = nil // those of /readyz; no task ends with them
		r.Err.Narrated = "" // of a refusal, for the log; no task ends with it
	}
	r.Task.Session, r.Charge, r.Deleted = nil, nil, nil // a record that is read has none of the first two
	r.Task.Request.Unfit = nil                          // admission refuses what has any
	r.Task.Request.Path = ""                            // an opaque request is not recorded
	return r
}

// populate gives every field below v a value of its own.
func populate(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(Epoch.Add(time.Duration(*n) * time.Millisecond)))
			return
		}
		for _, field := range v.Fields() {
			populate(field, n)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{fmt.Sprintf("k%d", *n): "v"}))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		populate(v.Elem(), n)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, *n))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			populate(v.Index(i), n)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("<%d> \u2028\x00&", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 251))
	case reflect.Float64:
		v.SetFloat(float64(*n) + 0.1)
	case reflect.Interface: // a low-level cause, which is for the log
	default:
		panic("populate: " + v.Type().String())
	}
}
