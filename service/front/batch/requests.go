// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// requests reads the body of a message batch as it comes, and gives a line of JSON for each of its requests. So a body of any size takes the memory of
// one request.
type requests struct {
	in    *bounded
	json  *json.Decoder
	line  bytes.Buffer // what was not read of it yet
	seen  map[string]bool
	state requestsState
	total int
}

// requestsState is where the reading of a body stands.
type requestsState uint8

const (
	beforeRequests requestsState = iota
	amongRequests
	behindRequests
)

func newRequests(body io.Reader, most int64) *requests {
	in := &bounded{in: body, most: most}
	return &requests{in: in, json: json.NewDecoder(in), seen: map[string]bool{}}
}

// bounded bounds what is read of a body for one of its values.
type bounded struct {
	in   io.Reader
	most int64
	read int64 // since the last value
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.read > b.most {
		return 0, task.Errorf(task.TooLarge, "a request of the batch is larger than the %d bytes this server takes: shorten it, or raise limits.body_bytes", b.most)
	}
	n, err := b.in.Read(p)
	b.read += int64(n)
	return n, err
}

// Read implements io.Reader.
func (q *requests) Read(p []byte) (int, error) {
	for q.line.Len() == 0 {
		if err := q.next(); errors.Is(err, errWhole) {
			return 0, io.EOF
		} else if err != nil {
			return 0, q.wrong(err)
		}
	}
	return q.line.Read(p)
}

// errWhole is the end of a body that is whole.
var errWhole = errors.New("the body is whole")

// next reads on: a request, or what stands around them.
func (q *requests) next() error {
	switch q.state {
	case beforeRequests:
		return q.open()
	case amongRequests:
		if q.json.More() {
			return q.request()
		}
		q.state = behindRequests
		return q.token(json.Delim(']'))
	default:
		return q.fields()
	}
}

// open reads up to the list of requests.
func (q *requests) open() error {
	if err := q.token(json.Delim('{')); err != nil {
		return err
	}
	return q.fields()
}

// fields reads fields of the body up to the list of requests, or behind it up to the end. What is unknown is ignored.
func (q *requests) fields() error {
	for q.json.More() {
		name, err := q.json.Token()
		if err != nil {
			return unexpected(err)
		}
		if name == "requests" {
			if q.state == behindRequests {
				return lenient.Bad("requests", "it is there twice")
			}
			q.state = amongRequests
			return q.token(json.Delim('['))
		}
		var ignored json.RawMessage
		if err := q.value(&ignored); err != nil {
			return err
		}
	}
	if err := q.token(json.Delim('}')); err != nil {
		return err
	}
	if q.total == 0 {
		return lenient.Bad("requests", "send at least one request")
	}
	if _, err := q.json.Token(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("something follows the object"), err)
	}
	return errWhole
}

// token reads a token that must be this one.
func (q *requests) token(want json.Delim) error {
	got, err := q.json.Token()
	if err != nil {
		return unexpected(err)
	}
	if got != want {
		if want == '[' {
			return lenient.Bad("requests", "it must be a list")
		}
		return task.Errorf(task.InvalidParams, "the body must be a JSON object with `requests`")
	}
	return nil
}

// value reads a value, which has a bound.
func (q *requests) value(into *json.RawMessage) error {
	q.in.read = 0
	return unexpected(q.json.Decode(into))
}

// unexpected words the end of a body that is not whole.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// request makes a line of a request.
func (q *requests) request() error {
	var raw json.RawMessage
	if err := q.value(&raw); err != nil {
		return err
	}
	at := lenient.At("requests", q.total)
	if q.total++; q.total > maxLines {
		return lenient.Bad("requests", "a batch has at most %d requests: split it", maxLines)
	}
	a, fault := anthropicLine("", raw)
	switch {
	case fault != nil:
		return lenient.Bad(at, "%s", fault.Message)
	case q.seen[a.customID]:
		return lenient.Bad(at+".custom_id", "%q is that of an earlier request", a.customID)
	}
	q.seen[a.customID] = true
	if err := json.Compact(&q.line, raw); err != nil {
		return err
	}
	return q.line.WriteByte('\n')
}

// wrong words what a body is refused for.
func (q *requests) wrong(err error) error {
	if e, ok := errors.AsType[*lenient.ParamError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*task.Error](err); ok {
		return e
	}
	return task.Errorf(task.InvalidParams, "the body is not valid JSON: %s", err)
}
