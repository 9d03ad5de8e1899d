// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cucumber/godog"
)

func (w *world) streamSteps(step define) {
	step(`^stream "([^"]*)" has (\d+) tokens?$`, w.theStreamHasTokens)
	step(`^stream "([^"]*)" has begun$`, w.theStreamHasBegun)
	step(`^stream "([^"]*)" ends with (end|error [A-Z_]+)$`, w.theStreamEndsWith)
	step(`^stream "([^"]*)" is empty$`, w.theStreamIsEmpty)
	step(`^stream "([^"]*)" is "started", tokens, "(end|error)"$`, w.theStreamIs)
	step(`^stream "([^"]*)" is "started", "(end|error)"$`, w.theStreamIsWithoutTokens)
	step(`^stream "([^"]*)" has metrics frames without an id$`, w.theStreamHasMetrics)
	step(`^stream "([^"]*)" says "(.*)"$`, w.theStreamSays)
	step(`^stream "([^"]*)" holds (\d+) token events?$`, w.theStreamHolds)
	step(`^stream "([^"]*)" begins with the figures of its admission$`, w.theStreamBeginsWithItsAdmission)
	step(`^the (started|end|error) of stream "([^"]*)" has$`, w.theEventHas)
	step(`^the last event before the error of stream "([^"]*)" is the answer's "last_event_id"$`, w.theSealIsTheLastEvent)
	step(`^the last event of stream "([^"]*)" is the answer's "last_event_id"$`, w.theLastEventIsTheAnswers)
	step(`^streams "([^"]*)" and "([^"]*)" brought the same bytes$`, w.sameBytes)
	step(`^streams "([^"]*)" and "([^"]*)" have the same tokens$`, w.sameTokens)
	step(`^streams "([^"]*)" and "([^"]*)" have different tokens$`, w.differentTokens)
	step(`^the receipts of "([^"]*)" and "([^"]*)" (agree|differ) in "([^"]*)"$`, w.receipts)
	step(`^the headers of stream "([^"]*)" have$`, w.theStreamsHeadersHave)
}

func (w *world) theStreamHasTokens(name string, n int) error {
	_, err := w.held(name, n) // event 0 is `started`
	return err
}

func (w *world) theStreamHasBegun(name string) error {
	_, err := w.held(name, 0)
	return err
}

func (w *world) theStreamEndsWith(name, how string) error {
	s, last, err := w.ended(name)
	if err != nil {
		return err
	}
	s.asserted = true
	kind, code, _ := strings.Cut(how, " ")
	if last.Name != kind {
		return fmt.Errorf("it ends with %s %s", last.Name, last.Data)
	}
	if code == "" {
		return nil
	}
	return inEvent(last, "code", code)
}

func inEvent(e event, path, want string) error {
	data, err := decode([]byte(e.Data))
	if err != nil {
		return err
	}
	if err := match(dig(data, path), want); err != nil {
		return fmt.Errorf("%s: %w, in %s", path, err, e.Data)
	}
	return nil
}

func (w *world) theStreamIsEmpty(name string) error {
	s, err := w.stream(name)
	if err != nil {
		return err
	}
	if err := s.Await("the end of stream "+name, func() bool { return s.ended }); err != nil {
		return err
	}
	events, err := s.list()
	if err == nil && len(events) > 0 {
		err = fmt.Errorf("it brought %s", frames(events))
	}
	return err
}

// whole waits for a stream's end, which has to be as named, and returns its events.
func (w *world) whole(name, last string) ([]event, error) {
	s, e, err := w.ended(name)
	if err != nil {
		return nil, err
	}
	if e.Name != last {
		return nil, fmt.Errorf("it ends with %s %s", e.Name, e.Data)
	}
	return s.all()
}

// theStreamIs relies on the reader, which refuses any other order of events.
func (w *world) theStreamIs(name, last string) error {
	events, err := w.whole(name, last)
	if err == nil && len(events) < 3 {
		err = fmt.Errorf("it brought no tokens: %s", frames(events))
	}
	return err
}

func (w *world) theStreamIsWithoutTokens(name, last string) error {
	events, err := w.whole(name, last)
	if err == nil && len(events) != 2 {
		err = fmt.Errorf("it brought %s", frames(events))
	}
	return err
}

func (w *world) theStreamHasMetrics(name string) error {
	s, err := w.stream(name)
	if err != nil {
		return err
	}
	return s.Await("a metrics frame", func() bool {
		return slices.ContainsFunc(s.events, func(e event) bool { return e.Name == "metrics" && e.ID == "" })
	})
}

