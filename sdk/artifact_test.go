// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/record/artifact"
	"github.com/llama-orch/llama-orch/service/task"
)

// shelf serves one artifact: its entry as it should be, its bytes as they are.
func shelf(text, sent string, status int) http.Handler {
	id := "sha256-" + digest([]byte(text))
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
		require.Equal(t, gen.ArtifactKindProof, a.Kind)
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

// ORCH-3097, OC-CTRL-2067
func TestArtifactsAndProofs(t *testing.T) {
	text, err := artifact.Bundle(recordOf("ab", "cd"), artifact.ProofOptions{}).Encode()
	require.NoError(t, err)
	c, _ := setup(t, shelf(string(text), string(text), 200), func(o *Options) { o.Token = "s3cret" })
	p, raw, err := c.Proof(t.Context(), "t")
	require.NoError(t, err)
	require.Equal(t, text, raw)
	require.Equal(t, "t", p.TaskID)
	_, _, err = c.Proof(t.Context(), "other")
	e, ok := errors.AsType[*Error](err)
	require.True(t, ok, err)
	require.Equal(t, gen.ErrorCodeNOTFOUND, e.Code)
	list, err := c.Artifacts(t.Context(), ArtifactFilter{Kind: gen.ArtifactKindPlan})
	require.NoError(t, err)
	require.Empty(t, list)
	a, err := c.PutArtifact(t.Context(), &gen.ArtifactRequest{Kind: gen.ArtifactKindPlan, Content: "x"})
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

func proofOf(t require.TestingT, r task.Record, o artifact.ProofOptions) *Proof {
	text, err := artifact.Bundle(r, o).Encode()
	require.NoError(t, err)
	p, err := DecodeProof(text)
	require.NoError(t, err)
	return p
}

// The client reads what the server writes: it has no field that the server does not have.
//
// OC-CTRL-2067
func TestTheClientsBundleIsTheServers(t *testing.T) {
	r := recordOf("ab", "cd")
	r.Err, r.End = task.Errorf(task.Internal, "x"), &task.End{TokensIn: 1, TokensOut: 2, DecodeTimeMS: 5, Result: json.RawMessage(`{"a":1}`), Receipt: task.Receipt{ModelDigest: "m"}}
	r.Task.Request.Messages, r.Task.Request.Inputs, r.Task.Request.Ctx = []task.Message{{Role: "user", Content: "<hi>"}}, []string{"x"}, 64
	r.Task.RequestDigest, r.Task.EngineVersion = "d", "v"
	o := artifact.ProofOptions{KeepPrompts: true, KeepTranscripts: true}
	text, err := artifact.Bundle(r, o).Encode()
	require.NoError(t, err)
	again, err := json.Marshal(proofOf(t, r, o))
	require.NoError(t, err)
	var server, client map[string]any
	require.NoError(t, json.Unmarshal(text, &server))
	require.NoError(t, json.Unmarshal(again, &client))
	var within func(at string, client, server any)
	within = func(at string, client, server any) {
		m, ok := client.(map[string]any)
		if !ok {
			require.Equal(t, server, client, at)
			return
		}
		s, ok := server.(map[string]any)
		require.True(t, ok, at)
		for key := range m {
			require.Contains(t, s, key, at)
			within(at+"."+key, m[key], s[key])
		}
	}
	within("", client, server)
}

// LO-301
func TestAgainIsTheSameRequest(t *testing.T) {
	p := proofOf(t, recordOf("ab"), artifact.ProofOptions{})
	_, err := p.Again()
	require.Error(t, err)
	require.False(t, p.Keep(Words{Prompt: "another"}))
	require.False(t, p.Keep(Words{}))
	require.False(t, p.Keep(Words{Prompt: "a <wish>", Inputs: []string{"more"}}))
	require.True(t, p.Keep(Words{Prompt: "a <wish>"}))
	r, err := p.Again()
	require.NoError(t, err)
	require.NoError(t, r.Validate())
	require.Equal(t, &gen.TaskRequest{
		ModelRef: "haiku", Prompt: gen.NewOptString("a <wish>"), Seed: gen.NewOptSeed(7), MaxTokens: gen.NewOptInt(9),
		Workload: gen.NewOptTaskRequestWorkload("completion"), Priority: gen.NewOptTaskRequestPriority("batch"),
		Determinism: gen.NewOptDeterminism("strict"), SamplerProfileVersion: gen.NewOptString("default"),
		Params: gen.NewOptParams(gen.Params{
			Temperature: gen.NewOptFloat64(0.8), TopP: gen.NewOptFloat64(0.95), TopK: gen.NewOptInt(40), MinP: gen.NewOptFloat64(0.05),
			RepeatPenalty: gen.NewOptFloat64(1), Stop: []string{"\n\n"},
		}),
	}, r)

	chat := recordOf("ab")
	chat.Task.Request.Prompt, chat.Task.Request.Messages = "", []task.Message{{Role: "user", Content: "<hi> & bye"}}
	p = proofOf(t, chat, artifact.ProofOptions{})
	require.True(t, p.Keep(Words{Messages: []ProofMessage{{Role: "user", Content: "<hi> & bye"}}}), "both sides hash the same JSON")
	r, err = p.Again()
	require.NoError(t, err)
	require.False(t, r.Prompt.Set)
	require.Equal(t, []gen.Message{{Role: "user", Content: "<hi> & bye"}}, r.Messages)

	rank := recordOf()
	rank.Task.Request.Workload, rank.Task.Request.Inputs = task.Rerank, []string{"a", "b"}
	r, err = proofOf(t, rank, artifact.ProofOptions{KeepPrompts: true}).Again()
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, r.Inputs)
	require.False(t, r.Params.Set, "it samples nothing")
}

// The client and the server give the same verdict of the same runs.
//
// LO-301
func TestTheClientsVerdictIsTheServers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "é", "ab"}), 0, 5)
		r := recordOf(tokens.Draw(t, "recorded")...)
		r.State = rapid.SampledFrom([]task.State{task.Completed, task.StateCanceled, task.Failed}).Draw(t, "state")
		o := artifact.ProofOptions{KeepTranscripts: rapid.Bool().Draw(t, "kept")}
		now := tokens.Draw(t, "now")
		want := artifact.Compare(artifact.Bundle(r, o), recordOf(now...).Transcript)
		got := proofOf(t, r, o).Compare(now, nil)
		require.Equal(t, Verdict{Match: want.Match, Partial: want.Partial, Token: want.Token, Want: want.Want, Got: want.Got}, got)
	})
}

