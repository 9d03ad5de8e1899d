// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
)

// settleFronts asks at the end for everything that a front has said it had accepted, until it has ended, and reads it.
func (f *field) settleFronts(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, settleWithin)
	defer stop()
	d := f.fronts
	for _, r := range f.h.responses {
		d.lastOfResponse(ctx, r)
	}
	for _, b := range f.h.batches {
		if b.id != "" {
			d.lastOfBatch(ctx, b)
		}
	}
	if err := d.removeFiles(ctx); err != nil {
		return err
	}
	for _, b := range f.h.batches { // from the record alone
		if b.id == "" {
			continue
		}
		if p, ok := d.call(ctx, get(b.path()), nil); ok {
			v, _ := b.view(p)
			b.again = d.results(ctx, b, v)
		}
	}
	if err := f.lastOfTasks(ctx); err != nil {
		return err
	}
	return d.removeMessages(ctx)
}

// until looks at something until it is over.
func (d *frontDriver) until(ctx context.Context, path string, over func(poll) bool) (p poll) {
	for limit := time.Now().Add(settleWithin / 2); ; {
		p, ok := d.call(ctx, get(path), nil)
		if !ok || p.status != http.StatusOK || over(p) || time.Now().After(limit) || !pause(ctx, again) {
			return p
		}
	}
}

func (d *frontDriver) lastOfResponse(ctx context.Context, r *responseRecord) {
	if r.id == "" {
		return
	}
	p := d.until(ctx, "/v1/responses/"+r.id, func(p poll) bool {
		v, is := viewOf[responseView](p)
		return !is || v.over()
	})
	r.last = p.body
	if p.status != http.StatusOK {
		r.last = lost + p.body
	}
	if daemon, _, ok := d.field.at(ctx); ok {
		r.stream = &heard{}
		d.ask(ctx, daemon, get("/v1/responses/"+r.id+"?stream=true"), r.stream, nil)
	}
}

func (d *frontDriver) lastOfBatch(ctx context.Context, b *batchRecord) {
	p := d.until(ctx, b.path(), func(p poll) bool {
		v, is := b.view(p)
		return !is || batchOver(v.Status)
	})
	b.polls = append(b.polls, p)
	b.unknown = p.status == http.StatusNotFound
	if b.file != "" {
		content, _ := d.call(ctx, get(filesPath+"/"+b.file+"/content"), nil)
		b.content = content.body
	}
}

// removeFiles deletes what clients have sent, as clients do in the end. It notes what was there.
func (d *frontDriver) removeFiles(ctx context.Context) error {
	p, _ := d.call(ctx, get(filesPath+"?purpose=batch"), nil)
	list, is := viewOf[struct {
		Data []batchView `json:"data"`
	}](p)
	if !is {
		return fmt.Errorf("the list of files is %d: %s", p.status, p.body)
	}
	for _, file := range list.Data {
		d.field.h.files = append(d.field.h.files, file.ID)
		if p, _ := d.call(ctx, request{method: http.MethodDelete, path: filesPath + "/" + file.ID}, nil); p.status != http.StatusOK {
			return fmt.Errorf("the deletion of file %s is answered with %d: %s", file.ID, p.status, p.body)
		}
	}
	return nil
}

// told returns the ids of all tasks that a front has told.
func (h *frontHistory) told() (ids []string) {
	note := func(all []*heard) {
		for _, one := range all {
			if one.answers() && one.task != "" {
				ids = append(ids, one.task)
			}
		}
	}
	for _, c := range h.chats {
		note(c.heard)
	}
	for _, r := range h.responses {
		note(r.asked)
		note(r.next)
	}
	for _, b := range h.batches {
		for _, r := range b.rows() {
			if r.output && r.Response != nil { // a line that was refused never became a task
				ids = append(ids, r.Response.RequestID)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// lastOfTasks asks the native API for every task that a front has told.
func (f *field) lastOfTasks(ctx context.Context) error {
	f.h.states = map[string]*status{}
	limit := time.Now().Add(settleWithin / 4)
	for _, id := range f.h.told() {
		for {
			s, err := statusOf(ctx, f.daemon, id)
			var refused *client.RefusedError
			if errors.As(err, &refused) && refused.Code == "NOT_FOUND" {
				s, err = nil, nil
			}
			if err != nil {
				return fmt.Errorf("ask for %s at the end: %w", id, err)
			}
			f.h.states[id] = s
			if s == nil || s.over() || time.Now().After(limit) || !pause(ctx, 50*time.Millisecond) {
				break
			}
		}
	}
	return nil
}

// over reports whether a task has its outcome.
func (s *status) over() bool {
	_, over := final[s.State]
	return over
}

// calmFronts has an undisturbed daemon answer every strict request.
func (d *frontDriver) calmFronts(ctx context.Context, to *server, h *frontHistory) error {
	run := func(kind string, asked map[string]any) (text *string, task string, err error) {
		plain := map[string]any{}
		for name, value := range asked {
			if name != "stream" && name != "background" {
				plain[name] = value
			}
		}
		one := &heard{}
		d.ask(ctx, to, post(dialects[kind].path, "", plain), one, nil)
		s := one.said(kind)
		if !one.answers() || !s.done {
			return nil, "", fmt.Errorf("the undisturbed daemon answers %s with %d: %s", encode(plain), one.status, one.body)
		}
		return &s.text, one.task, nil
	}
	var mu sync.Mutex
	var err error
	var runs sync.WaitGroup
	slots := make(chan struct{}, 3) // as many as there are workers
	start := func(run func() error) {
		slots <- struct{}{}
		runs.Go(func() {
			defer func() { <-slots }()
			failed := run()
			mu.Lock()
			defer mu.Unlock()
			err = errors.Join(err, failed)
		})
	}
	for _, c := range h.chats {
		if c.plan.strict {
			start(func() (err error) {
				c.calm, _, err = run(c.plan.kind, c.plan.request)
				return err
			})
		}
	}
	for _, r := range h.responses {
		if r.plan.strict {
			start(func() (err error) {
				var task string
				if r.calm, task, err = run(response, r.plan.request); err == nil && r.plan.next != nil {
					r.calmNext, _, err = run(response, r.plan.next.behind(responsePrefix+task))
				}
				return err
			})
		}
	}
	for _, b := range h.batches {
		b.calm = map[string]string{}
		for _, l := range b.plan.lines {
			if l.strict && l.broken == "" {
				start(func() error {
					text, _, err := run(b.plan.kind, l.request)
					if err == nil {
						mu.Lock()
						defer mu.Unlock()
						b.calm[l.customID] = *text
					}
					return err
				})
			}
		}
	}
	runs.Wait()
	return err
}
