// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
)

// ORCH-3095
func TestTables(t *testing.T) {
	t.Parallel()
	addr := newDaemon().serve(t)
	for args, want := range map[string][]string{
		"pools": {
			"POOL     MODEL     WORKLOAD    ENGINE    DEVICE  STATE  LIFECYCLE  LOADED  REPLICAS  QUEUE  CTX  LAST ERROR\n",
			"default  haiku     completion  llamacpp  cpu     ready  pinned     yes     1/2       3/64   256  -\n",
			"vectors  embedder  embedding   llamacpp",
		},
		"pools default": {
			"REPLICA    STATE    DEVICE  GPU  CTX   BUSY  RESTARTS  EXPECTED  TAKEN     LOADED IN  ENGINE VERSION  LAST ERROR\n",
			"default-0  ready    auto    0    4096  1/1   0         3072 MiB  2048 MiB  700 ms     -               -\n",
			"default-1  backoff  auto    -    -     0/1   3         -         -         -          -               it needs 9 GiB\n",
			"GPU  NAME      HEALTHY  VRAM USED  PROMISED  OTHERS   FREE       OF         BUSY  TEMP   POWER  ENERGY   LAST ERROR\n" +
				"0    RTX 3090  yes      1024 MiB   2048 MiB  512 MiB  21504 MiB  24576 MiB  42 %  61 °C  212 W  2.5 kWh  -\n",
			"\nlast lines of default-1:\n  out of [31mmemory\n",
		},
		"pool health default":               {"default-0  ready"},
		"pool drain default":                {"POOL     DRAINING  RUNNING  QUEUED  DEADLINE\ndefault  yes       1        3       in 30.0 s\n"},
		"pool drain default --deadline 90s": {"in 1m30s\n"},
		"pool drain default --deadline 0s":  {"in 0 ms\n"},
		"pool resume default":               {"POOL     STATE  RUNNING  QUEUED\ndefault  ready  0        0\n"},
		"pool load default":                 {"default  loading  0        3\n"},
		"pool unload default":               {"default  draining  1        0\n"},
		"pool reload default file:new.gguf": {"POOL     MODEL  REF            BEFORE         TOOK\ndefault  haiku  file:new.gguf  file:old.gguf  840 ms\n"},
		"config reload":                     {"changed         pools.default\nneeds a restart bind_addr\n"},
		"explain -m haiku":                  {"would wait in pool default\n\n", "yes     default  -        -     -          it can be loaded\n", "-       other    other-0  1     8192 MiB   another model; it drains\n", "WOULD BE UNLOADED  POOL  FREES\nidle-0             idle  4096 MiB\n"},
		"explain -m placed --avoid b":       {"would run on default-0 of pool default\n"},
		"explain -m nothing":                {"would be refused\n"},
		"gpus":                              {"driver 550.54, CUDA 12.4\n\nGPU  NAME", "1    RTX 3060  no ", "XID 79: it has fallen off the bus\n\nGPU  HELD BY          PID   USED     PROMISED\n0    default-0        4711  512 MiB  0 MiB\n0    another program  12 "},
		"top":                               {"  2 pools, 2 replicas ready, 2 tasks running, 6 waiting\n\nPOOL", "\n\nREPLICA", "\n\nGPU  NAME", "\n\nGPU  HELD BY"},
		"top --once":                        {"2 pools"},
		"tasks":                             {"TASK  STATE   AHEAD  PRIORITY  MODEL", "b     queued  2      batch     haiku[31m  default  12", "a     failed  -"},
		"tasks --state running --limit 1":   {"b     running  -"},
		"task t":                            {"state            queued\n", "ahead            2\n", "predicted start  1m1s after", "energy           12.3 kJ\n", "cost of energy   0.001\n", "error            the worker died (WORKER_RESET)\n"},
		"cancel t":                          {"TASK  OUTCOME   LAST EVENT\nt     canceled  0-"},
		"capabilities":                      {"server            0.1.0\n", "stream_resume, receipts", "longest deadline  24h0m0s", "createTask  data   live    POST    /v1/tasks\n"},
		"version":                           {"llama-orch dev (go"},
		"--help":                            {"130  interrupted", "4    refused for now", "LLORCH_API_TOKEN"},
		"run --help":                        {"--max-tokens=N", "- reads it from stdin"},
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
		"pools": "pools", "pools default": "replicas", "pool health default": "replicas", "pool drain default": "deadline_ms",
		"pool resume default": "state", "pool load default": "state", "pool unload default": "state",
		"pool reload default file:new.gguf": "took_ms", "gpus": "driver_version", "explain -m haiku": "candidates", "config reload": "restart_required",
		"top": "gpus", "tasks": "tasks", "task t": "task_id", "cancel t": "last_event_id", "capabilities": "operations",
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
	v := &answer{app: &app{out: &out, err: &err, env: func(string) string { return "" }}, plainOut: true, lineErr: true, ended: true}
	v.wait("3 ahead in line")
	v.wait("3 ahead in line")
	v.wait("2 ahead in line")
	require.NoError(t, v.text("red \x1b[31m\u009b\ttwo\r\nräin"))
	v.endLine()
	v.endLine()
	require.Equal(t, "red [31m\ttwo\nräin\n", out.String())
	require.Equal(t, "\r\x1b[K3 ahead in line\r\x1b[K2 ahead in line\r\x1b[K", err.String())
}

// LO-503
func TestALoadIsShown(t *testing.T) {
	t.Parallel()
	var err strings.Builder
	v := &answer{app: &app{err: &err, env: func(string) string { return "" }}, lineErr: true}
	part := 0.415
	require.NoError(t, v.show(sdk.Metrics{Phase: "loading", LoadProgress: &part, QueuePosition: 1}))
	require.NoError(t, v.show(sdk.Metrics{Phase: "loading"}))
	require.Equal(t, "\r\x1b[Kthe model is being loaded, 41 %; 1 ahead in line\r\x1b[Kthe model is being loaded; next in line", err.String())
}

// ORCH-2001
func TestDuration(t *testing.T) {
	t.Parallel()
	for ms, want := range map[int64]string{0: "0 ms", 999: "999 ms", 1000: "1.0 s", 59949: "59.9 s", 61400: "1m1s"} {
		require.Equal(t, want, duration(ms), strconv.FormatInt(ms, 10))
	}
}
