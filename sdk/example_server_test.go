// SPDX-License-Identifier: GPL-3.0-or-later

package sdk_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
)

// model is what the examples talk to: a server whose model answers by rule. Its streams have the ids and the receipts of a real one, which the SDK checks.
type model struct {
	*httptest.Server

	mu      sync.Mutex
	tasks   map[string]sdk.TaskRequest
	refuses int // so many submits more
	cuts    int // so many streams more are cut behind their second event
}

func serve() *model {
	m := &model{tasks: map[string]sdk.TaskRequest{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/tasks", m.submit)
	mux.HandleFunc("GET /v1/tasks/{id}/stream", m.stream)
	mux.HandleFunc("GET /v1/artifacts", m.artifacts)
	mux.HandleFunc("GET /v1/artifacts/{id}", m.artifact)
	mux.HandleFunc("GET /v1/artifacts/{id}/content", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bundle()) })
	m.Server = httptest.NewServer(mux)
	return m
}

// client is one of the server's clients.
func (m *model) client() *sdk.Client {
	c, err := sdk.New(sdk.Options{Addr: m.URL, ReconnectDelay: 1})
	if err != nil {
		panic(err)
	}
	return c
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (m *model) submit(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuses > 0 {
		m.refuses--
		answer(w, http.StatusTooManyRequests, sdk.Error{Code: sdk.ErrorCodeAdmissionReject, Message: "the queue is full", Retriable: true, RetryAfter: 1})
		return
	}
	var request sdk.TaskRequest
	_ = json.NewDecoder(r.Body).Decode(&request)
	if request.TaskID == "" {
		request.TaskID = fmt.Sprintf("task-%d", len(m.tasks)+1)
	}
	m.tasks[request.TaskID] = request
	answer(w, http.StatusAccepted, sdk.Admission{TaskID: request.TaskID, PoolID: "default", Seed: 42, Determinism: sdk.DeterminismStrict})
}

// says is the model: it calls a tool that it has, and answers with what the tool said, or by the words that it was asked.
func says(r sdk.TaskRequest) (words []string, call string) {
	asked := r.Prompt
	for _, m := range r.Messages {
		asked = m.Content.Text
		for _, p := range m.Content.Parts {
			if p.Type == sdk.PartTypeImage {
				asked = "an image"
			}
		}
		if m.Role == sdk.RoleTool {
			return []string{"It is ", asked, "."}, ""
		}
	}
	if len(r.Tools) > 0 {
		return nil, `{"city":"Bern"}`
	}
	switch {
	case strings.Contains(asked, "image"):
		return []string{"A red ", "square."}, ""
	case strings.Contains(asked, "snow"):
		return []string{"White ", "snow."}, ""
	}
	return []string{"Soft ", "rain."}, ""
}

func (m *model) stream(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	request := m.tasks[r.PathValue("id")]
	cut := m.cuts > 0
	m.cuts -= min(m.cuts, 1)
	m.mu.Unlock()
	words, call := says(request)
	running, text, n := sha256.New(), "", 0
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(name, data string) {
		fmt.Fprintf(running, "%s\n%s\n", name, data)
		id := fmt.Sprintf("%d-%x", n, running.Sum(nil)[:4])
		if n++; n > after(r.Header.Get("Last-Event-ID")) && (!cut || n <= 2) {
			fmt.Fprintf(w, "id: %s\nevent: %s\ndata: %s\n\n", id, name, data)
		}
	}
	encode := func(v any) string { out, _ := json.Marshal(v); return string(out) }
	send("started", encode(sdk.Started{TaskID: request.TaskID, Seed: 42, Determinism: sdk.DeterminismStrict}))
	end := sdk.End{FinishReason: sdk.FinishReasonStop, Receipt: sdk.Receipt{Seed: 42, Determinism: sdk.DeterminismStrict}}
	var sum proof.Sum
	for i, word := range words {
		sum.Add(proof.Piece{Text: word})
		text += word
		send("token", fmt.Sprintf(`{"t":%s,"i":%d}`, encode(word), i))
	}
	if call != "" {
		whole := sdk.Call{ID: "c1", Name: "weather", Arguments: call}
		sum.Add(proof.Piece{Kind: proof.Call, ID: whole.ID, Name: whole.Name, Text: call})
		send("tool_call", fmt.Sprintf(`{"n":0,"id":"c1","name":"weather","arguments":%s}`, encode(call)))
		end.ToolCalls, end.FinishReason = []sdk.Call{whole}, sdk.FinishReasonToolCalls
	}
	digest, form := sum.Digest()
	end.Receipt.TranscriptSHA256, end.Receipt.TranscriptForm, end.TokensOut = digest, sdk.ReceiptTranscriptForm(form), n-1
	send("end", encode(end))
}

// after is how many events a client holds.
func after(id string) (n int) {
	if _, err := fmt.Sscanf(id, "%d-", &n); err != nil {
		return 0
	}
	return n + 1
}

// bundle is the proof bundle of every task.
func bundle() []byte {
	var sum proof.Sum
	sum.Add(proof.Piece{Text: "Soft rain."})
	digest, _ := sum.Digest()
	text, err := proof.Bundle{Format: proof.Format, TaskID: "rain", Outcome: "completed", Transcript: proof.Transcript{SHA256: digest, Tokens: 2, Bytes: 10}}.Encode()
	if err != nil {
		panic(err)
	}
	return text
}

func (m *model) entry() sdk.Artifact {
	sum := sha256.Sum256(bundle())
	return sdk.Artifact{ID: "sha256-" + hex.EncodeToString(sum[:]), Kind: sdk.ArtifactKindProof, MediaType: proof.MediaType, SizeBytes: int64(len(bundle())), URL: m.URL}
}

func (m *model) artifacts(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, stamped{sdk.ArtifactList{Artifacts: []sdk.Artifact{m.entry()}}})
}

func (m *model) artifact(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, stamped{m.entry()})
}

// stamped writes points in time as the contract has them, with milliseconds.
type stamped struct{ of any }

func (s stamped) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(s.of)
	return []byte(strings.ReplaceAll(string(text), "0001-01-01T00:00:00Z", "2026-11-22T20:15:00.125Z")), err
}
