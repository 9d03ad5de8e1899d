// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// Anthropic is the front of message batches in Anthropic's words. It implements gate.Front.
type Anthropic struct {
	front

	endpoint string
}

// NewAnthropic makes a front for batches of requests to a path. Refuse answers with an error in the dialect's shape.
func NewAnthropic(f *Feeder, o exchange.Options, endpoint string, refuse func(http.ResponseWriter, *http.Request, error)) *Anthropic {
	a := &Anthropic{front{f: f, x: exchange.New(anthropic, o), refuse: refuse}, endpoint}
	a.routes = exchange.Routes{
		messageBatches: {
			http.MethodPost: {Name: "anthropic.create_batch", Serve: a.create, Upload: f.o.FileBytes},
			http.MethodGet:  {Name: "anthropic.batches", Serve: a.list},
		},
		messageBatches + "/": {
			http.MethodGet:    {Name: "anthropic.batch", Serve: a.one},
			http.MethodPost:   {Name: "anthropic.cancel_batch", Serve: a.cancel},
			http.MethodDelete: {Name: "anthropic.delete_batch", Serve: a.remove},
		},
	}
	return a
}

const messageBatches = "/v1/messages/batches"

// messageBatchPrefix is what the ids of message batches begin with.
const messageBatchPrefix = "msgbatch_"

// messageBatchView is a batch, with all the fields that the dialect's document has.
type messageBatchView struct {
	ID         string            `json:"id"`
	Type       string            `json:"type"`
	Status     string            `json:"processing_status"`
	Counts     messageCountsView `json:"request_counts"`
	CreatedAt  time.Time         `json:"created_at"`
	ExpiresAt  time.Time         `json:"expires_at"`
	EndedAt    *time.Time        `json:"ended_at"`
	CancelAt   *time.Time        `json:"cancel_initiated_at"`
	ArchivedAt *time.Time        `json:"archived_at"`
	ResultsURL *string           `json:"results_url"`
}

type messageCountsView struct {
	Processing int `json:"processing"`
	Succeeded  int `json:"succeeded"`
	Errored    int `json:"errored"`
	Canceled   int `json:"canceled"`
	Expired    int `json:"expired"`
}

