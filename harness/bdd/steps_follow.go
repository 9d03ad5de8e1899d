// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

func (w *world) followSteps(step define) {
	step(`^I follow task "([^"]*)"$`, w.iFollow)
	step(`^I follow task "([^"]*)" as "([^"]*)"$`, w.iFollowAs)
	step(`^I follow task "([^"]*)" as "([^"]*)", behind event (\d+) of "([^"]*)" by (Last-Event-ID|after|both)$`, w.iResume)
	step(`^I follow task "([^"]*)" as "([^"]*)", behind the last event of "([^"]*)"$`, w.iResumeAtTheEnd)
	step(`^I follow task "([^"]*)" as "([^"]*)", behind event (\d+) of "([^"]*)" with another hash$`, w.iResumeWithAnotherHash)
	step(`^I open a stream of task "([^"]*)" and never read it$`, w.iNeverRead)
	step(`^I hang up stream "([^"]*)"$`, w.iHangUp)
	step(`^I keep the id of event (\d+) of stream "([^"]*)" as \$([A-Z]+)$`, w.iKeepTheID)
}

// follow subscribes to a task, in the background.
func (w *world) follow(task, name string, prior []event, headers []row, query string) error {
	t, err := w.task(task)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, err := w.request(ctx, http.MethodGet, "/v1/tasks/"+t.id+"/stream"+query, headers, nil)
	if err != nil {
		cancel()
		return err
	}
	res, err := w.daemon.client.Do(r)
	if err != nil {
		cancel()
		return fmt.Errorf("open a stream: %w", err)
	}
	kind := res.Header.Get("Content-Type")
	if over := res.StatusCode == http.StatusNoContent; !over && (res.StatusCode != http.StatusOK || kind != "text/event-stream") {
		defer cancel()
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return errors.Join(fmt.Errorf("the stream of task %q is %d, %s: %s", task, res.StatusCode, kind, body), err)
	}
	s := newStream(name, t.id, prior)
	s.header, s.close = res.Header, cancel
	if !sound.MatchString(res.Header.Get("X-Correlation-Id")) {
		s.err = errors.New("the stream carries no correlation id")
	}
	if old := w.streams[name]; old != nil {
		w.hangUp(old)
	}
	w.streams[name] = s
	go s.read(res.Body) // joined by hangUp
	return nil
}

func (w *world) iFollow(task string) error { return w.follow(task, task, nil, nil, "") }

func (w *world) iFollowAs(task, name string) error { return w.follow(task, name, nil, nil, "") }

func (w *world) stream(name string) (*stream, error) {
	if s := w.streams[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("the scenario follows no stream %q", name)
}

// ended waits for a stream's end, and returns the stream with its terminal event.
func (w *world) ended(name string) (*stream, event, error) {
	s, err := w.stream(name)
	if err != nil {
		return nil, event{}, err
	}
	last, err := s.over()
	return s, last, err
}

// held waits until event n of a stream has come, and returns the events up to it.
func (w *world) held(name string, n int) ([]event, error) {
	s, err := w.stream(name)
	if err != nil {
		return nil, err
	}
	if err := s.Await(fmt.Sprintf("event %d of stream %s", n, name), func() bool {
		count := len(s.prior)
		for _, e := range s.events {
			if e.Name != "metrics" {
				count++
			}
		}
		return count > n || s.ended
	}); err != nil {
		return nil, err
	}
	events, err := s.all()
	if err == nil && len(events) <= n {
		err = fmt.Errorf("stream %q ended after %d events", name, len(events))
	}
	if err != nil {
		return nil, err
	}
	return events[:n+1], nil
}

func (w *world) iResume(task, name string, n int, of, by string) error {
	prior, err := w.held(of, n)
	if err != nil {
		return err
	}
	id := prior[n].ID
	var headers []row
	query := ""
	if by != "after" {
		headers = []row{{"Last-Event-ID", id}}
	}
	if by != "Last-Event-ID" {
		query = "?after=" + id
	}
	return w.follow(task, name, prior, headers, query)
}

func (w *world) iResumeAtTheEnd(task, name, of string) error {
	s, _, err := w.ended(of)
	if err != nil {
		return err
	}
	prior, err := s.all()
	if err != nil {
		return err
	}
	return w.follow(task, name, prior, []row{{"Last-Event-ID", prior[len(prior)-1].ID}}, "")
}

func (w *world) iResumeWithAnotherHash(task, name string, n int, of string) error {
	prior, err := w.held(of, n)
	if err != nil {
		return err
	}
	seq, hash, _ := strings.Cut(prior[n].ID, "-")
	other := "00000000"
	if hash == other {
		other = "00000001"
	}
	return w.follow(task, name, prior, []row{{"Last-Event-ID", seq + "-" + other}}, "")
}

// iNeverRead opens a connection with small buffers, asks for the stream, and never reads it.
func (w *world) iNeverRead(task string) error {
	t, err := w.task(task)
	if err != nil {
		return err
	}
	address := strings.TrimPrefix(w.daemon.URL, "http://")
	c, err := net.Dial("tcp", address)
	if err != nil {
		return fmt.Errorf("connect to the daemon: %w", err)
	}
	w.blanks = append(w.blanks, c)
	if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		return fmt.Errorf("make the buffer small: %w", err)
	}
	if _, err := fmt.Fprintf(c, "GET /v1/tasks/%s/stream HTTP/1.1\r\nHost: %s\r\n\r\n", t.id, address); err != nil {
		return fmt.Errorf("ask for the stream: %w", err)
	}
	return nil
}

func (w *world) iHangUp(name string) error {
	s, err := w.stream(name)
	if err == nil {
		w.hangUp(s)
	}
	return err
}

func (w *world) iKeepTheID(n int, name, as string) error {
	events, err := w.held(name, n)
	if err == nil {
		w.kept[as] = events[n].ID
	}
	return err
}
