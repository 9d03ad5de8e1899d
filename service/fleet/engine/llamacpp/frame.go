// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
)

// frame reads what matters of one frame of either endpoint.
type frame struct {
	openai.Frame

	stop     bool // it is the last of the native endpoint
	progress bool // it tells of the prompt, and holds no token
	cached   int  // tokens of it that came from KV
}

// native reads a frame of /completion.
func (f *frame) native(data []byte) error {
	f.Reset(data)
	f.stop, f.progress = false, false
	fields, err := f.D.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch string(fields.Key()) {
		case "content":
			f.Content, err = f.D.StrAppend(f.Content)
		case "stop":
			if f.stop, err = f.D.Bool(); err == nil && !f.stop && len(f.Content) > 0 && !f.Asks {
				return nil // it is the frame of a token, and the rest does not matter
			}
		case "error":
			f.Failed = true
			err = f.D.Skip()
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
	f.progress = false
	if f.Other == nil {
		f.Other = f.other
	}
	return f.Read(data)
}

// other reads a field that both endpoints have.
func (f *frame) other(key []byte) error {
	switch string(key) {
	case "prompt_progress":
		f.progress = true
		return f.D.ObjBytes(func(d *jx.Decoder, key []byte) (err error) {
			if string(key) != "cache" {
				return d.Skip()
			}
			f.cached, err = d.Int()
			return err
		})
	case "completion_probabilities":
		return f.Probabilities()
	}
	return f.D.Skip()
}
