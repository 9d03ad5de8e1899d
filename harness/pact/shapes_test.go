// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/pact-foundation/pact-go/v2/matchers"
	"github.com/pact-foundation/pact-go/v2/models"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

// The seed and prompt of every task that a provider state brings about.
const (
	seed   = 42
	prompt = "Write a haiku about rain containing \"seven\".\n\n"
)

// The provider states, by name; provider_test.go has what each does.
const (
	stateReady     = "a pool is ready"
	stateCompleted = "a task has completed"
	stateRunning   = "a task runs"
	stateCanceled  = "a task was canceled"
	stateDeleted   = "a task was deleted"
	stateFull      = "the queue of the pool slow is full"
	stateUnready   = "no replica of the pool down is ready"
	stateSpare     = "the pool spare is ready"
	stateReloading = "the pool spare is being reloaded"
	stateNoGPU     = "the machine has no GPU"
	stateSpent     = "a session was begun with a budget of 10 tokens"
	stateSession   = "a session with 4 turns and a budget of 2000 tokens was begun"
	stateShelf     = "the catalog has the model shelf"
	stateNoShelf   = "the catalog has no model shelf"
	stateStored    = "an artifact is stored"
)

func state(name string) models.ProviderState { return models.ProviderState{Name: name} }

func stateOf(name, taskID string) models.ProviderState {
	return models.ProviderState{Name: name, Parameters: map[string]any{"task_id": taskID}}
}

