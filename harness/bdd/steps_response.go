// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/watch"
)

func (w *world) responseSteps(step define) {
	step(`^I stream the response "([^"]*)"$`, w.iStreamTheResponse)
	step(`^response "([^"]*)" has (\d+) events$`, w.theResponseHasEvents)
	step(`^I read response "([^"]*)" anew as "([^"]*)"$`, w.iReadTheResponse)
	step(`^I read response "([^"]*)" as "([^"]*)", behind the last event of it$`, w.iResumeTheResponse)
	step(`^response "([^"]*)" ends with "([^"]*)"$`, w.theResponseEndsWith)
	step(`^the events of "([^"]*)" and then of "([^"]*)" are those of "([^"]*)", byte for byte$`, w.theEventsAre)
	step(`^response "([^"]*)" becomes "([^"]*)"$`, w.theResponseBecomes)
}

// responseStream is a stream of OpenAI's dialect, read by its own goroutine. Its numbers must follow each other.
type responseStream struct {
	watch.State

	id    string // of the response
	close context.CancelFunc
	done  chan struct{}

	frames []string // those with numbers of their own; guarded by State, as is what follows
	first  int      // the number of the first
	last   string   // the type of the last
	ended  bool
	err    error
}

// read takes the body to its end.
func (s *responseStream) read(body io.ReadCloser) {
	defer close(s.done)
	in := bufio.NewReader(body)
	var frame strings.Builder
	for {
		line, err := in.ReadString('\n')
		frame.WriteString(line)
		if err != nil {
			_ = body.Close()
			s.Update(func() { s.ended = true })
			return
		}
		if line == "\n" {
			s.Update(func() { s.take(frame.String()) })
			frame.Reset()
		}
	}
}

func (s *responseStream) take(frame string) {
	_, data, ok := strings.Cut(frame, "data: ")
	if !ok { // a comment
		return
	}
	var e struct {
		Type     string `json:"type"`
		Number   int    `json:"sequence_number"`
		Response struct {
			ID string `json:"id"`
		} `json:"response"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		s.err = errors.Join(s.err, fmt.Errorf("the event %q: %w", frame, err))
		return
	}
	if e.Type == "keepalive" {
		return
	}
	if len(s.frames) == 0 {
		s.first = e.Number
	}
	if want := s.first + len(s.frames); e.Number != want {
		s.err = errors.Join(s.err, fmt.Errorf("the event %q is not number %d", frame, want))
	}
	s.frames, s.last = append(s.frames, frame), e.Type
	if e.Response.ID != "" {
		s.id = e.Response.ID
	}
}

// openResponse opens a stream of a response, and reads it in the background.
func (w *world) openResponse(name, method, path string, body []byte) error {
	ctx, cancel := context.WithCancel(context.Background())
	r, err := w.request(ctx, method, path, nil, body)
	if err != nil {
		cancel()
		return err
	}
	res, err := w.daemon.client.Do(r)
	if err != nil {
		cancel()
		return fmt.Errorf("open the stream of a response: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		defer cancel()
		defer res.Body.Close()
		said, err := io.ReadAll(res.Body)
		return errors.Join(fmt.Errorf("the stream of response %q is %d: %s", name, res.StatusCode, said), err)
	}
	s := &responseStream{close: cancel, done: make(chan struct{})}
	w.responses[name] = s
	go s.read(res.Body) // joined by hangUpResponses
	return nil
}

// hangUpResponses ends the streams of responses, and says what was wrong with them.
func (w *world) hangUpResponses() (err error) {
	for name, s := range w.responses {
		s.close()
		<-s.done
		if s.err != nil {
			err = errors.Join(err, fmt.Errorf("response %q: %w", name, s.err))
		}
	}
	return err
}

func (w *world) response(name string) (*responseStream, error) {
	if s := w.responses[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("the scenario streams no response %q", name)
}

func (w *world) iStreamTheResponse(name string, text *godog.DocString) error {
	body, err := w.expand(text.Content)
	if err != nil {
		return err
	}
	return w.openResponse(name, http.MethodPost, "/v1/responses", []byte(body))
}

// until waits for a state of a response's stream.
func (s *responseStream) until(what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	err := s.Until(ctx, func() bool { return ok() || s.ended })
	s.Look(func() {
		if err == nil && !ok() {
			err = fmt.Errorf("it ended before %s, with %q", what, s.frames)
		}
	})
	return err
}

func (w *world) theResponseHasEvents(name string, n int) error {
	s, err := w.response(name)
	if err != nil {
		return err
	}
	return s.until(fmt.Sprintf("it had %d events", n), func() bool { return len(s.frames) >= n })
}

func (w *world) theResponseEndsWith(name, last string) error {
	s, err := w.response(name)
	if err != nil {
		return err
	}
	return s.until("its last event was "+last, func() bool { return s.ended && s.last == last })
}

// wholeResponse are the frames of a stream that has ended, its response, and the number of its last event.
func (w *world) wholeResponse(name string) (frames []string, id string, last int, err error) {
	s, err := w.response(name)
	if err != nil {
		return nil, "", 0, err
	}
	if err := s.until("it ended", func() bool { return s.ended }); err != nil {
		return nil, "", 0, err
	}
	s.Look(func() { frames, id, last, err = slices.Clone(s.frames), s.id, s.first+len(s.frames)-1, s.err })
	return frames, id, last, err
}

func (w *world) iReadTheResponse(of, name string) error {
	s, err := w.response(of)
	if err != nil {
		return err
	}
	var id string
	s.Look(func() { id = s.id })
	return w.openResponse(name, http.MethodGet, "/v1/responses/"+id+"?stream=true", nil)
}

func (w *world) iResumeTheResponse(of, name string) error {
	_, id, last, err := w.wholeResponse(of)
	if err != nil {
		return err
	}
	return w.openResponse(name, http.MethodGet, fmt.Sprintf("/v1/responses/%s?stream=true&starting_after=%d", id, last), nil)
}

func (w *world) theEventsAre(first, then, all string) error {
	var parts [3][]string
	for i, name := range []string{first, then, all} {
		var err error
		if parts[i], _, _, err = w.wholeResponse(name); err != nil {
			return err
		}
	}
	if len(parts[0]) == 0 || len(parts[1]) == 0 {
		return fmt.Errorf("there are %d and %d events", len(parts[0]), len(parts[1]))
	}
	if got := slices.Concat(parts[0], parts[1]); !slices.Equal(got, parts[2]) {
		return fmt.Errorf("they are %q, and should be %q", got, parts[2])
	}
	return nil
}

// theResponseBecomes polls a response, by the name of its stream or by what was kept.
func (w *world) theResponseBecomes(name, status string) error {
	id, err := w.expand(name)
	if err != nil {
		return err
	}
	if s := w.responses[name]; s != nil {
		s.Look(func() { id = s.id })
	}
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	return watch.Poll(ctx, "response "+name+" to be "+status, func() error {
		if err := w.call(http.MethodGet, "/v1/responses/"+id, nil, nil); err != nil {
			return err
		}
		return w.has("status", status)
	})
}
