// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/sdk"
)

// chatCmd is a conversation at the terminal.
type chatCmd struct {
	Model       string   `short:"m" placeholder:"REF" help:"Model (default: the only one the server serves)."`
	System      string   `placeholder:"TEXT" help:"A system message."`
	Temperature *float64 `placeholder:"X" help:"Sampling temperature (default: the pool's)."`
	MaxTokens   int      `placeholder:"N" help:"Tokens of an answer at most (default: as many as the context holds)."`
	Seed        *int64   `placeholder:"N" help:"Seed of each answer (default: chosen by the server)."`
	Reasoning   bool     `help:"Tell the model's thinking from its answer."`
}

// conversation is a chat that is under way.
type conversation struct {
	*app
	c       *chatCmd
	model   string
	turns   []sdk.Message // of the user and the model, in turns
	last    string        // what was asked last, for /retry
	before  int           // how many turns there were then
	signals chan os.Signal
	ended   bool
}

// Run holds the conversation until the input ends or /exit.
func (c *chatCmd) Run(a *app) error {
	t := &conversation{app: a, c: c, model: c.Model, signals: make(chan os.Signal, 1)}
	if t.model == "" {
		var err error
		if t.model, err = (&runCmd{}).onlyModel(a); err != nil {
			return err
		}
	}
	outer := a.ctx
	a.ctx = context.WithoutCancel(a.ctx) // a Ctrl-C cancels an answer, and not the chat
	defer func() { a.ctx = outer }()
	signal.Notify(t.signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(t.signals)
	lines := newLines(a, t.signals)
	if lines.interactive() && !a.json {
		a.note("%s at %s; /help lists what else can be typed, Ctrl-C cancels an answer, Ctrl-D leaves", t.model, a.addr)
	}
	for !t.ended {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading what is typed: %w", err)
		}
		if err := t.do(line); err != nil {
			if !lines.interactive() {
				return err
			}
			a.fail(err)
		}
	}
	return nil
}

// do follows a line: a command, or what is asked.
func (t *conversation) do(line string) error {
	line = strings.TrimSpace(line)
	switch name, rest, _ := strings.Cut(line, " "); {
	case line == "":
		return nil
	case strings.HasPrefix(line, "/"):
		return t.command(name, strings.TrimSpace(rest))
	}
	return t.ask(line)
}

// chatCommands are what can be typed beside questions, with what it does.
var chatCommands = [][]string{
	{"/model [NAME]", "ask another model from now on; without a name, list them"},
	{"/system [TEXT]", "what the model is told before everything else; without a text, nothing"},
	{"/retry", "ask again what was asked last, in place of the last answer"},
	{"/clear", "forget the conversation"},
	{"/save FILE", "write the conversation to a new file: as JSON if its name ends so, else as Markdown"},
	{"/help", "this list"},
	{"/exit", "leave, as Ctrl-D does"},
}

func (t *conversation) command(name, rest string) error {
	switch name {
	case "/model":
		return t.choose(rest)
	case "/system":
		t.c.System = rest
		t.note("%s", map[bool]string{true: "no system message", false: "the system message is set"}[rest == ""])
	case "/retry":
		if t.last == "" {
			return usagef("nothing was asked yet")
		}
		t.turns = t.turns[:t.before]
		return t.ask(t.last)
	case "/clear":
		t.turns, t.last, t.before = nil, "", 0
		t.note("the conversation is forgotten")
	case "/save":
		return t.save(rest)
	case "/help":
		return t.table(slices.Concat([][]string{{"COMMAND", "DOES"}}, chatCommands))
	case "/exit", "/bye", "/quit":
		t.ended = true
	default:
		var known []string
		for _, c := range chatCommands {
			known = append(known, strings.Fields(c[0])[0])
		}
		if best := nearest.Name(name, known); best != "" {
			return usagef("there is no %s, did you mean %s?", name, best)
		}
		return usagef("there is no %s; /help lists what there is", name)
	}
	return nil
}

// choose changes the model, if the server has it.
func (t *conversation) choose(name string) error {
	pools, err := t.client.Pools(t.ctx)
	if err != nil {
		return err
	}
	rows, names := [][]string{{"MODEL", "POOL", "STATE", "NOW"}}, []string{}
	for _, p := range pools {
		if p.Workload == sdk.WorkloadCompletion {
			names = append(names, p.Model.ID)
			rows = append(rows, []string{p.Model.ID, p.ID, poolState(p), map[bool]string{true: "*"}[p.Model.ID == t.model]})
		}
	}
	switch best := nearest.Name(name, names); {
	case name == "":
		return t.table(rows)
	case slices.Contains(names, name):
	case best != "":
		return usagef("the server serves no model %s, did you mean %s?", name, best)
	default:
		return usagef("the server serves no model %s; /model lists them", name)
	}
	t.model = name
	t.note("%s answers from now on", name)
	return nil
}

