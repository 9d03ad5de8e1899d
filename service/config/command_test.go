// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/task"
)

// speech is a pool of engine command with further lines, each with its indent.
func speech(more string) string {
	return "pools:\n- id: p\n  engine: command\n  model: {id: voice, ref: a voice}\n" + more
}

// plainly is a pool of llama.cpp with further lines.
func plainly(more string) string { return "pools:\n- id: p\n  model: {ref: file:a}\n" + more }

const served = "  routes: [/v1/audio/speech]\n  provisioning: {mode: binary, path: x, args: [\"{port}\"]}\n"

// LO-466, LO-468, LO-470
func TestPoolsOfCommandsAndOfHosts(t *testing.T) {
	binary := "  provisioning: {mode: binary, path: x}\n"
	for _, tt := range []struct{ name, text, want string }{
		{"no routes", speech("  provisioning: {mode: binary, path: x, args: [\"{port}\"]}\n"), `routes is missing: name the paths that the server takes, like routes: ["/v1/audio/transcriptions"]`},
		{"a route of ours", speech("  routes: [/v1/tasks]\n" + served[len("  routes: [/v1/audio/speech]\n"):]), "c.yaml:5:12: /v1/tasks would take requests for /v1/tasks, which this server answers itself"},
		{"a route over ours", speech("  routes: [\"/v1/*\"]\n" + served[len("  routes: [/v1/audio/speech]\n"):]), "/v1/* would take requests for /v1/tasks, which this server answers itself: name other paths; /upstream/POOL reaches every path"},
		{"a route below ours", speech("  routes: [/v1/chat/completions]\n" + served[len("  routes: [/v1/audio/speech]\n"):]), "would take requests for /v1/chat"},
		{"no route", speech("  routes: [\"/v1/../x\"]\n" + served[len("  routes: [/v1/audio/speech]\n"):]), `"/v1/../x" is no route: write a path like /v1/audio/speech`},
		{"a route in the middle", speech("  routes: [\"/v1/*/x\"]\n" + served[len("  routes: [/v1/audio/speech]\n"):]), "is no route"},
		{"a route twice", speech("  routes: [/a, /a]\n" + served[len("  routes: [/v1/audio/speech]\n"):]), "c.yaml:5:16: /a is named twice"},
		{"no port", speech("  routes: [/a]\n  provisioning: {mode: binary, path: x, args: [a]}\n"), "provisioning.args does not say {port}: tell the server on which port to listen"},
		{"no program", speech("  routes: [/a]\n  provisioning: {mode: binary, args: [\"{port}\"]}\n"), "provisioning.path is missing"},
		{"a builtin command", speech("  routes: [/a]\n"), "a pool of engine command cannot have provisioning.mode builtin: use binary, container or external"},
		{"a workload", speech(served + "  workload: embedding\n"), "c.yaml:7:13: workload has no effect in a pool of engine command: remove it: nothing is known of what the server does with a request"},
		{"a context", speech(served + "  ctx: 512\n"), "ctx has no effect in a pool of engine command"},
		{"no size", speech(served + "  memory: 2GB\n"), "pools[0].memory"},
		{"no path of health", speech(served + "  health: well\n"), "pools[0].health"},
		{"routes of a model", plainly("  routes: [/a]\n"), "c.yaml:4:11: routes has no effect in a pool of engine llamacpp: remove it, or set engine: command"},
		{"the memory of a model", plainly("  memory: 2GiB\n"), "memory has no effect in a pool of engine llamacpp"},
		{"a worker that spans", plainly("  span: true\n"), "span has no effect in a pool of mode builtin: remove it, or set provisioning.mode to external"},
		{"hosts of the builtin worker", plainly("  rpc: [\"h:1\"]\n"), "rpc has no effect in a pool of mode builtin"},
		{"no host", plainly("  rpc: [h]\n" + binary), `c.yaml:4:9: "h" is no HOST:PORT: write it like 192.168.1.20:50052`},
		{"no port of a host", plainly("  rpc: [\"h:0\"]\n" + binary), `"h:0" is no HOST:PORT`},
		{"an option for a host", plainly("  rpc: [\"a,b:1\"]\n" + binary), `"a,b:1" is no HOST:PORT`},
		{"a host twice", plainly("  rpc: [\"h:1\", \"H:01\"]\n" + binary), "c.yaml:4:16: h:1 is named twice"},
		{"replicas on hosts", plainly("  rpc: [\"h:1\"]\n  replicas: 2\n" + binary), "c.yaml:5:13: a pool with rpc has one replica"},
		{"a split over hosts", plainly("  rpc: [\"h:1\"]\n  device: [0, 1]\n  tensor_split: [1, 1]\n" + binary), "a pool with rpc gets one card of this machine at most: write device: auto, one card, or cpu"},
		{"a command on hosts", speech(served + "  rpc: [\"h:1\"]\n"), "rpc has no effect in a pool of engine command"},
		{"a host of two pools", "pools:\n- {id: a, rpc: [\"h:1\"], model: {ref: file:x}, provisioning: {mode: binary, path: x}}\n- {id: b, rpc: [\"h:1\"], model: {ref: file:y}, provisioning: {mode: binary, path: x}}\n", "c.yaml:3:17: h:1 computes for pool a already: give each pool hosts of its own"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var said []string
			for _, p := range problems(t, tt.text) {
				said = append(said, p.String())
			}
			require.Contains(t, strings.Join(said, "\n"), tt.want)
		})
	}
}

// LO-466, LO-470
func TestWhatACommandAndHostsAreReadAs(t *testing.T) {
	c, err := config.Parse("c.yaml", []byte(speech(served+"  memory: 2GiB\n  slots: 4\n")+
		"- {id: q, engine: command, routes: [\"/v1/images/*\", /v1/rerank], health: /health, model: {id: m, ref: \"file:m.safetensors\"}, provisioning: {mode: binary, path: x, args: [\"--port={port}\", \"-m={model}\"]}}\n"+
		"- {id: r, rpc: [\"A.lan:50052\", \"[::1]:1\"], model: {ref: \"file:x.gguf\"}, provisioning: {mode: binary, path: x}}\n"+
		"- {id: s, span: true, model: {ref: big}, provisioning: {mode: external, urls: [\"http://h:1\"]}}\n"), environ())
	require.NoError(t, err)
	p := c.Pools[0]
	require.Equal(t, task.Opaque, p.Workload)
	require.Equal(t, "/", p.Health)
	require.Equal(t, int64(2<<30), p.Memory.Bytes())
	require.False(t, p.HasModel())
	require.Empty(t, p.Model.Path, "the ref is a label")
	require.False(t, p.Strict())
	p = c.Pools[1]
	require.Equal(t, "/health", p.Health)
	require.Zero(t, p.Memory.Bytes())
	require.True(t, p.HasModel())
	require.NotEmpty(t, p.Model.Path)
	p = c.Pools[2]
	require.Equal(t, []string{"a.lan:50052", "[::1]:1"}, p.RPC)
	require.Empty(t, p.Health)
	require.False(t, p.Strict(), "who knows how llama-server divides it next time")
	require.True(t, c.Pools[3].Span)
}
