// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/observe"
)

func logging(t *testing.T) (*zap.Logger, *fixture) {
	t.Helper()
	tail := observe.NewTail()
	log, err := observe.NewLogger(observe.Options{Out: io.Discard, Tail: tail, Level: "debug"})
	require.NoError(t, err)
	return log, setup(t, func(o *Options) { o.Logs = tailLogs{tail} })
}

// tailLogs are the lines of a tail, as the app shows them.
type tailLogs struct{ *observe.Tail }

func (l tailLogs) Read() LogReader { return tailReader{l.Tail.Read(2000)} }

type tailReader struct{ *observe.Reader }

func (r tailReader) Past() (LogLine, bool) {
	line, ok := r.Reader.Past()
	return LogLine{line.Level, line.Lost, line.JSON}, ok
}

func (r tailReader) Next(ctx context.Context) (LogLine, error) {
	line, err := r.Reader.Next(ctx)
	return LogLine{line.Level, line.Lost, line.JSON}, err
}

// messages are those of a stream's lines.
func messages(t *testing.T, body string) (all []string) {
	t.Helper()
	for event := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(event, "event: line\ndata: ")
		if !ok {
			continue
		}
		var line struct{ Msg string }
		require.NoError(t, json.Unmarshal([]byte(data), &line))
		all = append(all, line.Msg)
	}
	return all
}

// LO-623
func TestLogsAreFiltered(t *testing.T) {
	log, f := logging(t)
	log.Debug("d")
	log.Info("of a pool", zap.String("pool_id", "default"))
	log.Warn("Of A Task", append(observe.Job{ID: "t-1", PoolID: "other"}.Fields(), zap.String("task", "t"))...)
	log.Error("e", zap.String("task_id", "t-2"))
	log.Debug(`the pool said "no room" to C:\x`, zap.Int("code", 507), zap.Bool("again", true), zap.Any("deep", map[string]any{"list": []string{"Bäh"}}))
	const quoted = `the pool said "no room" to C:\x`
	server := f.serve(t)
	for query, want := range map[string][]string{
		"":                          {"d", "of a pool", "Of A Task", "e", quoted},
		"&last=2":                   {"e", quoted},
		"&last=0":                   nil,
		"&level=warn":               {"Of A Task", "e"},
		"&pool_id=default":          {"of a pool"},
		"&task_id=t-1":              {"Of A Task"},
		"&task_id=t":                {"Of A Task"},
		"&task_id=t-2":              {"e"},
		"&text=OF+a":                {"of a pool", "Of A Task"},
		"&text=of+a&level=warn":     {"Of A Task"},
		"&pool_id=other&last=1":     {"Of A Task"},
		"&pool_id=nobody&text=of+a": nil,
		"&text=%22No+room%22":       {quoted},
		`&text=c:%5Cx`:              {quoted},
		"&text=507":                 {quoted},
		"&text=true":                {quoted},
		"&text=b%C3%84h":            {quoted},
		"&text=list":                nil,
		"&text=level":               nil,
		"&text=%22,%22":             nil,
		"&text=T0":                  nil,
	} {
		res, body := get(t, server, "/v1/logs?follow=false"+query, "Authorization", "Bearer "+testToken)
		require.Equal(t, http.StatusOK, res.StatusCode, body)
		require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
		require.Equal(t, want, messages(t, body), query)
	}
	for _, query := range []string{"level=loud", "last=1001", "pool_id=a%20b"} {
		res, body := get(t, server, "/v1/logs?follow=false&"+query)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, query)
		require.Contains(t, body, "INVALID_PARAMS")
	}
}

// LO-623
func TestLogsAreFollowed(t *testing.T) {
	log, f := logging(t)
	log.Info("before")
	server := f.serve(t)
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/logs?last=1", nil)
	require.NoError(t, err)
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	event := func() string {
		var all strings.Builder
		for {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			if line == "\n" {
				return all.String()
			}
			all.WriteString(line)
		}
	}
	require.Contains(t, event(), `"msg":"before"`)
	for i := range 3 {
		log.Info(fmt.Sprint("later ", i))
		require.Contains(t, event(), fmt.Sprintf(`"msg":"later %d"`, i))
	}
	leave()
	res2, body := get(t, server, "/v1/logs?follow=false")
	require.Equal(t, http.StatusOK, res2.StatusCode)
	require.Len(t, messages(t, body), 4)
}

// busyLogs have a line each second.
type busyLogs struct{ ends time.Time }

func (b busyLogs) Read() LogReader     { return b }
func (busyLogs) Past() (LogLine, bool) { return LogLine{}, false }

func (b busyLogs) Next(context.Context) (LogLine, error) {
	if time.Sleep(time.Second); time.Now().After(b.ends) {
		return LogLine{}, io.EOF
	}
	return LogLine{Level: zap.InfoLevel, JSON: func() ([]byte, error) { return []byte(`{"msg":"not wanted"}`), nil }}, nil
}

// A client that wants few of the lines hears all the same that the stream goes on.
//
// LO-623
func TestAFilteredLogIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := control{&Handler{Options: Options{Logs: busyLogs{time.Now().Add(time.Minute)}}}}
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		require.NoError(t, h.StreamLogs(t.Context(), gen.StreamLogsParams{Level: gen.NewOptLogLevel(gen.LogLevelError)}, w))
		require.Equal(t, strings.Repeat(": keep-alive\n\n", 4), w.Body.String())
	})
}

// LO-604: a logout ends the log of its session.
func TestALogoutEndsTheLog(t *testing.T) {
	log, f := logging(t)
	own := func() *http.Request {
		r := httptest.NewRequest(http.MethodPost, "http://box/page/login", nil)
		r.Header.Set("Origin", "http://box")
		return r
	}
	cookie, err := f.auth.Login(own(), testToken)
	require.NoError(t, err)
	log.Info("before")
	server := f.serve(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v1/logs", nil)
	require.NoError(t, err)
	req.AddCookie(cookie)
	res, err := server.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	_, err = lines.ReadString('}')
	require.NoError(t, err)
	out := own()
	out.AddCookie(cookie)
	_, err = f.auth.Logout(out)
	require.NoError(t, err)
	log.Info("after")
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.NotContains(t, string(rest), "after")
}
