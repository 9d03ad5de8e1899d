// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/client"
)

func (w *world) chatSteps(step define) {
	step(`^a scripted engine( without tools)?( that sees)? plays$`, w.aScriptedEngine)
	step(`^a pool "([^"]*)" in front of the scripted engine$`, w.aPoolOnTheScripted)
	step(`^a daemon in front of the scripted engine$`, w.aDaemonOnAFake)
	step(`^I submit the chat "([^"]*)"$`, w.iSubmitTheChat)
	step(`^stream "([^"]*)" thinks "(.*)" and says "(.*)"$`, w.theStreamThinks)
	step(`^stream "([^"]*)" calls$`, w.theStreamCalls)
	step(`^stream "([^"]*)" tells (\d+) alternatives of each token$`, w.theStreamTells)
	step(`^files of the data folder hold each of$`, w.theFilesHold)
	step(`^no file of the data folder holds any of$`, w.noFileHoldsAny)
}

// aScriptedEngine starts an engine that plays a script (package scripted).
func (w *world) aScriptedEngine(noTools, sees string, script *godog.DocString) error {
	file := filepath.Join(w.dir, fmt.Sprintf("script-%d.json", len(w.fakes)))
	if err := os.WriteFile(file, []byte(script.Content), 0o600); err != nil {
		return fmt.Errorf("write the script: %w", err)
	}
	args := []string{"-script", file, "-thinks"}
	if noTools != "" {
		args = append(args, "-no-tools")
	}
	if sees != "" {
		args = append(args, "-vision")
	}
	f, err := w.lab.startEngine(w.dir, "the scripted engine", "scripted", args...)
	if err != nil {
		return err
	}
	w.fake, w.fakes = f, append(w.fakes, f)
	return nil
}

func (w *world) aPoolOnTheScripted(id string) error { return w.anExternalPool(id, &godog.Table{}) }

// iSubmitTheChat posts a body, with the model of the scenarios where it names none.
func (w *world) iSubmitTheChat(name string, text *godog.DocString) error {
	content, err := w.expand(text.Content)
	if err != nil {
		return err
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal([]byte(content), &body); err != nil {
		return fmt.Errorf("the step's JSON: %w", err)
	}
	rows := make([]row, 0, len(body))
	for field, value := range body {
		rows = append(rows, row{field, string(value)})
	}
	return w.submit(name, rows)
}

// said is what the events of a stream that has ended say, as the suites' client reads them.
func (w *world) said(name string) (*client.Log, error) {
	s, _, err := w.ended(name)
	if err != nil {
		return nil, err
	}
	if _, err := s.list(); err != nil {
		return nil, err
	}
	return s.said, nil // its reader has ended
}

func (w *world) theStreamThinks(name, thinks, says string) error {
	log, err := w.said(name)
	if err == nil && (log.Thinking != thinks || log.Answer != says) {
		err = fmt.Errorf("it thinks %q and says %q", log.Thinking, log.Answer)
	}
	return err
}

// theStreamTells checks that the tokens of each event make up its text, each with so many alternatives.
func (w *world) theStreamTells(name string, alternatives int) error {
	log, err := w.said(name)
	if err != nil {
		return err
	}
	for _, e := range log.Events {
		if e.Name != "token" {
			continue
		}
		var told struct {
			Text     string `json:"t"`
			Logprobs []struct {
				Token   string            `json:"token"`
				Logprob *float64          `json:"logprob"`
				Top     []json.RawMessage `json:"top_logprobs"`
			} `json:"logprobs"`
		}
		if err := json.Unmarshal([]byte(e.Data), &told); err != nil {
			return fmt.Errorf("the event %s: %w", e.Data, err)
		}
		var text strings.Builder
		for _, l := range told.Logprobs {
			if text.WriteString(l.Token); l.Logprob == nil || *l.Logprob > 0 || len(l.Top) != alternatives {
				return fmt.Errorf("it tells %s", e.Data)
			}
		}
		if text.String() != told.Text {
			return fmt.Errorf("its tokens are no %q: %s", told.Text, e.Data)
		}
	}
	return nil
}

// theStreamCalls compares the calls with the table's rows of a name and arguments. Each call has an id of its own.
func (w *world) theStreamCalls(name string, t *godog.Table) error {
	log, err := w.said(name)
	if err != nil {
		return err
	}
	var want, got [][2]string
	for _, r := range t.Rows {
		if len(r.Cells) != 2 {
			return errors.New("the step's table needs two columns")
		}
		want = append(want, [2]string{r.Cells[0].Value, r.Cells[1].Value})
	}
	ids := map[string]bool{"": true}
	for i, c := range log.Calls {
		if ids[c.ID] {
			return fmt.Errorf("call %d has no id of its own: %q", i, c.ID)
		}
		ids[c.ID] = true
		w.kept[fmt.Sprintf("CALL%d", i)] = c.ID
		got = append(got, [2]string{c.Name, c.Arguments})
	}
	if !slices.Equal(want, got) {
		return fmt.Errorf("it calls %q", got)
	}
	return nil
}

func (w *world) theFilesHold(t *godog.Table) error {
	for _, r := range t.Rows {
		held, err := w.filesHold(r.Cells[0].Value)
		if err == nil && len(held) == 0 {
			err = fmt.Errorf("none holds %q", r.Cells[0].Value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) noFileHoldsAny(t *godog.Table) error {
	for _, r := range t.Rows {
		held, err := w.filesHold(r.Cells[0].Value)
		if err == nil && len(held) > 0 {
			err = errors.New(strings.Join(held, ", "))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
