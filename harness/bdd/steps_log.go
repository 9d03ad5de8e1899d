// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cucumber/godog"
)

func (w *world) logSteps(step define) {
	step(`^the log narrates the (admission|placement|stream_start|stream_end|cancel) of task "([^"]*)"$`, w.theLogNarrates)
	step(`^the log narrates the (admission|placement|stream_start|stream_end|cancel) of task "([^"]*)" with$`, w.theLogNarratesWith)
	step(`^the log places the tasks in the order "([^"]*)"$`, w.theLogPlaces)
	step(`^the log never places task "([^"]*)"$`, w.theLogNeverPlaces)
	step(`^the log has a line "([^"]*)"$`, w.theLogHasALine)
	step(`^the log has a line "([^"]*)" with$`, w.theLogHasALineWith)
	step(`^the log does not hold "(.*)"$`, w.theLogDoesNotHold)
	step(`^every line of the log is a JSON object$`, w.theLogIsJSON)
}

func (w *world) theLogNarrates(event, name string) error {
	return w.theLogNarratesWith(event, name, &godog.Table{})
}

// theLogNarratesWith waits for the line. What ORCH-3300 and ORCH-3027 demand is checked for all lines at the end of the run.
func (w *world) theLogNarratesWith(event, name string, t *godog.Table) error {
	task, err := w.task(name)
	if err != nil {
		return err
	}
	var line logLine
	if err := w.daemon.logged("the line "+event, func(l logLine) bool {
		line = l
		return l["msg"] == event && l["job_id"] == task.id
	}); err != nil {
		return err
	}
	err = narrated(line)
	return errors.Join(err, w.lineHas(line, t))
}

func (w *world) lineHas(line logLine, t *godog.Table) error {
	rows, err := w.rows(t)
	for _, r := range rows {
		if wrong := match(dig(map[string]any(line), r.name), r.value); wrong != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", r.name, wrong))
		}
	}
	if err != nil {
		return fmt.Errorf("%w, in %v", err, line)
	}
	return nil
}

func (w *world) placed() ([]any, error) {
	log, err := w.daemon.log()
	var ids []any
	for _, l := range log {
		if l["msg"] == "placement" {
			ids = append(ids, l["job_id"])
		}
	}
	return ids, err
}

// theLogPlaces waits until all of the tasks are placed.
func (w *world) theLogPlaces(names string) error {
	var want []any
	for name := range strings.SplitSeq(names, ", ") {
		t, err := w.task(name)
		if err != nil {
			return err
		}
		want = append(want, t.id)
	}
	return poll("the placements", func() error {
		got, err := w.placed()
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("placed were %v, and should be %v", got, want)
		}
		return err
	})
}

func (w *world) theLogNeverPlaces(name string) error {
	t, err := w.task(name)
	if err != nil {
		return err
	}
	ids, err := w.placed()
	if err == nil && slices.Contains(ids, any(t.id)) {
		err = errors.New("it was placed")
	}
	return err
}

func (w *world) theLogHasALine(msg string) error {
	return w.theLogHasALineWith(msg, &godog.Table{})
}

func (w *world) theLogHasALineWith(msg string, t *godog.Table) error {
	var line logLine
	if err := w.daemon.logged("the line "+msg, func(l logLine) bool { line = l; return l["msg"] == msg }); err != nil {
		return err
	}
	return w.lineHas(line, t)
}

func (w *world) theLogDoesNotHold(text string) error {
	text, err := w.expand(text)
	if err != nil {
		return err
	}
	var found string
	for _, line := range w.daemon.Lines() {
		if strings.Contains(line, text) {
			found = line
		}
	}
	if found != "" {
		return fmt.Errorf("it does: %s", found)
	}
	return nil
}

func (w *world) theLogIsJSON() error {
	_, err := w.daemon.log()
	return err
}
