// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3095
func TestTables(t *testing.T) {
	t.Parallel()
	addr := newDaemon().serve(t)
	for args, want := range map[string][]string{
		"pools": {
			"POOL     MODEL     WORKLOAD    ENGINE    DEVICE  STATE  REPLICAS  QUEUE  CTX  LAST ERROR\n",
			"default  haiku     completion  llamacpp  cpu     ready  1/2       3/64   256  -\n",
			"vectors  embedder  embedding   llamacpp",
		},
		"pools default":                   {"REPLICA    STATE  DEVICE  BUSY  RESTARTS", "default-0  ready  cpu     1/1   0", "GPU  NAME      HEALTHY  VRAM USED  OF\n0    RTX 3090  yes      1024 MiB   24576 MiB\n"},
		"tasks":                           {"TASK  STATE   AHEAD  PRIORITY  MODEL", "b     queued  2      batch     haiku[31m  default  12", "a     failed  -"},
		"tasks --state running --limit 1": {"b     running  -"},
		"task t":                          {"state            queued\n", "ahead            2\n", "predicted start  1m1s after", "error            the worker died (WORKER_RESET)\n"},
		"cancel t":                        {"TASK  OUTCOME   LAST EVENT\nt     canceled  0-"},
		"capabilities":                    {"server            0.1.0\n", "stream_resume, receipts", "longest deadline  24h0m0s", "createTask  data   live    POST    /v1/tasks\n"},
		"version":                         {"llama-orch dev (go"},
		"--help":                          {"130  interrupted", "4    refused for now", "LLORCH_API_TOKEN"},
		"run --help":                      {"--max-tokens=N", "- reads it from stdin"},
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			got := call(t.Context(), addr, "", strings.Fields(args)...)
			require.Zero(t, got.code, got.err)
			require.Empty(t, got.err)
			for _, part := range want {
				require.Contains(t, got.out, part)
			}
			require.NotContains(t, got.out, "\x1b")
		})
	}
}

// ORCH-3095, ORCH-3026
func TestJSON(t *testing.T) {
	t.Parallel()
	addr := newDaemon().serve(t)
	for args, field := range map[string]string{
		"pools": "pools", "pools default": "replicas", "tasks": "tasks", "task t": "task_id", "cancel t": "last_event_id", "capabilities": "operations",
		"version": "version",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			got := call(t.Context(), addr, "", append(strings.Fields(args), "--json")...)
			require.Zero(t, got.code, got.err)
			require.Equal(t, 1, strings.Count(got.out, "\n"), "one line")
			var object map[string]any
			require.NoError(t, json.Unmarshal([]byte(got.out), &object))
			require.Contains(t, object, field)
		})
	}
}

// LO-201
func TestStreamCommand(t *testing.T) {
	t.Parallel()
	d := newDaemon().complete(t, "one ", "two ", "three")
	addr := d.serve(t)
	got := call(t.Context(), addr, "", "stream", "t")
	require.Zero(t, got.code, got.err)
	require.Equal(t, "one two three", got.out)

	all := call(t.Context(), addr, "", "stream", "t", "--json").out
	var second struct{ ID string }
	require.NoError(t, json.Unmarshal([]byte(strings.Split(all, "\n")[2]), &second))
	require.Equal(t, "1-", second.ID[:2])
	got = call(t.Context(), addr, "", "stream", "t", "--after", second.ID)
	require.Zero(t, got.code, got.err)
	require.Equal(t, "two three", got.out)
}

// LO-201
func TestTerminalGetsTextOnly(t *testing.T) {
	t.Parallel()
	var out, err strings.Builder
	v := &answer{app: &app{out: &out, err: &err}, plainOut: true, lineErr: true, ended: true}
	v.wait("3 ahead in line")
	v.wait("3 ahead in line")
	v.wait("2 ahead in line")
	require.NoError(t, v.text("red \x1b[31m\u009b\ttwo\r\nräin"))
	v.endLine()
	v.endLine()
	require.Equal(t, "red [31m\ttwo\nräin\n", out.String())
	require.Equal(t, "\r\x1b[K3 ahead in line\r\x1b[K2 ahead in line\r\x1b[K", err.String())
}

// ORCH-2001
func TestDuration(t *testing.T) {
	t.Parallel()
	for ms, want := range map[int64]string{0: "0 ms", 999: "999 ms", 1000: "1.0 s", 59949: "59.9 s", 61400: "1m1s"} {
		require.Equal(t, want, duration(ms), strconv.FormatInt(ms, 10))
	}
}