// ask sends the conversation with one more question, and shows the answer.
func (t *conversation) ask(question string) error {
	t.last, t.before = question, len(t.turns)
	request := &sdk.TaskRequest{ModelRef: t.model, TaskID: uuid.NewString(), Seed: t.c.Seed, MaxTokens: t.c.MaxTokens}
	if t.c.System != "" {
		request.Messages = append(request.Messages, sdk.Say(sdk.RoleSystem, t.c.System))
	}
	request.Messages = append(append(request.Messages, t.turns...), sdk.Say(sdk.RoleUser, question))
	if t.c.Temperature != nil {
		request.Params = &sdk.Params{Temperature: t.c.Temperature}
	}
	if t.c.Reasoning {
		request.Reasoning = &sdk.ReasoningWish{Split: true}
	}
	said, err := t.answered(request)
	if said.Text != "" { // also what came before a Ctrl-C: the model is to know what its user has read
		t.turns = append(t.turns, sdk.Say(sdk.RoleUser, question), sdk.Said(said.Text, "", nil))
	}
	if t.json && err == nil {
		return t.printJSON(said)
	}
	return err
}

// reply is an answer, as --json prints it.
type reply struct {
	TaskID       string           `json:"task_id"`
	Model        string           `json:"model"`
	Text         string           `json:"text"`
	Reasoning    string           `json:"reasoning,omitempty"`
	FinishReason sdk.FinishReason `json:"finish_reason"`
	Receipt      *sdk.Receipt     `json:"receipt,omitempty"`
}

// answered runs a task and shows its stream. Ctrl-C cancels it, which is no error.
func (t *conversation) answered(request *sdk.TaskRequest) (said reply, err error) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	interrupted := make(chan struct{})
	over := make(chan struct{})
	go func() { // ends with the answer
		defer close(over)
		select {
		case s := <-t.signals:
			close(interrupted)
			t.ended = s == syscall.SIGTERM
			cancel()
		case <-ctx.Done():
		}
	}()
	said.TaskID, said.Model = request.TaskID, request.ModelRef
	v := t.answer(time.Now())
	for event, failed := range t.client.Run(ctx, request) {
		if failed == nil {
			failed = t.show(v, event, &said)
		}
		if err = failed; err != nil {
			break
		}
	}
	cancel()
	<-over
	v.clear()
	v.endLine()
	if !v.ended { // through a pipe too, each answer ends its line
		fmt.Fprintln(t.out)
	}
	t.view = nil
	select {
	case <-interrupted:
		t.note("canceled")
		return said, nil
	default:
		return said, err
	}
}

func (t *conversation) show(v *answer, event sdk.Event, said *reply) error {
	switch e := event.(type) {
	case sdk.Token:
		said.Text += e.Text
	case sdk.Reasoning:
		said.Reasoning += e.Text
	case sdk.End:
		said.FinishReason, said.Receipt = e.FinishReason, &e.Receipt
		if !t.verbose && e.FinishReason != sdk.FinishReasonLength {
			return nil // the summary of each answer would be in the way
		}
	case sdk.ErrorEvent:
		return e.Err
	}
	if t.json {
		return nil
	}
	return v.show(event)
}

// save writes the conversation to a new file.
func (t *conversation) save(file string) error {
	if file == "" {
		return usagef("say where to: /save FILE")
	}
	messages := t.turns
	if t.c.System != "" {
		messages = append([]sdk.Message{sdk.Say(sdk.RoleSystem, t.c.System)}, messages...)
	}
	var text []byte
	if strings.EqualFold(filepath.Ext(file), ".json") {
		var err error
		if text, err = json.MarshalIndent(map[string]any{"model": t.model, "messages": messages}, "", "  "); err != nil {
			return fmt.Errorf("writing the conversation down: %w", err)
		}
		text = append(text, '\n')
	} else {
		for _, m := range messages {
			text = fmt.Appendf(text, "**%s**\n\n%s\n\n", m.Role, m.Content.Text)
		}
	}
	const private = 0o600
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, private)
	if err != nil {
		return usageError{err}
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("saving the conversation: %w", err)
	}
	t.note("saved to %s", file)
	return nil
}
