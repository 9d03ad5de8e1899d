// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/observe"
)

// written are lines as a reader gets them.
type written struct{ past, next []api.LogLine }

func (w *written) Past() (api.LogLine, bool) { return pop(&w.past) }

func (w *written) Next(ctx context.Context) (api.LogLine, error) {
	line, ok := pop(&w.next)
	if !ok {
		return line, ctx.Err()
	}
	return line, nil
}

func pop(from *[]api.LogLine) (api.LogLine, bool) {
	if len(*from) == 0 {
		return api.LogLine{}, false
	}
	line := (*from)[0]
	*from = (*from)[1:]
	return line, true
}

func line(level zapcore.Level, lost int, text string) api.LogLine {
	return api.LogLine{Level: level, Lost: lost, JSON: func() ([]byte, error) { return json.Marshal(map[string]string{"msg": text}) }}
}

// shown is an event's name, and its lines: their messages, or how many are missing.
func shown(t *testing.T, frame []byte) (name string, lines []string) {
	rest, ok := strings.CutPrefix(string(frame), "event: ")
	t.Helper()
	require.True(t, ok, "%s", frame)
	name, rest, _ = strings.Cut(rest, "\n")
	rest, ok = strings.CutPrefix(rest, "data: ")
	require.True(t, ok)
	require.True(t, strings.HasSuffix(rest, "\n\n"))
	var all []any
	require.NoError(t, json.Unmarshal([]byte(rest), &all), rest)
	lines = []string{}
	for _, a := range all {
		if m, ok := a.(map[string]any); ok {
			a = m["msg"]
		}
		lines = append(lines, fmt.Sprint(a))
	}
	return name, lines
}

// LO-616: the last lines, then what is new, with what is missing in its place.
func TestTheLogBeginsAnewAndGoesOn(t *testing.T) {
	from := &written{past: []api.LogLine{line(zapcore.InfoLevel, 0, "a"), line(zapcore.DebugLevel, 0, "quiet"), line(zapcore.WarnLevel, 0, "b")}}
	log := followLog(from, api.LogFilter{Level: zapcore.InfoLevel})
	name, lines := shown(t, log.frame())
	require.Equal(t, "log", name)
	require.Equal(t, []string{"a", "b"}, lines)
	require.Nil(t, log.frame())
	log.read(t.Context())
	require.Nil(t, log.frame(), "nothing was written")
	broken := api.LogLine{Level: zapcore.InfoLevel, JSON: func() ([]byte, error) { return nil, errors.New("no") }}
	from.next = []api.LogLine{line(zapcore.InfoLevel, 0, "c"), line(zapcore.DebugLevel, 7, "quiet"), line(zapcore.InfoLevel, 2, "d"), broken}
	log.read(t.Context())
	name, lines = shown(t, log.frame())
	require.Equal(t, "lines", name)
	require.Equal(t, []string{"c", "9", "d", "1"}, lines, "lines that nobody read may have been wanted")
	require.Nil(t, log.frame())
	from.next = []api.LogLine{line(zapcore.DebugLevel, 3, "quiet")}
	log.read(t.Context())
	_, lines = shown(t, log.frame())
	require.Equal(t, []string{"3"}, lines)
	log = followLog(&written{}, api.LogFilter{})
	name, lines = shown(t, log.frame())
	require.Equal(t, "log", name, "the page has to know that there is none")
	require.Empty(t, lines)
}

