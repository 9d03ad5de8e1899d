// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/watch"
)

const haikuPrompt = "Write a haiku about rain containing \"seven\".\n\n"

func (w *world) taskSteps(step define) {
	step(`^I submit task "([^"]*)"$`, w.iSubmit)
	step(`^I submit task "([^"]*)" with$`, w.iSubmitWith)
	step(`^I submit an? (interactive|batch) task "([^"]*)"$`, w.iSubmitWithPriority)
	step(`^I submit (\d+) tasks "([^"]*)" at once with$`, w.iSubmitAtOnce)
	step(`^I cancel task "([^"]*)"$`, w.iCancel)
	step(`^task "([^"]*)" is (queued|running|completed|failed|canceled)$`, w.theTaskIs)
	step(`^task "([^"]*)" stands at position (\d+)$`, w.theTaskStandsAt)
	step(`^new tasks are refused with (\d+) ([A-Z_]+)$`, w.newTasksAreRefused)
	step(`^the answer is the same as the admission of task "([^"]*)"$`, w.sameAdmission)
}

func (w *world) iSubmit(name string) error { return w.submit(name, nil) }

func (w *world) iSubmitWith(name string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	return w.submit(name, rows)
}

func (w *world) iSubmitWithPriority(priority, name string) error {
	return w.submit(name, []row{{"priority", priority}})
}

// taskBody makes the body of a submit. A value that is JSON is used as JSON. Without an input the task asks for a haiku.
func taskBody(rows []row) ([]byte, error) {
	body := map[string]any{"model_ref": "haiku"}
	hasInput := false
	for _, r := range rows {
		hasInput = hasInput || r.name == "prompt" || r.name == "messages" || r.name == "inputs"
		if value, err := decode([]byte(r.value)); err == nil {
			body[r.name] = value
		} else {
			body[r.name] = r.value
		}
	}
	if !hasInput {
		body["prompt"] = haikuPrompt
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the task: %w", err)
	}
	return encoded, nil
}

func (w *world) submit(name string, rows []row) error {
	body, err := taskBody(rows)
	if err != nil {
		return err
	}
	if err := w.call(http.MethodPost, "/v1/tasks", nil, body); err != nil {
		return err
	}
	return w.accepted(name)
}

// accepted remembers the task of a 202. It leaves a refusal for a step to assert.
func (w *world) accepted(name string) error {
	if w.last.status != http.StatusAccepted {
		return nil
	}
	a, err := object(string(w.last.body), []string{
		"task_id", "pool_id", "queue_position", "predicted_start_ms", "backoff_ms", "seed", "determinism",
	}, nil)
	if err != nil {
		return fmt.Errorf("the admission: %w: %s", err, w.last.body)
	}
	id, _ := a["task_id"].(string)
	w.tasks[name] = &submitted{id: id, admission: w.last.body, at: time.Now()}
	return nil
}

// iSubmitAtOnce sends the same body many times at the same time.
func (w *world) iSubmitAtOnce(n int, name string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	body, err := taskBody(rows)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	answers, failures := make([]*response, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		r, err := w.request(ctx, http.MethodPost, "/v1/tasks", nil, body)
		if err != nil {
			return err
		}
		all.Go(func() { answers[i], failures[i] = answer(w.daemon.client, r) })
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	for _, a := range answers {
		if a.status != http.StatusAccepted || !bytes.Equal(a.body, answers[0].body) {
			return fmt.Errorf("the answers differ: %d %s and %d %s", answers[0].status, answers[0].body, a.status, a.body)
		}
	}
	w.last = answers[0]
	return w.accepted(name)
}

func (w *world) task(name string) (*submitted, error) {
	if t := w.tasks[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("the scenario has no accepted task %q", name)
}

func (w *world) iCancel(name string) error {
	t, err := w.task(name)
	if err != nil {
		return err
	}
	return w.call(http.MethodPost, "/v1/tasks/"+t.id+"/cancel", nil, nil)
}

// status asks for a task until its status is as it should be.
func (w *world) status(name, field, want string) error {
	t, err := w.task(name)
	if err != nil {
		return err
	}
	return poll(fmt.Sprintf("task %q", name), func() error {
		if err := w.call(http.MethodGet, "/v1/tasks/"+t.id, nil, nil); err != nil {
			return err
		}
		status, err := decode(w.last.body)
		if err != nil {
			return err
		}
		return match(dig(status, field), want)
	})
}

func (w *world) theTaskIs(name, state string) error { return w.status(name, "state", state) }

func (w *world) theTaskStandsAt(name, position string) error {
	return w.status(name, "queue_position", position)
}

func (w *world) sameAdmission(name string) error {
	t, err := w.task(name)
	if err != nil {
		return err
	}
	if w.last.status != http.StatusAccepted || !bytes.Equal(w.last.body, t.admission) {
		return fmt.Errorf("the first was %s, this is %d %s", strings.TrimSpace(string(t.admission)), w.last.status, w.last.body)
	}
	return nil
}

// newTasksAreRefused submits until it is so: one that comes right behind the reason may still be accepted.
func (w *world) newTasksAreRefused(status int, code string) error {
	return poll("a refusal", func() error {
		if err := w.submit("refused", nil); err != nil {
			return err
		}
		return w.theAnswerIsCode(status, code)
	})
}
