// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/service/task"
)

// Unread words a refusal that net/http makes by itself, of what is no request that it can read, from the response that it would send
// (LO-819). No front was asked yet, so the answer has the native API's shape.
func (g *Gate) Unread(said []byte) []byte {
	status := http.StatusBadRequest
	if len(said) >= len("HTTP/1.1 400") {
		if n, err := strconv.Atoi(string(said[len("HTTP/1.1 "):len("HTTP/1.1 400")])); err == nil && n >= 400 && n <= 599 {
			status = n
		}
	}
	refusal := Refuse(unread(status, said))
	refusal.Status = status
	call := &Call{CorrelationID: uuid.NewString()}
	refusal.Log(context.WithValue(context.Background(), callKey{}, call), g.o.Log)
	body, err := json.Marshal(refusal.Envelope)
	if err != nil {
		return said
	}
	h := http.Header{
		"Content-Type": {"application/json; charset=utf-8"}, "Content-Length": {strconv.Itoa(len(body))}, "Connection": {"close"},
		"Date": {time.Now().UTC().Format(http.TimeFormat)}, CorrelationHeader: {call.CorrelationID},
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = h.Write(&out) // a buffer takes all
	out.WriteString("\r\n")
	out.Write(body)
	return out.Bytes()
}

// unread says what was wrong with what came in. For some of it net/http has a reason behind the status in its text.
func unread(status int, said []byte) *task.Error {
	_, text, _ := bytes.Cut(said, []byte("\r\n\r\n"))
	_, why, _ := strings.Cut(string(text), ": ")
	if why != "" {
		why = " (" + task.Clip(why, maxWhy) + ")"
	}
	switch status {
	case http.StatusRequestHeaderFieldsTooLarge:
		return task.Errorf(task.TooLarge, "the head of the request is larger than the %d bytes this server takes: send fewer or shorter headers", http.DefaultMaxHeaderBytes)
	case http.StatusExpectationFailed:
		return task.Errorf(task.InvalidParams, "the header Expect asks for what this server cannot do: send `100-continue`, or no such header")
	case http.StatusHTTPVersionNotSupported:
		return task.Errorf(task.NotImplemented, "this server speaks HTTP/1.1 and HTTP/1.0, and not the request's version%s", why)
	case http.StatusNotImplemented:
		return task.Errorf(task.NotImplemented, "the body's Transfer-Encoding is not known here: send it with a Content-Length, or `chunked`")
	}
	return task.Errorf(task.InvalidParams, "this is no request of HTTP/1.1%s: look at its first line and its headers; this port does not speak TLS", why)
}

// maxWhy is how many bytes of net/http's reason a message repeats.
const maxWhy = 128