// view is a batch as the request's client sees it, who finds the results under the name by which it knows the server.
func (a *Anthropic) view(r *http.Request, b task.BatchRecord) messageBatchView {
	c := b.Counts
	v := messageBatchView{
		ID: b.ID, Type: "message_batch", Status: "in_progress", CreatedAt: b.CreatedAt, ExpiresAt: b.ExpiresAt, EndedAt: unlessZero(b.EndedAt), CancelAt: unlessZero(b.CancelAt),
		Counts: messageCountsView{b.Total - c.Completed - c.Failed - c.Canceled - c.Expired, c.Completed, c.Failed, c.Canceled, c.Expired},
	}
	switch {
	case !b.EndedAt.IsZero():
		v.Status = "ended"
		scheme := "http"
		if port.Secure(r.Context()) || r.Header.Get("X-Forwarded-Proto") == "https" { // a proxy has the certificate
			scheme = "https"
		}
		url := scheme + "://" + r.Host + messageBatches + "/" + b.ID + "/results"
		v.ResultsURL = &url
	case !b.CancelAt.IsZero():
		v.Status = "canceling"
	}
	return v
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// messageWindow is the window of a message batch.
const messageWindow = 24 * time.Hour

// create serves POST /v1/messages/batches. The requests go to the store as they come, one a line.
func (a *Anthropic) create(w http.ResponseWriter, r *http.Request) error {
	in := newRequests(r.Body, a.f.o.LineBytes)
	artifact, _, err := a.f.o.Store.Put(r.Context(), "requests.jsonl", in, a.f.o.FileBytes+maxLines) // a line is no longer than what it was read from, but for its end
	if err != nil {
		return err
	}
	now := a.f.o.Now().UTC()
	b, err := a.f.Create(r.Context(), task.BatchRecord{
		ID: messageBatchPrefix + a.f.o.NewID(), Dialect: anthropic, Endpoint: a.endpoint, Artifact: artifact, Window: "24h", Total: in.total,
		Actor: gate.CallFrom(r.Context()).Identity, CreatedAt: now, ExpiresAt: now.Add(messageWindow),
	})
	if err != nil {
		a.f.abandon(r.Context(), artifact)
		return err
	}
	a.x.Write(w, http.StatusOK, a.view(r, b))
	return nil
}

// list serves GET /v1/messages/batches.
func (a *Anthropic) list(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, err := lenient.Limit(query, 20, 1000)
	if err != nil {
		return err
	}
	before := query.Get("before_id")
	found, err := a.f.Batches(r.Context(), task.BatchFilter{Dialect: anthropic, After: query.Get("after_id"), Before: before, Limit: limit + 1})
	if err != nil {
		return err
	}
	out := struct {
		Data  []messageBatchView `json:"data"`
		More  bool               `json:"has_more"`
		First *string            `json:"first_id"`
		Last  *string            `json:"last_id"`
	}{Data: []messageBatchView{}, More: len(found) > limit}
	if out.More && before != "" { // the page ends where it was asked to
		found = found[len(found)-limit:]
	}
	found, _ = lenient.Page(found, limit)
	for _, b := range found {
		out.Data = append(out.Data, a.view(r, b))
	}
	if n := len(found); n > 0 {
		out.First, out.Last = &found[0].ID, &found[n-1].ID
	}
	a.x.Write(w, http.StatusOK, out)
	return nil
}

// one serves GET /v1/messages/batches/{id} and its results.
func (a *Anthropic) one(w http.ResponseWriter, r *http.Request) error {
	id, call, nested := strings.Cut(exchange.Under(r, messageBatches+"/"), "/")
	if nested && call != "results" {
		return exchange.NoPath(r)
	}
	b, err := a.f.Batch(r.Context(), anthropic, id)
	switch {
	case err != nil:
		return err
	case !nested:
		a.x.Write(w, http.StatusOK, a.view(r, b))
		return nil
	case b.EndedAt.IsZero():
		return task.Errorf(task.Conflict, "batch %.100q has not ended, so it has no results yet: ask again once its processing_status is ended", id)
	}
	return a.f.send(w, r, b, inBoth, a.resultOf)
}

// cancel serves POST /v1/messages/batches/{id}/cancel.
func (a *Anthropic) cancel(w http.ResponseWriter, r *http.Request) error {
	id, ok := strings.CutSuffix(exchange.Under(r, messageBatches+"/"), "/cancel")
	if !ok {
		return exchange.NoPath(r)
	}
	b, err := a.f.Cancel(r.Context(), anthropic, id)
	if err != nil {
		return err
	}
	a.x.Write(w, http.StatusOK, a.view(r, b))
	return nil
}

// remove serves DELETE /v1/messages/batches/{id}.
func (a *Anthropic) remove(w http.ResponseWriter, r *http.Request) error {
	id := exchange.Under(r, messageBatches+"/")
	if err := a.f.Drop(r.Context(), anthropic, id); err != nil {
		return err
	}
	a.x.Write(w, http.StatusOK, struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}{id, "message_batch_deleted"})
	return nil
}

// messageResult is a line of the results.
type messageResult struct {
	CustomID string        `json:"custom_id"`
	Result   messageOfLine `json:"result"`
}

type messageOfLine struct {
	Type    string          `json:"type"`
	Message json.RawMessage `json:"message,omitempty"`
	Error   json.RawMessage `json:"error,omitempty"`
}

func (a *Anthropic) resultOf(r result) any {
	out := messageResult{CustomID: r.line.CustomID}
	switch {
	case r.fault != nil && r.fault.Code == faultExpired:
		out.Result.Type = "expired"
	case r.fault != nil && r.fault.Code == faultCanceled:
		out.Result.Type = "canceled"
	case r.fault != nil:
		code := task.InvalidParams
		if r.fault.Code == faultDeleted {
			code = task.Deleted
		}
		_, body := a.f.o.Dialects[anthropic].LineRefusal(a.endpoint, task.Errorf(code, "%s", r.fault.Message), r.line.TaskID())
		out.Result = messageOfLine{Type: "errored", Error: exchange.JSON(body)}
	case r.status == http.StatusOK:
		out.Result = messageOfLine{Type: "succeeded", Message: r.body}
	default:
		out.Result = messageOfLine{Type: "errored", Error: r.body}
	}
	return out
}