func (w *world) theStreamSays(name, want string) error {
	s, _, err := w.ended(name)
	if err != nil {
		return err
	}
	events, err := s.all()
	if got := text(events); err == nil && !strings.Contains(got, want) {
		err = fmt.Errorf("it says %q", got)
	}
	return err
}

func (w *world) theStreamHolds(name string, n int) error {
	s, _, err := w.ended(name)
	if err != nil {
		return err
	}
	events, err := s.all()
	if got := countTokens(events); err == nil && got != n {
		err = fmt.Errorf("it holds %d", got)
	}
	return err
}

func countTokens(events []event) (n int) {
	for _, e := range events {
		if e.Name == "token" {
			n++
		}
	}
	return n
}

func (w *world) theStreamBeginsWithItsAdmission(name string) error {
	events, err := w.held(name, 0)
	if err != nil {
		return err
	}
	t, err := w.task(name)
	if err != nil {
		return err
	}
	admission, err := decode(t.admission)
	if err != nil {
		return err
	}
	for _, field := range []string{"task_id", "queue_position", "predicted_start_ms", "seed", "determinism"} {
		err = errors.Join(err, inEvent(events[0], field, plain(dig(admission, field))))
	}
	return err
}

// theEventHas looks at the last event with the given name.
func (w *world) theEventHas(kind, name string, t *godog.Table) error {
	s, err := w.stream(name)
	if err != nil {
		return err
	}
	var found *event
	if err := s.Await(fmt.Sprintf("a `%s` of stream %s", kind, name), func() bool {
		for i := range s.events {
			if s.events[i].Name == kind {
				found = &s.events[i]
			}
		}
		return found != nil || s.ended
	}); err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("stream %q ended without", name)
	}
	rows, err := w.rows(t)
	for _, r := range rows {
		err = errors.Join(err, inEvent(*found, r.name, r.value))
	}
	return err
}

func (w *world) theSealIsTheLastEvent(name string) error {
	s, _, err := w.ended(name)
	if err != nil {
		return err
	}
	events, err := s.all()
	if err != nil {
		return err
	}
	if len(events) < 2 {
		return errors.New("there is no event before the error")
	}
	return w.has("last_event_id", events[len(events)-2].ID)
}

func (w *world) theLastEventIsTheAnswers(name string) error {
	_, last, err := w.ended(name)
	if err != nil {
		return err
	}
	return w.has("last_event_id", last.ID)
}

// two waits for both streams and returns what their clients hold.
func (w *world) two(a, b string) (first, second []event, err error) {
	for i, name := range []string{a, b} {
		s, _, err := w.ended(name)
		if err != nil {
			return nil, nil, err
		}
		events, err := s.all()
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			first = events
		} else {
			second = events
		}
	}
	return first, second, nil
}

func (w *world) sameBytes(a, b string) error {
	first, second, err := w.two(a, b)
	if err == nil && frames(first) != frames(second) {
		err = fmt.Errorf("the first is\n%s\nand the second\n%s", frames(first), frames(second))
	}
	return err
}

// tokenFrames returns the tokens of a stream, cut as they came.
func tokenFrames(events []event) []string {
	var data []string
	for _, e := range events {
		if e.Name == "token" {
			data = append(data, e.Data)
		}
	}
	return data
}

func (w *world) sameTokens(a, b string) error {
	first, second, err := w.two(a, b)
	if err == nil && !slices.Equal(tokenFrames(first), tokenFrames(second)) {
		err = fmt.Errorf("the first says %q and the second %q", text(first), text(second))
	}
	return err
}

func (w *world) differentTokens(a, b string) error {
	first, second, err := w.two(a, b)
	if err == nil && text(first) == text(second) {
		err = fmt.Errorf("both say %q", text(first))
	}
	return err
}

func (w *world) receipts(a, b, how, field string) error {
	first, second, err := w.two(a, b)
	if err != nil {
		return err
	}
	var values [2]any
	for i, events := range [][]event{first, second} {
		end, err := decode([]byte(events[len(events)-1].Data))
		if err != nil {
			return err
		}
		values[i] = dig(end, "receipt."+field)
	}
	if (values[0] == values[1]) != (how == "agree") {
		return fmt.Errorf("they are %s and %s", show(values[0]), show(values[1]))
	}
	return nil
}

func (w *world) theStreamsHeadersHave(name string, t *godog.Table) error {
	s, err := w.stream(name)
	if err != nil {
		return err
	}
	rows, err := w.rows(t)
	for _, r := range rows {
		if wrong := match(s.header.Get(r.name), r.value); wrong != nil {
			err = errors.Join(err, fmt.Errorf("header %s: %w", r.name, wrong))
		}
	}
	return err
}