// LO-616: of a flood the page gets the newest, and how many are missing; and a flood does not keep it from the rest.
func TestAFloodOfLinesIsBounded(t *testing.T) {
	from := &written{}
	for i := range 2 * shownLines {
		from.past = append(from.past, line(zapcore.InfoLevel, 0, fmt.Sprint("old ", i)))
	}
	log := followLog(from, api.LogFilter{})
	_, lines := shown(t, log.frame())
	require.Len(t, lines, shownLines, "the older ones are not missing: the page shows no more")
	require.Equal(t, "old 500", lines[0])
	for i := range 2 * readMost {
		from.next = append(from.next, line(zapcore.InfoLevel, i%2, fmt.Sprint("new ", i)))
	}
	log.read(t.Context())
	require.Len(t, from.next, readMost)
	_, lines = shown(t, log.frame())
	require.Len(t, lines, shownLines+1+shownLines/2)
	require.Equal(t, fmt.Sprint(readMost-shownLines+(readMost-shownLines)/2), lines[0])
	require.Equal(t, "new 4999", lines[len(lines)-1])
	log.read(t.Context())
	_, lines = shown(t, log.frame())
	require.Equal(t, "new 9999", lines[len(lines)-1])
}

// LO-616
func TestWhichLinesAPageAsksFor(t *testing.T) {
	for query, want := range map[string]*api.LogFilter{
		"":                   nil,
		"log=off&level=warn": nil,
		"log=on":             {Level: zapcore.DebugLevel},
		"log=on&text=" + strings.Repeat("ä", maxWish):    {Level: zapcore.DebugLevel, Text: strings.Repeat("ä", maxWish)},
		"log=on&level=warn&pool_id=a&task_id=b&text=A+B": {Level: zapcore.WarnLevel, PoolID: "a", TaskID: "b", Text: "a b"},
	} {
		q, err := url.ParseQuery(query)
		require.NoError(t, err)
		f, wanted, err := logWish(q)
		require.NoError(t, err)
		require.Equal(t, wanted, want != nil, query)
		if wanted {
			require.Equal(t, *want, f)
		}
	}
	_, h := open(t, &box{}, "")
	for query, says := range map[string]string{"level=loud": "debug, info, warn or error", "text=" + strings.Repeat("ä", maxWish+1): "may have 256"} {
		q, err := url.ParseQuery("log=on&" + query)
		require.NoError(t, err)
		_, _, err = logWish(q)
		require.ErrorContains(t, err, says)
		require.Equal(t, http.StatusBadRequest, ask(h, http.MethodGet, eventsPath+"?log=on&"+query, "").StatusCode)
	}
}

// LO-616: lines come on the stream that the page follows anyway, and to those alone who ask.
func TestTheLogIsInTheStream(t *testing.T) {
	b := &box{log: observe.NewTail()}
	log, err := observe.NewLogger(observe.Options{Out: io.Discard, Tail: b.log, Level: "debug"})
	require.NoError(t, err)
	log.Warn("before " + evil)
	f, h := open(t, b, "")
	require.NoError(t, f.Start(t.Context()))
	f.live.look(t.Context())
	server := httptest.NewServer(h)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	all, leave := context.WithCancel(t.Context())
	defer leave()
	follow := func(query string) (next func(event string) string, end func()) {
		ctx, stop := context.WithCancel(all)
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+eventsPath+query, nil)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 1<<20)
		return func(event string) string {
				for lines.Scan() {
					require.False(t, event == "patch" && lines.Text() == "event: log", "nobody asked for it")
					if lines.Text() == "event: "+event {
						lines.Scan()
						return lines.Text()
					}
				}
				require.Fail(t, "the stream is over", "%v", lines.Err())
				return ""
			}, func() {
				stop()
				_ = res.Body.Close()
			}
	}
	next, end := follow("?log=on&level=warn&text=BEFORE")
	require.Contains(t, next("log"), `"before `)
	require.Contains(t, next("patch"), `"totals"`)
	log.Info("before, but not grave")
	log.Error("not what was asked for", zap.String("pool_id", "default"))
	log.Error("before and after")
	got := next("lines")
	require.Contains(t, got, `"before and after"`)
	require.NotContains(t, got, "grave")
	require.NotContains(t, got, "asked")
	end()
	next, end = follow("")
	next("patch")
	end()
	require.NoError(t, f.Stop(t.Context()))
}
