// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/task"
)

func (w *world) poolSteps(step define) {
	step(`^a pool "([^"]*)" whose engines register themselves with$`, w.aPoolOfRegistered)
	step(`^the fake engine registers with pool "([^"]*)" as "([^"]*)"$`, w.theFakeRegisters)
	step(`^registrations of the fake engine with pool "([^"]*)" as "([^"]*)" are refused where$`, w.registrationsAreRefused)
	step(`^I submit tasks "([^"]*)" and follow them$`, w.iSubmitAndFollow)
	step(`^streams "([^"]*)" are all "started", tokens, "end"$`, w.theStreamsAre)
	step(`^meanwhile I post to "([^"]*)"$`, w.meanwhileIPost)
	step(`^the answer to that is (\d+)$`, w.theAnswerToThatIs)
	step(`^(\d+) workers run for the replica "([^"]*)"$`, w.workersRunFor)
	step(`^the configuration file is$`, w.theConfigurationFileIs)
	step(`^I note the worker of "([^"]*)"$`, w.iNoteTheWorkerOf)
	step(`^the worker of "([^"]*)" is the one that was noted$`, w.theWorkerIsTheNoted)
	step(`^a daemon that tests itself$`, w.aDaemonThatTestsItself)
	step(`^the daemon prints$`, w.theDaemonPrints)
}

// aPoolOfRegistered makes a pool that has no engine until one registers.
func (w *world) aPoolOfRegistered(id string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	before := w.setup.replicas
	w.setup.pool(id, external("", set(rows, row{"provisioning", "{mode: external}"})...))
	w.setup.replicas = before
	return nil
}

// registration returns a valid body.
func (w *world) registration(pool, name string) (map[string]any, error) {
	if w.fake == nil {
		return nil, errors.New("the scenario has started no fake engine")
	}
	return map[string]any{
		"worker_id": name, "pool_id": pool, "url": w.fake.url, "engine": task.LlamaCpp, "engine_version": "fake-1",
		"model_digest": "sha256:11d2", "fingerprint": "fd61", "slots": 1, "ctx": 256,
	}, nil
}

func (w *world) register(body map[string]any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the registration: %w", err)
	}
	return w.call(http.MethodPost, "/v1/workers/register", nil, encoded)
}

func (w *world) theFakeRegisters(pool, name string) error {
	body, err := w.registration(pool, name)
	if err != nil {
		return err
	}
	return w.register(body)
}

// registrationsAreRefused changes one field at a time. The table's columns are the field, its value, the answer's code, and a part of its message.
func (w *world) registrationsAreRefused(pool, name string, t *godog.Table) error {
	for _, r := range t.Rows {
		if len(r.Cells) != 4 {
			return errors.New("the step's table needs four columns")
		}
		field, answer, says := r.Cells[0].Value, r.Cells[2].Value, r.Cells[3].Value
		value, err := w.expand(r.Cells[1].Value)
		if err != nil {
			return err
		}
		body, err := w.registration(pool, name)
		if err != nil {
			return err
		}
		body[field] = value
		if n, err := strconv.Atoi(value); err == nil {
			body[field] = n
		}
		if err := w.register(body); err != nil {
			return err
		}
		status, code, _ := strings.Cut(answer, " ")
		n, err := strconv.Atoi(status)
		if err != nil {
			return fmt.Errorf("the step's answer: %w", err)
		}
		if err := errors.Join(w.theAnswerIsCode(n, code), w.itsMessageSays(says)); err != nil {
			return fmt.Errorf("%s is %s: %w", field, value, err)
		}
	}
	return nil
}

// iSubmitAndFollow gives each task a seed of its own.
func (w *world) iSubmitAndFollow(names string) error {
	for i, name := range strings.Split(names, ", ") {
		if err := w.submit(name, []row{{"seed", strconv.Itoa(i)}}); err != nil {
			return err
		}
		if err := w.iFollow(name); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) theStreamsAre(names string) (err error) {
	for name := range strings.SplitSeq(names, ", ") {
		if wrong := w.theStreamIs(name, "end"); wrong != nil {
			err = errors.Join(err, fmt.Errorf("stream %q: %w", name, wrong))
		}
	}
	return err
}

// sent is a request under way.
type sent struct {
	answer *response
	err    error
}

// meanwhileIPost posts without waiting for the answer.
func (w *world) meanwhileIPost(path string, body *godog.DocString) error {
	content, err := w.expand(body.Content)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	r, err := w.request(ctx, http.MethodPost, path, nil, []byte(content))
	if err != nil {
		cancel()
		return err
	}
	client, got := w.daemon.client, make(chan sent, 1)
	go func() { // joined by theAnswerToThatIs; otherwise it ends with the daemon
		defer cancel()
		a, err := answer(client, r)
		got <- sent{a, err}
	}()
	w.meanwhile = got
	return nil
}

func (w *world) theAnswerToThatIs(status int) error {
	if w.meanwhile == nil {
		return errors.New("the scenario has no request under way")
	}
	got := <-w.meanwhile
	w.meanwhile = nil
	if got.err != nil {
		return got.err
	}
	if err := w.settled(); err != nil {
		return err
	}
	w.last = got.answer
	return w.theAnswerIs(status)
}

// workersRunFor counts the workers' pid files. During a reload a replica has two workers.
func (w *world) workersRunFor(n int, replica string) error {
	return poll("the workers of "+replica, func() error {
		files, err := filepath.Glob(filepath.Join(w.dir, "data", "run", "*.json"))
		if err != nil {
			return fmt.Errorf("look for the workers' files: %w", err)
		}
		found := 0
		for _, file := range files {
			var worker struct {
				Replica string `json:"replica_id"`
			}
			if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &worker) == nil && worker.Replica == replica {
				found++
			}
		}
		if found != n {
			return fmt.Errorf("there are %d", found)
		}
		return nil
	})
}

// theConfigurationFileIs replaces the running daemon's configuration file with any text.
func (w *world) theConfigurationFileIs(content *godog.DocString) error {
	return w.file("config.yaml", content.Content)
}

func (w *world) aDaemonThatTestsItself() error {
	w.setup.selfTest = true
	return w.start()
}

// theDaemonPrints waits for lines on standard output. A blank matches any number of blanks, and a cell may be a pattern.
func (w *world) theDaemonPrints(t *godog.Table) error {
	return poll("what the daemon prints", func() error {
		printed, err := os.ReadFile(w.setup.printedPath())
		if err != nil {
			return fmt.Errorf("read what the daemon printed: %w", err)
		}
		lines := strings.Split(string(printed), "\n")
		for _, r := range t.Rows {
			if !slices.ContainsFunc(lines, func(line string) bool {
				return match(strings.Join(strings.Fields(line), " "), r.Cells[0].Value) == nil
			}) {
				return fmt.Errorf("no line is %q:\n%s", r.Cells[0].Value, printed)
			}
		}
		return nil
	})
}

func (w *world) iNoteTheWorkerOf(replica string) (err error) {
	w.noted, err = w.workerOf(replica)
	return err
}

func (w *world) theWorkerIsTheNoted(replica string) error {
	pid, err := w.workerOf(replica)
	if err == nil && pid != w.noted {
		err = fmt.Errorf("it is process %d, and process %d was noted", pid, w.noted)
	}
	return err
}
