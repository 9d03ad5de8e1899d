// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
)

// shelf serves one artifact: its entry as it should be, its bytes as they are.
func shelf(text, sent string, status int) http.Handler {
	id := "sha256-" + proof.Digest([]byte(text))
	entry := fmt.Sprintf(`{"id":%q,"kind":"proof","media_type":"text/plain","size_bytes":%d,"created_at":"2026-11-22T20:15:00.000Z","url":"http://x/"}`, id, len(text))
	mux := http.NewServeMux()
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		}
	}
	mux.HandleFunc("GET /v1/artifacts/{id}", answer(entry))
	mux.HandleFunc("GET /v1/artifacts", func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("kind") != "proof" || q.Get("task_id") != "t" || q.Get("limit") != "1" {
			answer(`{"artifacts":[]}`)(w, r)
			return
		}
		answer(`{"artifacts":[`+entry+`]}`)(w, r)
	})
	mux.HandleFunc("GET /v1/tasks/{id}", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("id") {
		case "runs":
		case "gone":
			envelopeAnswer(w, http.StatusGone, `{"code":"DELETED","message":"it was deleted at noon","retriable":false}`)
			return
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"code":"NOT_FOUND","message":"there is no such task","retriable":false}`)
			return
		}
		answer(`{"task_id":"runs","state":"running","pool_id":"default","engine":"llamacpp","workload":"completion","priority":"batch","model_ref":"haiku",`+
			`"queue_position":0,"predicted_start_ms":0,"seed":42,"determinism":"strict","accepted_at":"2026-11-22T20:15:00.125Z","tokens_in":14,"tokens_out":7}`)(w, r)
	})
	mux.HandleFunc("POST /v1/artifacts", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/v1/artifacts/"+id)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, entry)
	})
	mux.HandleFunc("GET /v1/artifacts/"+id+"/content", func(w http.ResponseWriter, r *http.Request) {
		if status != http.StatusOK {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"code":"NOT_FOUND","message":"it is gone","retriable":false}`)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if len(sent) < len(text) {
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		}
		_, _ = io.WriteString(w, sent)
	})
	return mux
}

// ORCH-3097
func TestArtifactContentIsChecked(t *testing.T) {
	get := func(h http.Handler) (string, error) {
		c, _ := setup(t, h, func(o *Options) { o.Token = "s3cret" })
		a, body, err := c.ArtifactContent(t.Context(), "sha256-"+strings.Repeat("0", 64))
		if err != nil {
			return "", err
		}
		defer body.Close()
		text, err := io.ReadAll(body)
		require.Equal(t, ArtifactKindProof, a.Kind)
		return string(text), err
	}
	text, err := get(shelf("whole", "whole", 200))
	require.NoError(t, err)
	require.Equal(t, "whole", text)
	for _, sent := range []string{"whale", "whole and more", ""} {
		_, err = get(shelf("whole", sent, 200))
		if sent == "" {
			_, ok := errors.AsType[*UnreachableError](err)
			require.True(t, ok, err)
			continue
		}
		_, ok := errors.AsType[*ProtocolError](err)
		require.True(t, ok, err)
	}
	_, err = get(shelf("whole", "", 404))
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok, err)
	require.Equal(t, "it is gone", e.Message)
	require.Equal(t, 404, e.Status)
}

// ORCH-3097, OC-CTRL-2067, LO-847
func TestArtifactsAndProofs(t *testing.T) {
	text, err := bundle.Of(recordOf("ab", "cd")).Encode()
	require.NoError(t, err)
	c, _ := setup(t, shelf(string(text), string(text), 200), func(o *Options) { o.Token = "s3cret" })
	p, raw, err := c.Proof(t.Context(), "t")
	require.NoError(t, err)
	require.Equal(t, text, raw)
	require.Equal(t, "t", p.TaskID)
	_, _, err = c.Proof(t.Context(), "other")
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok, err)
	require.Equal(t, ErrorCodeNotFound, e.Code)
	require.Equal(t, "there is no such task", e.Message, "a task that does not exist has not merely not ended (LO-847)")
	_, _, err = c.Proof(t.Context(), "runs")
	require.ErrorContains(t, err, "task runs has no proof bundle: it is running, and has not ended")
	_, _, err = c.Proof(t.Context(), "gone")
	e, ok = errors.AsType[*Error](err)
	require.True(t, ok, err)
	require.Equal(t, ErrorCodeDeleted, e.Code)
	list, err := c.Artifacts(t.Context(), ArtifactFilter{Kind: ArtifactKindPlan})
	require.NoError(t, err)
	require.Empty(t, list)
	a, err := c.PutArtifact(t.Context(), &ArtifactRequest{Kind: ArtifactKindPlan, Content: "x"})
	require.NoError(t, err)
	require.EqualValues(t, len(text), a.SizeBytes)

	c, _ = setup(t, shelf("no bundle", "no bundle", 200), func(o *Options) { o.Token = "s3cret" })
	_, _, err = c.Proof(t.Context(), "t")
	_, ok = errors.AsType[*ProtocolError](err)
	require.True(t, ok, err)
}