// The forms of values that both consumers rely on.
var (
	like        = matchers.Like
	count       = matchers.Integer(0)
	eventID     = matchers.Regex("7-9f86d081", `^(0|[1-9][0-9]*)-[0-9a-f]{8}$`)
	instant     = matchers.Regex("2026-11-22T20:15:00.125Z", `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}(Z|[+-][0-9]{2}:[0-9]{2})$`)
	poolState   = matchers.Regex("ready", `^(ready|loading|unloaded|fetching|draining|drained|failed)$`)
	lifecycle   = matchers.Regex("pinned", `^(pinned|on_demand)$`)
	replicaIs   = matchers.Regex("ready", `^(provisioning|loading|probing|ready|backoff|draining|stopped|failed)$`)
	workload    = matchers.Regex("completion", `^(completion|embedding|rerank)$`)
	priority    = matchers.Regex("interactive", `^(interactive|batch)$`)
	determinism = matchers.Regex("strict", `^(strict|best_effort)$`)
	hexDigest   = matchers.Regex(strings.Repeat("9b74", 16), `^[0-9a-f]{64}$`)
	correlation = matchers.Regex("0b4f6c1e-7f0b-4f5d-9a5e-2f1f3b0f6a11", `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	positive    = matchers.Regex("2", `^[1-9][0-9]*$`)
	jsonType    = matchers.Regex("application/json", `^application/json(;.*)?$`)
)

// plain has the headers of an answer in JSON.
func plain() map[string]matchers.Matcher {
	return map[string]matchers.Matcher{"Content-Type": jsonType, "X-Correlation-Id": correlation}
}

// backOff has the headers of a 429.
func backOff() map[string]matchers.Matcher {
	h := plain()
	h["Retry-After"], h["X-Backoff-Ms"] = positive, positive
	return h
}

func refusal(code task.Code, retriable bool) object {
	return object{"code": string(code), "message": like("what is wrong and what to do"), "retriable": retriable}
}

// queueFull is the refusal of a full queue.
func queueFull() object {
	e := refusal(task.AdmissionReject, true)
	e["retry_after_ms"], e["policy_label"] = matchers.Integer(1250), "reject"
	e["engine"], e["pool_id"] = like("llamacpp"), "slow"
	return e
}

func admission(taskID string) object {
	return object{
		"task_id": taskID, "pool_id": like("default"), "queue_position": count, "predicted_start_ms": count, "backoff_ms": count,
		"seed": matchers.Integer(seed), "determinism": determinism,
	}
}

func accepted(taskID string) map[string]matchers.Matcher {
	h := plain()
	h["Location"] = matchers.S("/v1/tasks/" + taskID)
	return h
}

func receipt() object {
	return object{
		"seed": matchers.Integer(seed), "determinism": determinism, "fingerprint": like("fp-962eabc74e2da322"), "request_digest": hexDigest,
		"transcript_sha256": hexDigest, "transcript_form": matchers.Regex("text", "^(text|parts)$"), "replica_id": like("default-0"), "engine_version": like("llama.cpp v0.5.0 built-in"),
		"model_digest": like("sha256:f7532452"),
	}
}

func status(taskID any, state task.State) object {
	s := object{
		"task_id": taskID, "state": string(state), "pool_id": like("default"), "engine": like("llamacpp"), "workload": workload,
		"priority": priority, "model_ref": like("haiku"), "queue_position": count, "predicted_start_ms": count,
		"seed": matchers.Integer(seed), "determinism": determinism, "accepted_at": instant, "tokens_in": matchers.Integer(19),
		"tokens_out": matchers.Integer(28), "replica_id": like("default-0"), "started_at": instant,
		"actor": matchers.Regex("localhost", "^(localhost|self-test|token:[0-9a-f]{6})$"),
	}
	if !state.Final() {
		return s
	}
	s["finished_at"], s["last_event_id"] = instant, eventID
	switch state {
	case task.Completed:
		s["end"] = object{
			"tokens_in": matchers.Integer(19), "tokens_out": matchers.Integer(28), "decode_time_ms": matchers.Integer(39),
			"finish_reason": matchers.Regex("stop", "^(stop|length|tool_calls|result)$"), "receipt": receipt(),
		}
	case task.StateCanceled:
		s["error"] = refusal(task.Canceled, false)
	}
	return s
}

func session(id string, maxTurns int) object {
	return object{
		"session_id": id, "turns": count, "max_turns": maxTurns, "ttl_remaining_ms": matchers.Integer(600000), "kv_warmth": like(false),
		"budget_tokens_remaining": 2000, "created_at": instant,
	}
}

// overBudget is the refusal of a task that is too large for the session's budget.
func overBudget() object {
	e := refusal(task.BudgetExceeded, false)
	e["retry_after_ms"], e["policy_label"] = matchers.Integer(599000), "budget"
	e["engine"], e["pool_id"] = like("llamacpp"), "slow"
	return e
}

func canceled(taskID string, outcome task.State) object {
	return object{"task_id": taskID, "outcome": string(outcome), "last_event_id": eventID}
}

func model() object { return object{"id": like("haiku"), "ref": like("file:models/haiku/haiku.gguf")} }

func pool() object {
	return object{
		"id": like("default"), "state": poolState, "engine": like("llamacpp"), "engine_version": like("llama.cpp v0.5.0 built-in"), "model": model(),
		"workload": workload, "device": like("cpu"), "ctx": matchers.Integer(256), "slots": matchers.Integer(1),
		"sampler_profile": like("default"), "ready": like(true), "draining": like(false), "lifecycle": lifecycle, "loaded": like(true), "replicas": matchers.Integer(1),
		"replicas_ready": matchers.Integer(1), "queue": object{
			"depth": count, "interactive": count, "batch": count, "capacity": matchers.Integer(64),
			"full_policy": matchers.Regex("reject", "^(reject|drop-lru)$"),
		},
	}
}

func poolHealth(id string) object {
	p := pool()
	p["id"] = id
	return object{"pool": p, "gpus": like([]any{}), "replicas": matchers.EachLike(object{
		"id": like(id + "-0"), "state": replicaIs, "restarts": count, "fingerprint": like("fp-962eabc74e2da322"),
		"engine_version": like("llama.cpp v0.5.0 built-in"), "device": like("cpu"), "slots": matchers.Integer(1), "active": count,
		"cards": like([]any{}), "log_tail": like([]any{}),
	}, 1)}
}

func draining(id string, deadlineMS int) object {
	return object{"pool_id": id, "draining": true, "running": count, "queued": count, "deadline_ms": deadlineMS}
}

func standing(id string) object {
	return object{"pool_id": id, "state": poolState, "running": count, "queued": count}
}

func reloaded(id, ref string) object {
	return object{
		"pool_id": id, "model": object{"id": like("spare"), "ref": ref}, "previous_model_ref": like("file:models/haiku/haiku.gguf"),
		"took_ms": matchers.Integer(840),
	}
}

// noGPUs is the answer about GPUs on a machine that has none.
func noGPUs() object {
	return object{"problem": like("why no GPU can be used, and what to do"), "gpus": like([]any{})}
}

func explanation() object {
	return object{
		"pool_id": "default", "replica_id": like("default-0"), "evictions": like([]any{}),
		"candidates": matchers.EachLike(object{"pool_id": like("default"), "chosen": like(true), "reasons": matchers.EachLike("the only one", 1)}, 1),
	}
}

func capabilities() object {
	return object{
		"api_version": matchers.Regex("1.0.0", `^1\.[0-9.]+$`), "server_version": like("0.1.0"),
		"pools": matchers.EachLike(object{
			"id": like("default"), "engine": like("llamacpp"), "engine_version": like("llama.cpp v0.5.0 built-in"), "model": model(),
			"workload": workload, "ctx": matchers.Integer(256), "slots": matchers.Integer(1), "replicas": matchers.Integer(1),
			"replicas_ready": matchers.Integer(1),
		}, 1),
		"limits": object{
			"max_body_bytes": matchers.Integer(4194304), "max_prompt_bytes": matchers.Integer(1048576), "max_messages": matchers.Integer(256),
			"max_inputs": matchers.Integer(256), "max_stop": matchers.Integer(16), "max_seed": matchers.Integer(4294967294),
			"max_deadline_ms": matchers.Integer(86400000),
		},
		"features": matchers.EachLike("stream_resume", 1), "gpus": like([]any{}),
		"operations": matchers.EachLike(object{
			"id": like("createTask"), "method": like("POST"), "path": like("/v1/tasks"),
			"plane":  matchers.Regex("data", "^(data|control|catalog|artifacts|ops)$"),
			"status": matchers.Regex("live", "^(live|not_implemented)$"),
		}, 1),
	}
}

// streaming has the headers of an event stream.
func streaming() map[string]matchers.Matcher {
	return map[string]matchers.Matcher{
		"Content-Type": matchers.Regex("text/event-stream", "^text/event-stream(;.*)?$"), "Cache-Control": matchers.S("no-store"),
		"X-Correlation-Id": correlation,
	}
}

// The frames of a stream as regular expressions. They name the fields in the order in which these are sent. The ids are hashes over these bytes, so
// another order would be another contract.
const (
	anyID        = `[0-9]+-[0-9a-f]{8}`
	metricsIs    = `(?:event: metrics\ndata: \{"phase":[^\n]*\}\n\n|:[^\n]*\n\n)*`
	tokensAre    = `(?:id: ` + anyID + `\nevent: token\ndata: \{"t":"(?:[^"\\\n]|\\[^\n])*","i":[0-9]+\}\n\n` + metricsIs + `)`
	digestIs     = `"[0-9a-f]{64}"`
	wordIs       = `"[^"\n]+"`
	startedTail  = `"queue_position":[0-9]+,"predicted_start_ms":[0-9]+,"seed":42,"determinism":"strict"\}\n\n` + metricsIs
	endIs        = `id: ` + anyID + `\nevent: end\ndata: \{"tokens_in":[0-9]+,"tokens_out":[0-9]+,"decode_time_ms":[0-9]+,"finish_reason":"(?:stop|length)",` + receiptIs + `\}\n\n$`
	receiptIs    = `"receipt":\{"seed":42,"determinism":"strict","fingerprint":` + wordIs + `,"request_digest":` + digestIs + `,"transcript_sha256":` + digestIs + `,"replica_id":` + wordIs + `,"engine_version":` + wordIs + `,"model_digest":` + wordIs + `,"transcript_form":"text"(?:,"tokens_cached":[0-9]+)?\}`
	canceledIs   = `id: ` + anyID + `\nevent: error\ndata: \{"code":"CANCELED","message":"[^\n]+","retriable":false[^\n]*\}\n\n$`
	resetIs      = `^id: 999999999999999999-[0-9a-f]{8}\nevent: error\ndata: \{"code":"WORKER_RESET","message":"[^\n]+","retriable":true[^\n]*\}\n\n$`
	resetExample = "id: 999999999999999999-5ac1da8f\nevent: error\ndata: {\"code\":\"WORKER_RESET\",\"message\":\"read the stream from the start\",\"retriable\":true}\n\n"
)

func startedIs(taskID string) string {
	return `^id: 0-[0-9a-f]{8}\nevent: started\ndata: \{"task_id":"` + taskID + `",` + startedTail
}

// transcript is the text of the example streams.
var transcript = []string{"rain", " ", "at seven"}

// example returns a stream as the daemon would send it, with correct ids and a correct receipt, and the id of its first event. A canceled stream ends
// after its first token.
func example(taskID string, canceled bool) (whole, afterFirst, firstID string) {
	started := task.Started{TaskID: taskID, Seed: seed, Determinism: task.Strict}
	firstID = stream.New(started, time.Now).LastEventID()
	var said task.Transcript
	for _, text := range transcript {
		said.Text += text
		said.Ends = append(said.Ends, len(said.Text))
	}
	sum := sha256.Sum256([]byte(said.Text))
	digest := strings.Repeat("c3c0", 16)
	record := task.Record{Transcript: said, End: &task.End{
		TokensIn: 19, TokensOut: len(said.Ends), DecodeTimeMS: 39, FinishReason: task.FinishStop, Receipt: task.Receipt{
			Seed: seed, Determinism: task.Strict, Fingerprint: "fp-962eabc74e2da322", RequestDigest: digest, TranscriptSHA256: hex.EncodeToString(sum[:]),
			ReplicaID: "default-0", EngineVersion: "llama.cpp v0.5.0 built-in", ModelDigest: "sha256:" + digest, TranscriptForm: task.FormText,
		},
	}}
	if canceled {
		said.Ends = said.Ends[:1]
		record = task.Record{Transcript: said, Err: task.Errorf(task.Canceled, "the task was canceled")}
	}
	log := stream.Rebuild(started, record)
	return read(log, ""), read(log, firstID), firstID
}

func read(log *stream.Log, after string) string {
	s, err := log.Subscribe(after, 0)
	if err != nil {
		panic(err) // the id is the log's own
	}
	defer s.Close()
	var out strings.Builder
	for {
		frames, err := s.Next(context.Background(), nil)
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			panic(err) // the log has ended, so this does not wait
		}
		out.Write(frames)
		s.Written()
	}
}
