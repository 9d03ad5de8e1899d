// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// journal is a server with a log.
type journal struct {
	*daemon
	asked gen.StreamLogsParams
}

var journaled = []string{
	`{"level":"info","ts":"2026-11-22T20:15:00.125Z","logger":"scheduler","msg":"stream_end","actor":"localhost","action":"complete","target":"pool:default","task":"3f2a81bc","human":"Finished a batch completion in pool 'default'.","job_id":"3f2a81bc-0000","pool_id":"default","tokens_in":3}`,
	`{"level":"warn","ts":"2026-11-22T20:15:01Z","logger":"pool","msg":"a worker ended","job_id":"t-1","pool_id":"de fault","session_id":"","tokens_out":0,"cards":[1,2],"bad":"\u001b[2Jx"}`,
	`{"level":"info","ts":"2026-11-22T20:15:02Z","logger":"policy","msg":"a call was decided","actor":"token:abc123","action":"fetch","target":"https://x/y","audit":true}`,
}

func (j *journal) StreamLogs(_ context.Context, p gen.StreamLogsParams, w http.ResponseWriter) error {
	j.asked = p
	w.Header().Set("Content-Type", "text/event-stream")
	_, err := fmt.Fprintf(w, "event: line\ndata: %s\n\nevent: lost\ndata: {\"lines\":3}\n\nevent: line\ndata: %s\n\nevent: line\ndata: %s\n\n", journaled[0], journaled[1], journaled[2])
	return err
}

// LO-623
func TestLogsAtTheTerminal(t *testing.T) {
	t.Parallel()
	j := &journal{daemon: newDaemon()}
	addr := serve(t, j)
	got := call(t.Context(), addr, "", "logs", "-n", "7", "--level", "info", "--pool", "default", "--task", "t", "--text", "a b")
	require.Zero(t, got.code, got.err)
	at := time.Date(2026, 11, 22, 20, 15, 0, 125_000_000, time.UTC).Local()
	require.Equal(t, at.Format("15:04:05.000")+" info  scheduler Finished a batch completion in pool 'default'.  task=3f2a81bc\n"+
		at.Add(875*time.Millisecond).Format("15:04:05.000")+" warn  pool      a worker ended  bad=[2Jx  cards=[1,2]  job_id=t-1  pool_id=\"de fault\"\n"+
		at.Add(1875*time.Millisecond).Format("15:04:05.000")+" info  policy    a call was decided  action=fetch  actor=token:abc123  target=https://x/y\n", got.out)
	require.Equal(t, "3 lines are missing: the server had no room for more\n", got.err)
	require.Equal(t, gen.StreamLogsParams{
		Level: gen.NewOptLogLevel("info"), PoolID: gen.NewOptPoolID("default"), TaskID: gen.NewOptTaskID("t"), Text: gen.NewOptString("a b"), Last: gen.NewOptInt(7), Follow: gen.NewOptBool(false),
	}, j.asked)

	got = call(t.Context(), addr, "", "--json", "logs", "-n", "0")
	require.Zero(t, got.code, got.err)
	var lines []string
	for line := range strings.Lines(got.out) {
		require.True(t, json.Valid([]byte(line)))
		lines = append(lines, line)
	}
	require.Len(t, lines, 4)
	require.JSONEq(t, `{"lost":3}`, lines[1])
	require.JSONEq(t, journaled[1], lines[2])
	require.Equal(t, gen.NewOptInt(0), j.asked.Last)

	got = call(t.Context(), addr, "", "logs", "-f")
	require.Equal(t, exitUnreachable, got.code, "a log that is followed has no end")
	require.True(t, j.asked.Follow.Value)
	require.Equal(t, exitUsage, call(t.Context(), addr, "", "logs", "-n", "1001").code)
	shown, _, _ := onTerminal(t, addr, 80, "logs")
	require.Contains(t, shown, "\x1b[33mwarn \x1b[0m")
	require.NotContains(t, shown, "\x1b[2J")
}
