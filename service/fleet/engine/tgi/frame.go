// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"bytes"
	"errors"

	"github.com/go-faster/jx"
)

var (
	// tokenKey stands in a frame once: within a text its quotes would be escaped.
	tokenKey = []byte(`"token":`)
	// noDetails is how every frame but the last ends.
	noDetails = []byte(`"details":null}`)
)

var errNoToken = errors.New("a frame has no token")

// frame reads what matters of one frame of /generate_stream. It is used again for the next: a token costs only the string for emit.
type frame struct {
	d       jx.Decoder
	text    []byte
	special bool // the token is none of the text
	failed  bool
	last    bool // it has the details
	// Of the details:
	finish           []byte
	generated, input int
}

func (f *frame) read(data []byte) error {
	f.text, f.finish = f.text[:0], f.finish[:0]
	f.special, f.failed, f.last = false, false, false
	if at := bytes.Index(data, tokenKey); at >= 0 && bytes.HasSuffix(data, noDetails) { // it is not the last, and the rest does not matter
		f.d.ResetBytes(data[at+len(tokenKey):])
		return f.token()
	}
	f.d.ResetBytes(data)
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	token := false
	for fields.Next() {
		switch key := fields.Key(); {
		case string(key) == "token":
			token = true
			err = f.token()
		case string(key) == "details" && f.d.Next() != jx.Null:
			f.last = true
			err = f.details()
		case string(key) == "error":
			f.failed = true
			err = f.d.Skip()
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
	if !token && !f.failed {
		return errNoToken
	}
	return nil
}

func (f *frame) token() error {
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch string(fields.Key()) {
		case "text":
			f.text, err = f.d.StrAppend(f.text)
		case "special":
			f.special, err = f.d.Bool()
		default:
			err = f.d.Skip()
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}

func (f *frame) details() error {
	fields, err := f.d.ObjIter()
	if err != nil {
		return err
	}
	for fields.Next() {
		switch string(fields.Key()) {
		case "finish_reason":
			f.finish, err = f.d.StrAppend(f.finish)
		case "generated_tokens":
			f.generated, err = f.d.Int()
		case "input_length":
			f.input, err = f.d.Int()
		default:
			err = f.d.Skip()
		}
		if err != nil {
			return err
		}
	}
	return fields.Err()
}
