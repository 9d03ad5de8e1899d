// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// reply is what is kept with the task of a response. A task without it is none, or was not to be kept.
type reply struct {
	Head   json.RawMessage `json:"head"`             // see responseRequest.head
	Chain  []string        `json:"chain,omitempty"`  // the tasks that it goes on from, the first first
	Hidden bool            `json:"hidden,omitempty"` // of a line of a batch: it is in the batch's results alone
}

// kept is a response that is kept.
type kept struct {
	task.Record

	again bool // see exchange.Tasks.Record
	reply reply
	told  struct { // in the head
		Background   bool   `json:"background"`
		Instructions string `json:"instructions"`
	}
}

// kept reads a response. NOT_FOUND says all of one that is unknown, was not to be kept, is deleted, or is none.
func (f *Front) kept(ctx context.Context, id string) (*kept, error) {
	missing := task.Errorf(task.NotFound, "Response with id '%s' not found: it is unknown here, was not to be kept, or is deleted", task.Clip(id, maxID))
	name, ok := strings.CutPrefix(id, responsePrefix)
	if !ok || name == "" || len(name) > maxID {
		return nil, missing
	}
	var k kept
	var err error
	k.Record, k.again, err = f.x.Record(ctx, name)
	switch {
	case task.HasCode(err, task.NotFound), task.HasCode(err, task.Deleted):
		return nil, missing.Because(err)
	case err != nil:
		return nil, err
	case len(k.Task.Request.Front.Reply) == 0:
		return nil, missing
	}
	if err = json.Unmarshal(k.Task.Request.Front.Reply, &k.reply); err == nil {
		if len(k.reply.Head) == 0 || k.reply.Hidden { // it answers a line of a batch: for another path, or one that is not kept
			return nil, missing
		}
		err = json.Unmarshal(k.reply.Head, &k.told)
	}
	if err != nil {
		return nil, fmt.Errorf("what is kept with task %s: %w", name, err)
	}
	return &k, nil
}

// maxID bounds the ids of tasks, and what of a wrong id is told.
const maxID = 128

// response is what a client sees of it, before anything is said.
func (k *kept) response() *response { return newResponse(k.Task.ID, k.Task.AcceptedAt, k.reply.Head) }

// given are the messages that the model was given, without the instructions.
func (k *kept) given() []task.Message {
	messages := slices.Clone(k.Task.Request.Messages)
	if k.told.Instructions == "" || len(messages) == 0 {
		return messages
	}
	rest, ok := strings.CutPrefix(messages[0].Content, k.told.Instructions) // lenient.OneSystem has put them in front
	switch {
	case !ok || messages[0].Role != task.RoleSystem:
		return messages
	case rest == "":
		return messages[1:]
	}
	messages[0].Content = strings.TrimPrefix(rest, lenient.BetweenSystems)
	return messages
}

// said are the items of its output.
func (k *kept) said() []item {
	o := output{task: k.Task.ID}
	o.hear(k.Events())
	o.speak()
	return o.items
}

// earlier reads the responses that one request goes on from, each once.
type earlier struct {
	read  func(id string) (*kept, error)
	gone  func(ids []string) ([]string, error) // those of the tasks that were deleted
	known map[string]*kept                     // by the ids of tasks
	chain []string                             // the tasks that the request goes on from, the first first
}

func (f *Front) earlier(ctx context.Context) *earlier {
	return &earlier{
		read:  func(id string) (*kept, error) { return f.kept(ctx, id) },
		gone:  func(ids []string) ([]string, error) { return f.x.Deleted(ctx, ids) },
		known: map[string]*kept{},
	}
}

// errNoPrevious is the cause of a refusal that has a code of its own in the dialect.
var errNoPrevious = errors.New("there is no such previous response")

const previousParam = "previous_response_id"

func noPrevious(id, why string) error {
	return &lenient.ParamError{Param: previousParam, Err: task.Errorf(task.InvalidParams,
		"Previous response with id '%s' not found: %s. Send the whole conversation as `input`", task.Clip(id, maxID), why).Because(errNoPrevious)}
}

// goOn puts a previous response in front: what its model was given, and what it said.
func (c *conversation) goOn(id string) error {
	if id == "" {
		return nil
	}
	k, err := c.earlier.read(id)
	switch {
	case task.HasCode(err, task.NotFound):
		return noPrevious(id, "it is unknown here, was not to be kept, or is deleted")
	case err != nil:
		return err
	}
	switch status := statusOf(k.Record); status {
	case statusQueued, statusInProgress:
		return lenient.Bad(previousParam, "the response %s is %s: wait for its end", id, status)
	case statusFailed, statusCancelled:
		return lenient.Bad(previousParam, "the response %s is %s, and has no whole answer to go on from: send its request again", id, status)
	}
	gone, err := c.earlier.gone(k.reply.Chain)
	switch {
	case err != nil:
		return err
	case len(gone) > 0:
		return noPrevious(responsePrefix+gone[0], "it is deleted, and "+id+" goes on from it")
	}
	c.earlier.known[k.Task.ID] = k
	c.earlier.chain = append(slices.Clone(k.reply.Chain), k.Task.ID)
	for _, m := range k.given() {
		c.Add(previousParam, m)
	}
	for _, i := range k.said() {
		c.repeat(previousParam, i)
	}
	return nil
}

// repeat adds an item that a model said.
func (c *conversation) repeat(param string, i item) {
	switch i.kind {
	case task.EventReasoning:
		c.think(param, string(i.text))
	case task.EventToolCall:
		c.call(param, task.ToolCall{ID: i.call.ID, Name: i.call.Name, Arguments: lenient.WholeArguments(string(i.text))})
	default:
		c.say(param, string(i.text))
	}
}

// reference adds an item of a response that is kept.
func (c *conversation) reference(param, id string) error {
	missing := &lenient.ParamError{Param: param, Err: task.Errorf(task.NotFound,
		"Item with id '%s' not found. Items are not persisted when `store` is set to false: send the item itself", task.Clip(id, maxID))}
	prefix, name, n, input, ok := itemID(id)
	if !ok {
		return missing
	}
	k := c.earlier.known[name]
	if k == nil {
		var err error
		k, err = c.earlier.read(responsePrefix + name)
		switch {
		case task.HasCode(err, task.NotFound):
			return missing
		case err != nil:
			return err
		case !k.State.Final():
			return lenient.Bad(param, "the response of the item %s is %s: wait for its end", task.Clip(id, maxID), statusOf(k.Record))
		}
		c.earlier.known[name] = k
	}
	if input {
		all := apart(k.given())
		if n >= len(all) || all[n].prefix() != prefix {
			return missing
		}
		all[n].join(c, param)
		return nil
	}
	all := k.said()
	if n >= len(all) || prefixes[all[n].kind] != prefix {
		return missing
	}
	c.repeat(param, all[n])
	return nil
}

// inputMark tells the items that a model was given from those that it said, in their ids.
const inputMark = "_in"

// itemID reads the id of an item: its prefix, the task of its response, and its place in the output, or in the input.
func itemID(id string) (prefix, name string, n int, input, ok bool) {
	prefix, rest, ok := strings.Cut(id, "_")
	at := strings.LastIndexByte(rest, '_')
	if !ok || at <= 0 || at > maxID+len(inputMark) {
		return "", "", 0, false, false
	}
	name, input = strings.CutSuffix(rest[:at], inputMark)
	n, err := strconv.Atoi(rest[at+1:])
	if err != nil || n < 0 || strconv.Itoa(n) != rest[at+1:] || name == "" {
		return "", "", 0, false, false
	}
	return prefix + "_", name, n, input, true
}