// recordOf is the record of a task that the server would bundle.
func recordOf(tokens ...string) task.Record {
	r := task.Record{
		State: task.Completed, ReplicaID: "default-0", Fingerprint: "f", FinishedAt: time.UnixMilli(5000), StartedAt: time.UnixMilli(2000),
		Task: task.Task{
			ID: "t", PoolID: "default", Engine: "llamacpp", Seed: 7, Determinism: task.Strict, AcceptedAt: time.UnixMilli(1000),
			Sampling: task.Sampling{Profile: "default", Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1, Stop: []string{"\n\n"}},
			Request:  task.Request{ModelRef: "haiku", Workload: task.Completion, Priority: task.Batch, Prompt: "a <wish>", MaxTokens: 9},
		},
	}
	for _, token := range tokens {
		r.Transcript.Text += token
		r.Transcript.Ends = append(r.Transcript.Ends, len(r.Transcript.Text))
	}
	return r
}

func proofOf(r task.Record) *proof.Bundle {
	b := bundle.Of(r)
	return &b
}

// fits holds a request to the contract, and returns it as it is sent.
func fits(t *testing.T, r *TaskRequest) []byte {
	t.Helper()
	text, err := bodyOf[gen.TaskRequest](r)
	require.NoError(t, err)
	return text
}

// LO-301
func TestAgainIsTheSameRequest(t *testing.T) {
	p := proofOf(recordOf("ab"))
	r := Again(p)
	fits(t, r)
	require.Equal(t, "t", r.ReplayOf, "the server has the words")
	require.Empty(t, r.Prompt)
	require.False(t, p.Keep(proof.Words{Prompt: "another"}))
	require.False(t, p.Keep(proof.Words{}))
	require.False(t, p.Keep(proof.Words{Prompt: "a <wish>", Inputs: []string{"more"}}))
	require.True(t, p.Keep(proof.Words{Prompt: "a <wish>"}))
	r = Again(p)
	fits(t, r)
	require.Equal(t, &TaskRequest{
		ModelRef: "haiku", Prompt: "a <wish>", Seed: new(int64(7)), MaxTokens: 9, Workload: WorkloadCompletion, Priority: PriorityBatch,
		Determinism: DeterminismStrict, SamplerProfileVersion: "default",
		Params: &Params{Temperature: new(0.8), TopP: new(0.95), TopK: new(40), MinP: new(0.05), RepeatPenalty: 1, Stop: []string{"\n\n"}},
	}, r)

	chat := recordOf("ab")
	chat.Task.Request.Prompt, chat.Task.Request.Messages = "", []task.Message{{Role: "user", Content: "<hi> & bye"}}
	p = proofOf(chat)
	require.True(t, p.Keep(proof.Words{Messages: []proof.Message{{Role: "user", Content: "<hi> & bye"}}}), "both sides hash the same JSON")
	r = Again(p)
	require.Empty(t, r.Prompt)
	require.Equal(t, []Message{Say("user", "<hi> & bye")}, r.Messages)

	rank := recordOf()
	rank.Task.Request.Workload, rank.Task.Request.Inputs = task.Rerank, []string{"a", "b"}
	rank.Proof.KeepsPrompt = true
	r = Again(proofOf(rank))
	require.Equal(t, []string{"a", "b"}, r.Inputs)
	require.Nil(t, r.Params, "it samples nothing")
}
