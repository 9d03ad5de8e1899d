// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

const messageBatchesPath = "/v1/messages/batches"

// path is where the batch is.
func (b *batchRecord) path() string {
	if b.plan.kind == message {
		return messageBatchesPath + "/" + b.id
	}
	return batchesPath + "/" + b.id
}

// messageBatch is a batch in Anthropic's words.
type messageBatch struct {
	ID       string          `json:"id"`
	Status   string          `json:"processing_status"`
	CancelAt json.RawMessage `json:"cancel_initiated_at"`
	Results  string          `json:"results_url"`
	Counts   struct {
		Processing, Succeeded, Errored, Canceled, Expired int
	} `json:"request_counts"`
}

// view is what a look at the batch has shown, in OpenAI's words; false: it has shown no batch.
func (b *batchRecord) view(p poll) (v batchView, is bool) {
	if b.plan.kind != message {
		return viewOf[batchView](p)
	}
	m, is := viewOf[messageBatch](p)
	c := m.Counts
	if v.ID = m.ID; m.Results != "" {
		v.OutputFile = "results" // its URL has the daemon's port
	}
	v.Counts.Completed, v.Counts.Failed = c.Succeeded, c.Errored+c.Canceled+c.Expired
	v.Counts.Total = c.Processing + v.Counts.Completed + v.Counts.Failed
	switch v.Status = m.Status; {
	case m.Status == "canceling":
		v.Status = "cancelling"
	case m.Status == "ended" && len(m.CancelAt) > 0 && string(m.CancelAt) != "null":
		v.Status = statusCancelled
	case m.Status == "ended":
		v.Status = statusCompleted
	}
	return v, is
}

// createMessages makes the batch. A client whose answer was lost makes another one, since nothing tells it which one it has.
func (d *frontDriver) createMessages(ctx context.Context, b *batchRecord) (id string, ok bool) {
	ask := request{method: http.MethodPost, path: messageBatchesPath, form: "application/json", body: []byte(b.plan.file())}
	p, ok := d.call(ctx, ask, func(p poll) { b.asked = append(b.asked, p) })
	v, is := b.view(p)
	return v.ID, ok && is
}

// removeMessages deletes all message batches, those included whose id nobody was told, once they have ended.
func (d *frontDriver) removeMessages(ctx context.Context) error {
	p, _ := d.call(ctx, get(messageBatchesPath+"?limit=1000"), nil)
	list, is := viewOf[struct {
		Data []messageBatch `json:"data"`
	}](p)
	if !is {
		return fmt.Errorf("the list of message batches is %d: %s", p.status, p.body)
	}
	for _, one := range list.Data {
		path := messageBatchesPath + "/" + one.ID
		d.until(ctx, path, func(p poll) bool {
			v, _ := viewOf[messageBatch](p)
			return v.Status == "ended"
		})
		if p, _ := d.call(ctx, request{method: http.MethodDelete, path: path}, nil); p.status != http.StatusOK {
			return fmt.Errorf("the deletion of message batch %s is answered with %d: %s", one.ID, p.status, p.body)
		}
	}
	return nil
}

// messageRow is a line of the results of a message batch, in OpenAI's words. A request whose task failed so that a repeat may help had an answer with 503.
func messageRow(line string) (r row) {
	var m struct {
		CustomID string `json:"custom_id"`
		Result   struct {
			Type    string          `json:"type"`
			Message json.RawMessage `json:"message"`
			Error   json.RawMessage `json:"error"`
		} `json:"result"`
	}
	_ = into([]byte(line), &m) // it is judged by what it lacks
	switch r.CustomID = m.CustomID; m.Result.Type {
	case "succeeded":
		var of struct {
			ID string `json:"id"`
		}
		_ = into(m.Result.Message, &of)
		r.output, r.Response = true, &rowAnswer{Status: http.StatusOK, RequestID: strings.TrimPrefix(of.ID, "msg_"), Body: m.Result.Message}
	case "errored":
		s := dialects[message].readWhole(string(m.Result.Error))
		if s.fault != nil && s.fault.again {
			r.Response = &rowAnswer{Status: http.StatusServiceUnavailable, Body: m.Result.Error}
		} else {
			r.Error = s.fault
		}
	case "canceled":
		r.Error = &told{Code: "batch_cancelled"}
	}
	return r
}
