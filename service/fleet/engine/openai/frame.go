// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"bytes"
	"slices"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/task"
)

// Frame reads what matters of one frame of a stream. It is used again for the next: a token costs only the string for emit.
type Frame struct {
	Content   []byte
	Reasoning []byte
	Calls     []CallPart
	Ends      bool // it names the finish reason, or the usage
	Failed    bool // it is an error

	Asks   bool           // how likely the tokens were is read, too
	Likely []task.Logprob // the tokens of the frame

	// Other reads the value of a further field from D; nil: it is passed over.
	Other func(key []byte) error
	D     jx.Decoder

	texts int // that the frame has of the answer
	mould mould
}

// CallPart is what a frame holds of one call.
type CallPart struct {
	Index           int
	Name, Arguments []byte
}

// Reset forgets the frame before, and has D read the data.
func (f *Frame) Reset(data []byte) {
	f.Content, f.Reasoning, f.Calls, f.Likely = f.Content[:0], f.Reasoning[:0], f.Calls[:0], f.Likely[:0]
	f.Ends, f.Failed, f.texts, f.mould.into = false, false, 0, nil
	f.D.ResetBytes(data)
}

// Says reports whether the frame has something of the answer.
func (f *Frame) Says() bool { return len(f.Content)+len(f.Reasoning)+len(f.Calls) > 0 }

// Read reads a frame of /v1/chat/completions or /v1/completions.
func (f *Frame) Read(data []byte) error {
	if f.mould.fill(data) || f.token(data) {
		return nil
	}
	f.Reset(data)
	fields, err := f.D.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch string(fields.Key()) {
		case "choices":
			if err = f.choices(); err == nil && !f.Ends && f.Says() {
				return nil // it is the frame of a token, and the rest does not matter
			}
		case "usage":
			f.Ends = f.Ends || f.D.Next() != jx.Null
			err = f.D.Skip()
		case "error":
			f.Failed = f.Failed || f.D.Next() != jx.Null
			err = f.D.Skip()
		default:
			if f.Other != nil {
				err = f.Other(fields.Key())
			} else {
				err = f.D.Skip()
			}
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}

// choicesKey stands in a frame once: within a text its quotes would be escaped.
var choicesKey = []byte(`"choices":`)

// token reads the frame of a token, which nearly all are: nothing but its choices matters. It returns false where the frame may be another.
func (f *Frame) token(data []byte) bool {
	at := bytes.Index(data, choicesKey)
	if at < 0 || f.Other != nil {
		return false
	}
	f.Reset(data[at+len(choicesKey):])
	if f.choices() != nil || f.Ends || !f.Says() {
		return false
	}
	if f.texts == 1 && !f.Asks {
		f.mould.cast(data, f.text())
	}
	return true
}

// text is where the frame's one text is.
func (f *Frame) text() *[]byte {
	switch {
	case len(f.Content) > 0:
		return &f.Content
	case len(f.Reasoning) > 0:
		return &f.Reasoning
	}
	at := slices.IndexFunc(f.Calls, func(c CallPart) bool { return len(c.Arguments) > 0 })
	return &f.Calls[at].Arguments
}

func (f *Frame) choices() error {
	choices, err := f.D.ArrIter()
	if err != nil {
		return err
	}
	for choices.Next() {
		fields, err := f.D.ObjIter()
		if err != nil {
			return err
		}
		for fields.Next() {
			switch string(fields.Key()) {
			case "finish_reason":
				err = f.finish()
			case "delta":
				err = f.delta()
			case "text":
				f.Content, err = f.append(f.Content)
			case "logprobs":
				err = f.logprobs()
			default:
				err = f.D.Skip()
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

// finish takes a reason for the end. Some servers write an empty one where there is none.
func (f *Frame) finish() error {
	if f.D.Next() == jx.Null {
		return f.D.Skip()
	}
	reason, err := f.D.StrBytes()
	f.Ends = f.Ends || len(reason) > 0
	return err
}

// append appends a text of the answer, where there is one.
func (f *Frame) append(to []byte) ([]byte, error) {
	if f.D.Next() == jx.Null {
		return to, f.D.Skip()
	}
	out, err := f.D.StrAppend(to)
	if len(out) > len(to) {
		f.texts++
	}
	return out, err
}

func (f *Frame) delta() error {
	fields, err := f.D.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		key := fields.Key()
		switch {
		case f.D.Next() == jx.Null:
			err = f.D.Skip()
		case string(key) == "content":
			f.Content, err = f.append(f.Content)
		case (string(key) == "reasoning_content" || string(key) == "reasoning") && len(f.Reasoning) == 0: // some write both
			f.Reasoning, err = f.append(f.Reasoning)
		case string(key) == "tool_calls":
			err = f.toolCalls()
		default:
			err = f.D.Skip()
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}

func (f *Frame) toolCalls() error {
	calls, err := f.D.ArrIter()
	if err != nil {
		return err
	}
	for calls.Next() {
		part := f.nextCall()
		fields, err := f.D.ObjIter()
		if err != nil {
			return err
		}
		for fields.Next() {
			switch string(fields.Key()) {
			case "index":
				part.Index, err = f.D.Int()
			case "function":
				err = f.function(part)
			default: // its id is random
				err = f.D.Skip()
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
func (f *Frame) nextCall() *CallPart {
	if len(f.Calls) < cap(f.Calls) {
		f.Calls = f.Calls[:len(f.Calls)+1]
	} else {
		f.Calls = append(f.Calls, CallPart{})
	}
	part := &f.Calls[len(f.Calls)-1]
	part.Index, part.Name, part.Arguments = 0, part.Name[:0], part.Arguments[:0]
	return part
}

func (f *Frame) function(part *CallPart) error {
	fields, err := f.D.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch key := fields.Key(); {
		case f.D.Next() == jx.Null:
			err = f.D.Skip()
		case string(key) == "name":
			part.Name, err = f.D.StrAppend(part.Name)
		case string(key) == "arguments":
			part.Arguments, err = f.append(part.Arguments)
		default:
			err = f.D.Skip()
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}
