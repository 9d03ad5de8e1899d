// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// answer is that of a server that answers everything alike.
type answer struct {
	status      int
	media, body string
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Header: http.Header{"Content-Type": {a.media}, "Retry-After": {a.body}}, Body: io.NopCloser(strings.NewReader(a.body)), Request: r,
	}, nil
}

// FuzzAnswers: whatever a server answers, it is an answer of the contract, or an error with a type.
//
// OC-CTRL-2030, LO-861
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"code":"NOT_FOUND","message":"no","retriable":true,"retry_after_ms":-5,"reasons":[{"pool_id":"p","code":"INTERNAL","message":"x"}]}`,
		`{"pools":[{"id":"p"}]}`, `{"task_id":"t1","state":"queued"}`, `{"items":[]}`, "7",
	} {
		f.Add(200, seed)
		f.Add(503, seed)
	}
	f.Add(200, "event: line\ndata: {\"ts\":\"x\"}\n\nevent: lost\ndata: {\"lines\":3}\n\nevent: line\ndata: {\"msg\":\"a\"}\n\n")
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 || status >= 300 && status < 400 {
			return
		}
		client := func(media string) *Client {
			c, err := New(Options{Addr: "http://host", HTTPClient: &http.Client{Transport: answer{status, media, body}}, MaxEventBytes: 1 << 12, Reconnects: -1})
			require.NoError(t, err)
			return c
		}
		typed := func(err error) {
			_, ours := errors.AsType[*Error](err)
			_, strange := errors.AsType[*ProtocolError](err)
			_, gone := errors.AsType[*UnreachableError](err)
			require.True(t, err == nil || ours || strange || gone, "%v", err)
		}
		c := client("application/json; charset=utf-8")
		_, err := c.Pools(t.Context())
		typed(err)
		_, err = c.Capabilities(t.Context())
		typed(err)
		_, err = c.Models(t.Context(), "")
		typed(err)
		for _, err := range client("text/event-stream").Logs(t.Context(), LogFilter{}) {
			typed(err)
		}
	})
}
