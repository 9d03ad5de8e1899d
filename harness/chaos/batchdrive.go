// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"time"
)

// pollEvery is how often a batch's client looks at it.
const pollEvery = 150 * time.Millisecond

// The paths of files and batches.
const (
	filesPath   = "/v1/files"
	batchesPath = "/v1/batches"
)

// batch does everything that the client of one batch does.
func (d *frontDriver) batch(ctx context.Context, b *batchRecord) {
	create := d.createOf
	if b.plan.kind == message {
		create = d.createMessages
	}
	id, ok := create(ctx, b)
	if !ok {
		return
	}
	d.mu.Lock()
	b.id = id
	d.mu.Unlock()
	canceled := b.plan.cancelAt == 0
	for {
		p, ok := d.call(ctx, get(b.path()), func(p poll) { b.polls = append(b.polls, p) })
		v, is := b.view(p)
		switch {
		case !ok || !is:
			return
		case batchOver(v.Status):
			results := d.results(ctx, b, v)
			d.mu.Lock()
			b.results = results
			d.mu.Unlock()
			return
		case !canceled && v.Counts.Completed+v.Counts.Failed >= b.plan.cancelAt:
			canceled = true
			d.call(ctx, request{method: http.MethodPost, path: b.path() + "/cancel"}, func(p poll) { b.cancels = append(b.cancels, p) })
		}
		if !pause(ctx, pollEvery) {
			return
		}
	}
}

// createOf uploads the batch's file, and makes the batch of it.
func (d *frontDriver) createOf(ctx context.Context, b *batchRecord) (id string, ok bool) {
	form, kind := upload(b.plan)
	sent, ok := d.call(ctx, request{method: http.MethodPost, path: filesPath, form: kind, body: form}, func(p poll) { b.asked = append(b.asked, p) })
	file, is := viewOf[batchView](sent) // a file has an id too
	if !ok || !is {
		return "", false
	}
	d.mu.Lock()
	b.file = file.ID
	d.mu.Unlock()
	return d.create(ctx, b)
}

// create makes the batch. A client whose answer was lost looks in the list whether the batch is there, since nothing joins it to the one that it has.
func (d *frontDriver) create(ctx context.Context, b *batchRecord) (id string, ok bool) {
	ask := post(batchesPath, "", map[string]any{
		"input_file_id": b.file, "endpoint": dialects[b.plan.kind].path, "completion_window": "24h", "metadata": map[string]string{"plan": b.plan.id},
	})
	for {
		daemon, _, ok := d.field.at(ctx)
		if !ok {
			return "", false
		}
		h := &heard{}
		within, stop := context.WithTimeout(ctx, callWithin)
		d.ask(within, daemon, ask, h, nil)
		stop()
		d.mu.Lock()
		b.asked = append(b.asked, poll{sent: h.sent, at: h.at, status: h.status, body: h.body})
		d.mu.Unlock()
		if h.status == http.StatusOK && h.whole {
			v, is := viewOf[batchView](poll{status: h.status, body: h.body})
			return v.ID, is
		}
		if h.status >= http.StatusBadRequest && !h.again {
			return "", false
		}
		listed, ok := d.call(ctx, get(batchesPath+"?limit=100"), nil)
		list, is := viewOf[struct {
			Data []batchView `json:"data"`
		}](listed)
		if !ok || !is {
			return "", false
		}
		for _, one := range list.Data {
			if one.Metadata["plan"] == b.plan.id {
				return one.ID, true
			}
		}
	}
}

// results reads the files of a batch's results.
func (d *frontDriver) results(ctx context.Context, b *batchRecord, v batchView) map[string]string {
	all := map[string]string{}
	for _, id := range []string{v.OutputFile, v.ErrorFile} {
		if id == "" {
			continue
		}
		path := filesPath + "/" + id + "/content"
		if b.plan.kind == message {
			path = b.path() + "/results"
		}
		p, _ := d.call(ctx, get(path), nil)
		if all[id] = p.body; p.status != http.StatusOK {
			all[id] = fmt.Sprintf("%d: %s", p.status, p.body)
		}
	}
	return all
}

// upload is the form that sends a batch's file, and its type.
func upload(p batchPlan) (form []byte, kind string) {
	var b bytes.Buffer
	to := multipart.NewWriter(&b)
	file, err := to.CreateFormFile("file", p.id+".jsonl")
	if err == nil {
		_, err = io.WriteString(file, p.file())
	}
	if err = errors.Join(err, to.WriteField("purpose", "batch"), to.Close()); err != nil {
		panic(err) // it is written to memory
	}
	return b.Bytes(), to.FormDataContentType()
}
