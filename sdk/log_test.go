// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-623
func TestLogs(t *testing.T) {
	t.Parallel()
	query := ""
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("event: lost\ndata: {\"lines\":12}\n\n: keep-alive\n\nevent: line\ndata: {\"level\":\"warn\",\"ts\":\"2026-11-22T20:15:00.125Z\",\"msg\":\"m\",\"n\":1}\n\n" +
			"event: new\ndata: {}\n\nevent: line\ndata: {\"level\":\"info\",\"ts\":\"2026-11-22T20:15:00Z\",\"msg\":\"m\",\"human\":\"H.\",\"task\":\"t\"}\n\n"))
	}), func(o *Options) { o.Reconnects = -1 })
	var got []LogLine
	for line, err := range c.Logs(t.Context(), LogFilter{Level: LogLevelInfo, PoolID: "p", TaskID: "t", Text: "a b", Last: 5}) {
		require.NoError(t, err)
		got = append(got, line)
	}
	require.Equal(t, "follow=false&last=5&level=info&pool_id=p&task_id=t&text=a+b", query)
	require.Len(t, got, 2)
	require.Equal(t, 12, got[0].Lost)
	require.JSONEq(t, `{"level":"warn","ts":"2026-11-22T20:15:00.125Z","msg":"m","n":1}`, string(got[0].JSON))
	require.Equal(t, 125, got[0].Time.Nanosecond()/1_000_000)
	require.Zero(t, got[1].Lost)
	require.Equal(t, "H.", got[1].Human)

	seen := 0
	for _, err := range c.Logs(t.Context(), LogFilter{Follow: true, Last: -1}) {
		if seen++; seen == 3 {
			var gone *UnreachableError
			require.ErrorAs(t, err, &gone, "a log that is followed has no end")
		}
	}
	require.Equal(t, 3, seen)
	require.Equal(t, "follow=true&last=0", query)
	var wrong *RequestError
	require.ErrorAs(t, firstOf(c.Logs(t.Context(), LogFilter{Level: "loud"})), &wrong)
	require.Equal(t, "level", wrong.Field)
}
