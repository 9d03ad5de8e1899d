// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/task"
)

// frame reads what matters of one frame of either endpoint. It is used again for the next: a token costs only the string for emit.
type frame struct {
	d       jx.Decoder
	content []byte
	stop    bool // it is the last of the native endpoint
	failed  bool

	asks   bool           // how likely the tokens were is read, too
	likely []task.Logprob // the tokens of the frame

	progress bool // it tells of the prompt, and holds no token
	cached   int  // tokens of it that came from KV

	// Of the chat endpoint:
	reasoning []byte
	calls     []callPart
	ends      bool // it names the finish reason, or the usage
}

// callPart is what a frame holds of one call.
type callPart struct {
	index           int
	name, arguments []byte
}

func (f *frame) reset(data []byte) {
	f.content, f.reasoning, f.calls, f.likely = f.content[:0], f.reasoning[:0], f.calls[:0], f.likely[:0]
	f.stop, f.failed, f.progress, f.ends = false, false, false, false
	f.d.ResetBytes(data)
}

// native reads a frame of /completion.
func (f *frame) native(data []byte) error {
	f.reset(data)
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch string(fields.Key()) {
		case "content":
			f.content, err = f.d.StrAppend(f.content)
		case "stop":
			if f.stop, err = f.d.Bool(); err == nil && !f.stop && len(f.content) > 0 && !f.asks {
				// It is the frame of a token, and the rest does not matter.
				return nil
			}
		default:
			err = f.other(fields.Key())
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}

// chat reads a frame of the chat endpoint.
func (f *frame) chat(data []byte) error {
	f.reset(data)
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch string(fields.Key()) {
		case "choices":
			if err = f.choices(); err == nil && !f.ends && len(f.content)+len(f.reasoning)+len(f.calls) > 0 {
				return nil // as above
			}
		case "usage":
			f.ends = f.d.Next() != jx.Null
			err = f.d.Skip()
		default:
			err = f.other(fields.Key())
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}

// other reads a field that both endpoints have.
func (f *frame) other(key []byte) error {
	switch string(key) {
	case "prompt_progress":
		f.progress = true
		return f.d.ObjBytes(func(d *jx.Decoder, key []byte) (err error) {
			if string(key) != "cache" {
				return d.Skip()
			}
			f.cached, err = d.Int()
			return err
		})
	case "error":
		f.failed = true
	case "completion_probabilities":
		return f.probabilities()
	}
	return f.d.Skip()
}

func (f *frame) choices() error {
	choices, err := f.d.ArrIter()
	if err != nil {
		return err
	}
	for choices.Next() {
		fields, err := f.d.ObjIter()
		if err != nil {
			return err
		}
		for fields.Next() {
			switch string(fields.Key()) {
			case "finish_reason":
				f.ends = f.d.Next() != jx.Null
				err = f.d.Skip()
			case "delta":
				err = f.delta()
			case "logprobs":
				err = f.logprobs()
			default:
				err = f.d.Skip()
			}
			if err != nil {
				return err
			}
		}
		if err := fields.Err(); err != nil {
			return err
		}
	}
	return choices.Err()
}

func (f *frame) delta() error {
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		key := fields.Key()
		switch {
		case f.d.Next() == jx.Null:
			err = f.d.Skip()
		case string(key) == "content":
			f.content, err = f.d.StrAppend(f.content)
		case string(key) == "reasoning_content":
			f.reasoning, err = f.d.StrAppend(f.reasoning)
		case string(key) == "tool_calls":
			err = f.toolCalls()
		default:
			err = f.d.Skip()
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}

func (f *frame) toolCalls() error {
	calls, err := f.d.ArrIter()
	if err != nil {
		return err
	}
	for calls.Next() {
		part := f.nextCall()
		fields, err := f.d.ObjIter()
		if err != nil {
			return err
		}
		for fields.Next() {
			switch string(fields.Key()) {
			case "index":
				part.index, err = f.d.Int()
			case "function":
				err = f.function(part)
			default: // its id is random
				err = f.d.Skip()
			}
			if err != nil {
				return err
			}
		}
		if err := fields.Err(); err != nil {
			return err
		}
	}
	return calls.Err()
}

// nextCall is a further callPart, in the memory of one of an earlier frame where there is one.
func (f *frame) nextCall() *callPart {
	if len(f.calls) < cap(f.calls) {
		f.calls = f.calls[:len(f.calls)+1]
	} else {
		f.calls = append(f.calls, callPart{})
	}
	part := &f.calls[len(f.calls)-1]
	part.index, part.name, part.arguments = 0, part.name[:0], part.arguments[:0]
	return part
}

func (f *frame) function(part *callPart) error {
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch key := fields.Key(); {
		case f.d.Next() == jx.Null:
			err = f.d.Skip()
		case string(key) == "name":
			part.name, err = f.d.StrAppend(part.name)
		case string(key) == "arguments":
			part.arguments, err = f.d.StrAppend(part.arguments)
		default:
			err = f.d.Skip()
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}