// LO-301
func TestCompareWithTokensFromElsewhere(t *testing.T) {
	p := proofOf(t, recordOf("ab", "cd"), artifact.ProofOptions{})
	require.Equal(t, Verdict{Token: -1}, p.Compare([]string{"ab", "cX"}, nil))
	require.Equal(t, Verdict{Token: 1, Want: "cd", Got: "cX"}, p.Compare([]string{"ab", "cX"}, []string{"ab", "cd"}))
	require.Equal(t, Verdict{Token: -1}, p.Compare([]string{"ab", "cX"}, []string{"other"}), "tokens that are not the recorded ones prove nothing")

	r := recordOf()
	r.End = &task.End{Result: json.RawMessage(`{"v":[1]}`)}
	p = proofOf(t, r, artifact.ProofOptions{})
	require.True(t, p.CompareResult(json.RawMessage(`{"v": [1]}`)).Match)
	require.False(t, p.CompareResult(json.RawMessage(`{"v":[2]}`)).Match)
	require.False(t, p.CompareResult(nil).Match)
}

// LO-301
func FuzzDecodeProof(f *testing.F) {
	for _, keep := range []bool{true, false} {
		text, err := artifact.Bundle(recordOf("ab", "é"), artifact.ProofOptions{KeepPrompts: keep, KeepTranscripts: keep}).Encode()
		require.NoError(f, err)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := DecodeProof(text)
		if err != nil {
			return
		}
		p.Compare([]string{"ab", "x"}, nil)
		_, _ = p.Again()
	})
}
