// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// ofLine is how the task of a batch's line for a response ended, with this in its body.
func ofLine(t *testing.T, l *exchangetest.Line, more string) task.Record {
	t.Helper()
	q, names, err := New(exchange.Options{Tasks: l}).Line(t.Context(), "/v1/responses", []byte(`{`+ask+more+`}`))
	require.NoError(t, err)
	require.NotNil(t, names)
	r := spoken()
	q.Front.Dialect, q.BatchID = "openai", "batch_b"
	r.Task.ID, r.Task.Request = "b-1", q
	return r
}

// LO-439: the response of a line is kept as any other, unless the line says that it is not to be. Then the results of the batch have it, and nothing else.
func TestTheResponseOfALineIsKept(t *testing.T) {
	for more, isKept := range map[string]bool{``: true, `,"store":true`: true, `,"background":true`: true, `,"store":false`: false} {
		l := exchangetest.New()
		r := ofLine(t, l, more)
		l.Keep(r)
		require.Zero(t, r.Task.Request.KeepText, "the results are made from the record")
		shown, err := New(exchange.Options{Tasks: l}).LineAnswer("/v1/responses", r).(interface{ MarshalJSON() ([]byte, error) }).MarshalJSON()
		require.NoError(t, err)
		require.Contains(t, string(shown), `"id":"resp_b-1"`)
		require.Contains(t, string(shown), `"background":false`)
		at := serve(t, l) + "/v1/responses"
		code, body := get(t, http.MethodGet, at+"/resp_b-1")
		if isKept {
			require.Equal(t, http.StatusOK, code)
			require.JSONEq(t, string(shown), body)
			continue
		}
		for _, call := range [][2]string{{"GET", ""}, {"GET", "?stream=true"}, {"DELETE", ""}, {"POST", "/cancel"}, {"GET", "/input_items"}} {
			code, body := get(t, call[0], at+"/resp_b-1"+call[1])
			require.Equal(t, http.StatusNotFound, code)
			require.Contains(t, body, "Response with id 'resp_b-1' not found")
		}
		res := exchangetest.Post(t, at, `{`+ask+`,"previous_response_id":"resp_b-1"}`)
		require.Contains(t, exchangetest.Read(t, res.Body), "previous_response_not_found")
	}
}

// LO-439: what a request is refused for, a line is refused for.
func TestALineInTheBackgroundHasToBeKept(t *testing.T) {
	_, _, err := New(exchange.Options{Tasks: exchangetest.New()}).Line(t.Context(), "/v1/responses", []byte(`{`+ask+`,"background":true,"store":false}`))
	require.ErrorContains(t, err, "`background`")
}

// LO-439: the response of a line is canceled with its batch, which the refusal names.
func TestCancelingTheResponseOfALine(t *testing.T) {
	l := exchangetest.New()
	l.Keep(ofLine(t, l, `,"background":true`))
	code, body := get(t, http.MethodPost, serve(t, l)+"/v1/responses/resp_b-1/cancel")
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, body, "cancel batch_b")
	require.Zero(t, l.Cancels())
}
