// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a submit costs between the socket and admission, and back.
func BenchmarkSubmit(b *testing.B) { benchmark(b, http.MethodPost, "/v1/tasks", goodBody) }

// What a request without a body costs.
func BenchmarkGetTask(b *testing.B) { benchmark(b, http.MethodGet, "/v1/tasks/t1", "") }

func benchmark(b *testing.B, method, target, body string) {
	f := setup(b)
	r := httptest.NewRequest(method, target, http.NoBody)
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "127.0.0.1:8080"
	r.Header.Set("Content-Type", "application/json")
	w := &nowhere{header: http.Header{}}
	in := strings.NewReader(body)
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(body)
		if body != "" {
			r.Body, r.ContentLength = readOnly{in}, int64(len(body))
		}
		f.handler.ServeHTTP(w, r)
	}
}

type readOnly struct{ *strings.Reader }

func (readOnly) Close() error { return nil }
