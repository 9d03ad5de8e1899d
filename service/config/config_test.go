// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/task"
)

// environ is an environment with a home folder and these variables.
func environ(pairs ...string) func(string) string {
	vars := map[string]string{"HOME": "/home/user"}
	for i := 0; i < len(pairs); i += 2 {
		vars[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return vars[name] }
}

func parse(t *testing.T, text string, env ...string) config.Config {
	t.Helper()
	c, err := config.Parse("/etc/llama-orch/c.yaml", []byte(text), environ(env...))
	require.NoError(t, err)
	return c
}

// problems returns the problems of a file, which must have some.
func problems(t *testing.T, text string, env ...string) []config.Problem {
	t.Helper()
	_, err := config.Parse("c.yaml", []byte(text), environ(env...))
	var e *config.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Problems)
	for _, p := range e.Problems {
		require.NotEmpty(t, p.What)
		require.NotEmpty(t, p.Remedy, p.What)
	}
	return e.Problems
}

const minimal = "pools: [{id: a, model: {ref: file:a.gguf}}]\n"

// ORCH-3200
func TestModesOfProvisioning(t *testing.T) {
	t.Parallel()
	c, err := config.Parse("/etc/llama-orch/c.yaml", []byte(`provision: {allow_system_packages: true}
pools:
- {id: a, model: {ref: file:a.gguf}, provisioning: {mode: binary, url: "https://h/x.tar.gz", digest: "sha256:abababababababababababababababababababababababababababababababab", path: bin/server}}
- {id: b, model: {ref: file:a.gguf}, provisioning: {mode: package, package: llama.cpp}}
- {id: c, model: {ref: file:a.gguf}, provisioning: {mode: container, image: "ghcr.io/org/llama.cpp:server", runtime: podman, args: [--mlock]}, device: [0]}
- {id: d, model: {ref: file:a.gguf}, provisioning: {mode: source, repository: ./llama.bundle, ref: v1, cmake_flags: [-DGGML_CUDA=ON]}, slots: 2}
- {id: e, model: {ref: file:a.gguf}, provisioning: {mode: source}}
`), environ())
	require.NoError(t, err)
	require.True(t, c.Provision.AllowSystemPackages)
	require.Equal(t, "bin/server", c.Pools[0].Provisioning.Path, "in the archive, not beside the file")
	require.Equal(t, "/etc/llama-orch/llama.bundle", c.Pools[3].Provisioning.Repository)
	require.Empty(t, c.Pools[4].Provisioning.Repository)
	said := c.Describe()
	for _, words := range []string{
		"of https://h/x.tar.gz on", "of the system package llama.cpp on", "of the podman image ghcr.io/org/llama.cpp:server on GPU 0",
		"built from /etc/llama-orch/llama.bundle at v1", "built from the packaged source",
	} {
		require.Contains(t, said, words)
	}
}

// HME-003, HME-002, LO-102, LO-413
func TestDefaults(t *testing.T) {
	c := parse(t, minimal)
	require.Equal(t, "127.0.0.1:8080", c.BindAddr)
	require.True(t, c.Loopback())
	require.Equal(t, "/home/user/.local/state/llama-orch", c.DataDir)
	require.Equal(t, config.Auth{TokenEnv: "LLORCH_API_TOKEN"}, c.Auth)
	require.Equal(t, "info", c.Log.Level)
	require.Equal(t, config.Limits{BodyBytes: 10 << 20, FileBytes: 200_000_000, PromptBytes: 8 << 20, Inputs: 10_000}, c.Limits)
	require.Equal(t, 2048, parse(t, "limits: {body_bytes: 2048}\n"+minimal).Limits.PromptBytes, "a prompt comes in a body")
	require.Equal(t, config.Rates{Interactive: config.Rate{Burst: 1}, Batch: config.Rate{Burst: 1}}, c.Rates)
	require.Equal(t, config.Sessions{TTL: 10 * time.Minute, MaxTurns: 8, MaxSessions: 1024}, c.Sessions)
	require.Equal(t, config.Budgets{Token: config.TokenBudget{Renew: 24 * time.Hour}}, c.Budgets)
	require.Equal(t, config.Ledger{RetainAge: 168 * time.Hour, RetainBytes: 1 << 30, Postgres: config.Postgres{Schema: "llorch", Connections: 8}}, c.Ledger)
	require.False(t, c.Ledger.Postgres.On())
	require.Equal(t, config.Swap{
		MaxWait: 30 * time.Second, MaxWaitBehindBatch: 5 * time.Second, MaxWaitBatch: 10 * time.Minute, MinTurn: 20 * time.Second, Linger: 30 * time.Second,
	}, c.Swap)
	require.Equal(t, config.SamplerProfile{Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1}, c.Profile(c.Pools[0]))
	require.Equal(t, []config.Pool{{
		ID: "a", Engine: "llamacpp", Workload: task.Completion, Device: "auto", Lifecycle: "pinned", IdleTTL: 10 * time.Minute,
		Replicas: 1, Slots: 1, SamplerProfile: "default", Determinism: config.Determinism{Reuse: "auto"},
		Model:        config.Model{ID: "a", Ref: "file:a.gguf", Canonical: "file:/etc/llama-orch/a.gguf", Path: "/etc/llama-orch/a.gguf"},
		Provisioning: config.Provisioning{Mode: "builtin", Runtime: "docker", Ref: "HEAD"},
		Queue:        config.Queue{Capacity: 64, FullPolicy: "reject"},
		Timeouts:     config.Timeouts{Wall: 5 * time.Minute, Prefill: 2 * time.Minute, Idle: 30 * time.Second},
	}}, c.Pools)
}

// HME-003
func TestEverySettingIsRead(t *testing.T) {
	c := parse(t, `
bind_addr: "[::1]:0"
data_dir: state
auth: {token_env: MY_TOKEN, optional_on_loopback: true}
cors: {origins: ["http://HomeAssistant.local:8123", "https://page.lan:443", "capacitor://localhost"]}
log: {level: debug}
limits: {body_bytes: 2048, prompt_bytes: 1024, inputs: 8}
rates: {batch: {per_second: 0.5, burst: 3}}
sessions: {ttl: 1h, max_turns: 20, max_sessions: 5}
budgets: {session: {tokens: 2000, time_ms: 30000, cost: 0.5}, token: {tokens: 9007199254740991, time_ms: 1, cost: 2.25, renew: 1h}}
ledger: {retain_age: 720h, retain_bytes: 1048576, postgres: {dsn_env: MY_DSN, schema: tasks_1, connections: 3}}
swap: {max_wait: 1m, max_wait_behind_batch: 4s, max_wait_batch: 2m, min_turn: 3s, linger: 5s}
sampler_profiles:
  exponent: {temperature: 5e-1, top_k: 0x10}
  v1: {temperature: 0, top_p: 1, top_k: 0, min_p: 0.1, repeat_penalty: 1.1}
  default: {top_k: 20}
pools:
  - id: gpus
    workload: embedding
    model: {id: "big/model:v2", ref: ~/models/big.gguf, digest: "sha256:`+strings.Repeat("0a", 32)+`"}
    device: [0, 1]
    tensor_split: [2, 1.5]
    lifecycle: on_demand
    idle_ttl: 30m
    replicas: 3
    slots: 4
    price: {per_1k_in: 0.1, per_1k_out: 0.3}
    ctx: 8192
    threads: 6
    sampler_profile: v1
    provisioning:
      mode: binary
      path: bin/llama-server
      args: ["--flash-attn", 'on']
    queue: {capacity: 1000000, full_policy: drop-lru}
    timeouts: {wall: 1h30m, idle: 500ms}
  - {id: slow, model: {ref: file:///abs/x%20y.GGUF, id: x}, device: cpu, pace: 2.5}
  - {id: far, model: {ref: mistral, name: org/mistral}, slots: 2, provisioning: {mode: external, key_env: FAR_KEY, urls: ["http://Host:9700/", "https://other"]}}
`, "MY_TOKEN", "correct-horse", "FAR_KEY", "sk-far", "MY_DSN", "postgres://a:b@c/d")
	require.Equal(t, "[::1]:0", c.BindAddr)
	require.True(t, c.Loopback())
	require.Equal(t, "/etc/llama-orch/state", c.DataDir)
	require.Equal(t, 2048, parse(t, "limits: {body_bytes: 2048}\n"+minimal).Limits.PromptBytes, "a prompt comes in a body")
	require.Equal(t, config.Rates{Interactive: config.Rate{Burst: 1}, Batch: config.Rate{PerSecond: 0.5, Burst: 3}}, c.Rates)
	require.Equal(t, config.Ledger{
		RetainAge: 720 * time.Hour, RetainBytes: 1 << 20,
		Postgres: config.Postgres{DSNEnv: "MY_DSN", Schema: "tasks_1", Connections: 3, DSN: "postgres://a:b@c/d"},
	}, c.Ledger)
	require.NotContains(t, fmt.Sprintf("%+v %#v", c, c), "a:b@c")
	require.Equal(t, config.Secret("correct-horse"), c.Token)
	require.Equal(t, []string{"http://homeassistant.local:8123", "https://page.lan", "capacitor://localhost"}, c.CORS.Origins)
	require.Equal(t, config.SamplerProfile{TopP: 1, MinP: 0.1, RepeatPenalty: 1.1}, c.Profile(c.Pools[0]))
	require.Equal(t, 20, c.Profile(c.Pools[1]).TopK)
	require.Equal(t, 0.8, c.Profile(c.Pools[1]).Temperature)
	require.Equal(t, 0.5, c.SamplerProfiles["exponent"].Temperature)
	require.Equal(t, 16, c.SamplerProfiles["exponent"].TopK)
	gpus, slow, far := c.Pools[0], c.Pools[1], c.Pools[2]
	require.Equal(t, config.Swap{
		MaxWait: time.Minute, MaxWaitBehindBatch: 4 * time.Second, MaxWaitBatch: 2 * time.Minute, MinTurn: 3 * time.Second, Linger: 5 * time.Second,
	}, c.Swap)
	require.Equal(t, config.Device("0,1"), gpus.Device)
	require.Equal(t, []float64{2, 1.5}, gpus.TensorSplit)
	require.Equal(t, config.LifecycleOnDemand, gpus.Lifecycle)
	require.Equal(t, 30*time.Minute, gpus.IdleTTL)
	require.Equal(t, "/home/user/models/big.gguf", gpus.Model.Path)
	require.Equal(t, "/etc/llama-orch/bin/llama-server", gpus.Provisioning.Path)
	require.Equal(t, []string{"--flash-attn", "on"}, gpus.Provisioning.Args)
	require.Equal(t, config.Timeouts{Wall: 90 * time.Minute, Prefill: 2 * time.Minute, Idle: 500 * time.Millisecond}, gpus.Timeouts)
	require.Equal(t, config.CPU, slow.Device)
	require.Equal(t, 2.5, slow.Pace)
	require.Equal(t, "/abs/x y.GGUF", slow.Model.Path)
	require.Equal(t, []string{"http://host:9700", "https://other"}, far.Provisioning.URLs)
	require.Equal(t, 2, far.Replicas)
	require.Equal(t, "mistral", far.Model.ID)
	require.Equal(t, "org/mistral", far.Model.Name)
	require.Equal(t, config.Secret("sk-far"), far.Provisioning.Key)
	require.Equal(t, "mistral", far.Model.Canonical)
	require.Empty(t, far.Model.Path, "the ref of an external pool is never opened")
	require.Empty(t, far.Device)
}

// HME-003, HME-002
func TestEnvironmentOverridesTheFile(t *testing.T) {
	c := parse(t, "bind_addr: 127.0.0.1:1\n"+minimal, "LLORCH_BIND_ADDR", "0.0.0.0:9", "LLORCH_DATA_DIR", "~/d", "LLORCH_API_TOKEN", "tok-en")
	require.Equal(t, "0.0.0.0:9", c.BindAddr)
	require.False(t, c.Loopback())
	require.Equal(t, "/home/user/d", c.DataDir)
	require.Equal(t, config.Secret("tok-en"), c.Token)

	found := problems(t, minimal, "LLORCH_BIND_ADDR", "nowhere", "LLORCH_API_TOKEN", "two words")
	require.Len(t, found, 2)
	require.Equal(t, `LLORCH_API_TOKEN: the API token holds a blank or a character that is not ASCII: use letters, digits and punctuation, as `+
		"`openssl rand -hex 32` makes them", found[1].String())
	require.NotContains(t, fmt.Sprint(found), "two words", "a bad token is a secret too")
}

// OC-ADAPT-OAI-6000
func TestTheKeyOfAnEngineDoesNotPrintItself(t *testing.T) {
	const far = "pools:\n- {id: far, model: {ref: x}, provisioning: {mode: external, key_env: FAR_KEY, urls: [\"http://h\"]}}\n"
	require.NotContains(t, fmt.Sprintf("%+v %#v", parse(t, far, "FAR_KEY", "sk-far").Pools, parse(t, far, "FAR_KEY", "sk-far").Pools), "sk-far")
	require.NotContains(t, fmt.Sprint(problems(t, far, "FAR_KEY", "sk-far two")), "sk-far", "a bad key is a secret too")
}

// AUTH-1007
func TestTokenDoesNotPrintItself(t *testing.T) {
	c := parse(t, minimal, "LLORCH_API_TOKEN", "correct-horse")
	text, err := c.Token.MarshalText()
	require.NoError(t, err)
	for _, shown := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s", c, c, c.Token), c.Describe(), string(text)} {
		require.NotContains(t, shown, "correct-horse")
	}
}

// HME-003, OC-CONFIG-6010
func TestMistakesNamePlaceReasonAndRemedy(t *testing.T) {
	pool := func(more string) string { return "pools:\n- id: a\n  model: {ref: file:a.gguf}\n" + more }
	for _, tt := range []struct{ name, text, want string }{
		{"unknown field", "bindaddr: x\n" + minimal, "c.yaml:1:1: unknown field bindaddr: did you mean bind_addr? Otherwise remove it; known here: bind_addr, data_dir, auth"},
		{"unknown nested field", pool("  queue: {capcity: 3}\n"), "c.yaml:4:11: unknown field pools[0].queue.capcity: did you mean capacity?"},
		{"nothing like it", pool("  zzzzzzzzz: 3\n"), "c.yaml:4:3: unknown field pools[0].zzzzzzzzz: remove it; known here: id, engine"},
		{"text for a number", pool("  slots: \"1\"\n"), `c.yaml:4:10: pools[0].slots is the text "1", but has to be a whole number: write a whole number, without quotes`},
		{"fraction", pool("  slots: 1.5\n"), "c.yaml:4:10: pools[0].slots is the number 1.5, but has to be a whole number"},
		{"number for text", "pools:\n- id: 3090\n  model: {ref: file:a}\n", `c.yaml:2:7: pools[0].id is the number 3090, but has to be text: put it in quotes: "3090"`},
		{"text for true", "auth: {optional_on_loopback: yes}\n" + minimal, `c.yaml:1:30: auth.optional_on_loopback is the text "yes", but has to be true or false`},
		{"list for mapping", "auth: [1]\n" + minimal, "c.yaml:1:7: auth is a list, but has to be a mapping of names to values"},
		{"mapping for list", "pools: {id: a}\n", "c.yaml:1:8: pools is a mapping, but has to be a list"},
		{"no value", "bind_addr:\n" + minimal, "bind_addr has no value: give it one (text), or remove the line"},
		{"no value of a part", "auth:\n" + minimal, "auth has no value"},
		{"not a mapping", "hello\n", `c.yaml:1:1: the file is the text "hello"`},
		{"not infinite", "sampler_profiles: {x: {temperature: .inf}}\n" + minimal, "c.yaml:1:37: sampler_profiles.x.temperature is the number .inf, but has to be a number"},
		{"out of range", pool("  replicas: 0\n"), "c.yaml:4:13: pools[0].replicas is 0, which is out of range: use a value from 1 to 64"},
		{"huge", pool("  ctx: 99999999999999999999999999\n"), "pools[0].ctx is 99999999999999999999999999, which is out of range"},
		{"negative", pool("  ctx: -1\n"), "c.yaml:4:8: pools[0].ctx is -1, which is out of range"},
		{"enum", pool("  queue: {full_policy: dorp-lru}\n"), `c.yaml:4:24: pools[0].queue.full_policy cannot be "dorp-lru": did you mean drop-lru? Known: reject, drop-lru`},
		{"engine", pool("  engine: vlm\n"), `pools[0].engine cannot be "vlm": did you mean vllm?`},
		{"pool id", "pools:\n- id: A B\n  model: {ref: file:a}\n", `c.yaml:2:7: pools[0].id cannot be "A B": it has to match ^[a-z0-9]`},
		{"missing id", "pools:\n- model: {ref: file:a}\n", "c.yaml:2:3: pools[0].id is missing: add it; name of the pool"},
		{"missing pools", "log: {level: info}\n", "c.yaml:1:1: pools is missing: add it"},
		{"no pools", "pools: []\n", "c.yaml:1:8: pools has 0 entries: give from 1 to 32"},
		{"duplicate field", "bind_addr: 127.0.0.1:1\nbind_addr: 127.0.0.1:2\n" + minimal, "c.yaml:2:1: bind_addr stands here for the second time, the first is in line 1"},
		{"duplicate id", "pools:\n- {id: a, model: {ref: file:a}}\n- {id: a, model: {ref: file:b}}\n", "c.yaml:3:8: the pool id a is taken by the pool in line 2"},
		{"too many replicas", "pools:\n- {id: a, device: cpu, replicas: 64, model: {ref: file:a}}\n- {id: b, device: cpu, model: {ref: file:b}}\n", "the pools have 65 replicas in all, more than 64"},
		{"profile", "sampler_profiles: {v1: {}}\n" + pool("  sampler_profile: v2\n"), "c.yaml:5:20: there is no sampler profile v2: did you mean v1? Otherwise define it under sampler_profiles, or use one of: default, v1"},
		{"profile name", "sampler_profiles: {\"a b\": {}}\n" + minimal, `c.yaml:1:20: "a b" is not a name`},
		{"device", pool("  device: gpu\n"), "c.yaml:4:11: pools[0].device cannot be gpu: write cpu, auto, or a list of GPU indices like [0] or [0, 1]"},
		{"device number", pool("  device: 0\n"), "pools[0].device cannot be 0"},
		{"device empty", pool("  device: []\n"), "pools[0].device cannot be that list"},
		{"device text index", pool("  device: [0, x]\n"), "c.yaml:4:15: pools[0].device holds x, which is no GPU index"},
		{"device negative", pool("  device: [-1]\n"), "pools[0].device holds -1, which is no GPU index"},
		{"device twice", pool("  device: [1, 1]\n"), "c.yaml:4:15: pools[0].device names GPU 1 twice"},
		{"duration", pool("  timeouts: {wall: 5 minutes}\n"), `c.yaml:4:20: pools[0].timeouts.wall cannot be "5 minutes": write a duration like 500ms, 30s, 5m or 1h30m`},
		{"duration number", pool("  timeouts: {wall: 5}\n"), "pools[0].timeouts.wall is the number 5, but has to be a duration like 30s"},
		{"duration zero", pool("  timeouts: {idle: 0s}\n"), "pools[0].timeouts.idle is 0s, which is out of range"},
		{"idle over wall", pool("  timeouts: {wall: 1s, idle: 2s}\n"), "c.yaml:4:30: timeouts.idle (2s) is over timeouts.wall (1s)"},
		{"prefill over wall", pool("  timeouts: {wall: 1s, idle: 1s, prefill: 2s}\n"), "c.yaml:4:43: timeouts.prefill (2s) is over timeouts.wall (1s): it would never fire: lower prefill or raise wall"},
		{"builtin slots", pool("  slots: 2\n"), "c.yaml:4:10: the built-in worker has one slot, not 2: use slots: 1 and more replicas; one slot is what makes its output the same bytes each time"},
		{"reuse of something", pool("  determinism: {reuse: maybe}\n"), "pools[0].determinism.reuse"},
		{"a tiny piece", pool("  determinism: {piece: 8}\n"), "c.yaml:4:24: determinism.piece is 8, and pieces so small are slow: write 16 or more, or leave it out"},
		{"a piece of nothing", pool("  determinism: {reuse: off, piece: 32}\n"), "determinism.piece has no effect with determinism.reuse: off"},
		{"reuse in several slots", pool("  determinism: {reuse: on}\n  slots: 2\n  provisioning: {mode: binary, path: x}\n"), "determinism.reuse is on, and the pool has several slots, where no task is strict"},
		{"external reuse", pool("  determinism: {reuse: on}\n  provisioning: {mode: external, urls: [\"http://x\"]}\n"), "determinism.reuse has no effect in a pool of mode external, because its engine runs already"},
		{"builtin rerank", pool("  workload: rerank\n"), "c.yaml:4:13: the built-in worker cannot rerank"},
		{"builtin urls", pool("  provisioning: {urls: [\"http://x\"]}\n"), "provisioning.urls has no effect in a pool of mode builtin: remove it, or set provisioning.mode to external"},
		{"builtin path", pool("  provisioning: {path: x}\n"), "provisioning.path has no effect in a pool of mode builtin: remove it, or set provisioning.mode to binary"},
		{"binary path", pool("  provisioning: {mode: binary}\n"), "c.yaml:4:17: provisioning.path is missing"},
		{"binary digest", pool("  provisioning: {mode: binary, path: x, digest: \"sha256:abababababababababababababababababababababababababababababababab\"}\n"), "c.yaml:4:49: provisioning.digest has no effect without provisioning.url"},
		{"a download without a digest", pool("  provisioning: {mode: binary, url: \"https://h/x.zip\"}\n"), "c.yaml:4:37: provisioning.digest is missing: write the download's SHA-256"},
		{"a download in the clear", pool("  provisioning: {mode: binary, url: \"http://h/x.zip\", digest: \"sha256:abababababababababababababababababababababababababababababababab\"}\n"), "which is no https URL of a file: write https://HOST/PATH"},
		{"a download with a password", pool("  provisioning: {mode: binary, url: \"https://u:p@h/x.zip\", digest: \"sha256:abababababababababababababababababababababababababababababababab\"}\n"), "provisioning.url holds credentials: leave them out"},
		{"a program outside of the archive", pool("  provisioning: {mode: binary, url: \"https://h/x.zip\", digest: \"sha256:abababababababababababababababababababababababababababababababab\", path: ../sh}\n"), "leads out of what provisioning.url gives: name the program's path inside the archive"},
		{"no package", pool("  provisioning: {mode: package}\n"), "provisioning.package is missing: name the package"},
		{"a package that is not allowed", pool("  provisioning: {mode: package, package: llama.cpp}\n"), "c.yaml:4:42: installing system packages is not allowed: set provision.allow_system_packages: true"},
		{"a package that is an option", pool("  provisioning: {mode: package, package: \"--root=/\"}\nprovision: {allow_system_packages: true}\n"), `pools[0].provisioning.package cannot be "--root=/"`},
		{"no image", pool("  provisioning: {mode: container}\n"), "provisioning.image is missing: name the image"},
		{"an image that is an option", pool("  provisioning: {mode: container, image: \"--privileged\"}\n"), `pools[0].provisioning.image cannot be "--privileged"`},
		{"another runtime", pool("  provisioning: {mode: container, image: x, runtime: sh}\n"), `pools[0].provisioning.runtime cannot be "sh": use docker or podman`},
		{"a repository of another protocol", pool("  provisioning: {mode: source, repository: \"ext::sh://x\"}\n"), "which is no https URL of a file"},
		{"a ref that is an option", pool("  provisioning: {mode: source, ref: \"--upload-pack=x\"}\n"), `pools[0].provisioning.ref cannot be "--upload-pack=x"`},
		{"a ref that is a range", pool("  provisioning: {mode: source, ref: a..b}\n"), "provisioning.ref cannot be \"a..b\": write one branch, tag or commit"},
		{"a flag that is none", pool("  provisioning: {mode: source, cmake_flags: [\"-P/x.cmake\"]}\n"), "c.yaml:4:46: \"-P/x.cmake\" is no flag of this kind: write -DNAME=VALUE"},
		{"source path", pool("  provisioning: {mode: source, path: x}\n"), "provisioning.path has no effect in a pool of mode source: remove it, or set provisioning.mode to binary or package"},
		{"binary pace", pool("  provisioning: {mode: binary, path: x}\n  pace: 3\n"), "c.yaml:5:9: pace has no effect in a pool of mode binary: remove it, or set provisioning.mode to builtin"},
		{"two GPUs without a split", pool("  device: [0, 1]\n"), "c.yaml:4:11: device lists 2 GPUs, and tensor_split is missing: say what part of the model each holds"},
		{"a split of one GPU", pool("  device: [0]\n  tensor_split: [1]\n"), "tensor_split has no effect on one device"},
		{"a split of the wrong length", pool("  device: [0, 1]\n  tensor_split: [1, 1, 1]\n  provisioning: {mode: binary, path: x}\n"), "tensor_split has 3 parts for 2 GPUs"},
		{"a part of nothing", pool("  device: [0, 1]\n  tensor_split: [1, 0]\n  provisioning: {mode: binary, path: x}\n"), "c.yaml:5:21: a part of tensor_split has to be above 0"},
		{"a split built-in worker", pool("  device: [0, 1]\n  tensor_split: [2, 1]\n"), "the built-in worker cannot split a model"},
		{"idle_ttl of a pinned pool", pool("  idle_ttl: 1m\n"), "idle_ttl has no effect on a pinned pool: remove it, or set lifecycle: on_demand"},
		{"lifecycle", pool("  lifecycle: ondemand\n"), `pools[0].lifecycle cannot be "ondemand": did you mean on_demand? Known: pinned, on_demand`},
		{"one engine in two pools", "pools:\n- {id: a, model: {ref: x}, provisioning: {mode: external, urls: [\"http://h:1\"]}}\n- {id: b, model: {ref: y}, provisioning: {mode: external, urls: [\"http://h:1/\"]}}\n", "c.yaml:3:66: http://h:1 is in pool a already"},
		{"external urls", pool("  provisioning: {mode: external, urls: []}\n"), "c.yaml:4:40: provisioning.urls is empty: name at least one engine, like urls: [\"http://127.0.0.1:9700\"], or leave urls out where engines register themselves"},
		{"external replicas without urls", pool("  replicas: 2\n  provisioning: {mode: external}\n"), "c.yaml:4:13: replicas is 2, but provisioning.urls names 0: remove replicas: each URL is a replica, and each engine that registers"},
		{"external url", pool("  provisioning: {mode: external, urls: [\"localhost:9\"]}\n"), `c.yaml:4:41: "localhost:9" is no base URL: write http://HOST:PORT`},
		{"external url unquoted", pool("  provisioning: {mode: external, urls: [http://h:9]}\n"), "pools[0].provisioning.urls[0] is a mapping, but has to be text: put it in quotes, if it holds a colon"},
		{"external credentials", pool("  provisioning: {mode: external, urls: [\"http://u:p@h\"]}\n"), "a base URL ends after its port, and holds no credentials"},
		{"external key that is not there", pool("  provisioning: {mode: external, key_env: NO_KEY, urls: [\"http://h\"]}\n"), "c.yaml:4:43: NO_KEY is not set in the environment: set it to the key that the engines of the pool ask for, or remove key_env"},
		{"key of our own worker", pool("  provisioning: {key_env: NO_KEY}\n"), "provisioning.key_env has no effect in a pool of mode builtin"},
		{"what llama.cpp does not promise", pool("  determinism: {batch_invariant: true}\n"), "engines of kind llamacpp promise no such thing: remove determinism.batch_invariant; a pool of engine vllm may have it"},
		{"external twice", pool("  provisioning: {mode: external, urls: [\"http://h\", \"http://H/\"]}\n"), "http://h is named twice"},
		{"external replicas", pool("  replicas: 2\n  provisioning: {mode: external, urls: [\"http://h\"]}\n"), "c.yaml:4:13: replicas is 2, but provisioning.urls names 1"},
		{"external device", pool("  device: cpu\n  provisioning: {mode: external, urls: [\"http://h\"]}\n"), "c.yaml:4:11: device has no effect in a pool of mode external, because its engine runs already"},
		{"bare name", "pools: [{id: a, model: {ref: haiku}}]\n", `c.yaml:1:30: model.ref cannot be "haiku": a bare name is no ref: write file:PATH`},
		{"scheme", "pools: [{id: a, model: {ref: \"ollama:x\"}}]\n", "unknown scheme: use file:PATH"},
		{"broken ref", "pools: [{id: a, model: {ref: \"file:\"}}]\n", "incomplete: write file:PATH"},
		{"no model id", "pools: [{id: a, model: {ref: \"file:x/-.gguf\"}}]\n", `model.id is missing, and "-", the end of model.ref, will not do as one`},
		{"digest", "pools: [{id: a, model: {ref: file:a, digest: abc}}]\n", `model.digest cannot be "abc": it has to match ^sha256:`},
		{"bind", "bind_addr: localhost\n" + minimal, `c.yaml:1:12: "localhost" is no address: write HOST:PORT, like 127.0.0.1:8080`},
		{"port", "bind_addr: localhost:99999\n" + minimal, `"99999" is no port`},
		{"empty bind", "bind_addr: \"\"\n" + minimal, "bind_addr is empty"},
		{"prompt over body", "limits: {body_bytes: 1024, prompt_bytes: 2048}\n" + minimal, "limits.prompt_bytes (2048) is over limits.body_bytes (1024)"},
		{"empty", "", "c.yaml:1:1: the file is empty"},
		{"comments only", "# nothing\n", "c.yaml:1:1: the file is empty"},
		{"two documents", minimal + "---\n" + minimal, "c.yaml:3:1: the file holds a second document"},
		{"syntax", "pools: [\n", "not valid YAML"},
		{"tab", "auth:\n\ttoken_env: X\n", "not valid YAML"},
		{"anchor", "log: &a {level: info}\n" + minimal, "c.yaml:1:6: anchors, aliases, merge keys, tags and directives are not taken here"},
		{"tag", "log: !!map {level: info}\n" + minimal, "tags and directives are not taken here"},
		{"not UTF-8", "bind_addr: \xff\n", "the file is not UTF-8 text"},
		{"control character", "data_dir: \"a\\nb\"\n" + minimal, "data_dir holds a control character"},
		{"number as key", "1: 2\n" + minimal, "c.yaml:1:1: a name is expected here"},
		{"deep flow", "pools: " + strings.Repeat("[", 5000), "the file is nested too deep"},
		{"deep block", strings.Repeat("- ", 5000), "the file is nested too deep"},
		{"deep indentation", staircase(600), ""},
		{"many", strings.Repeat("a: b\r\n", 8000), "the file is too large: keep it under 6666 names and values"},
		{"large", strings.Repeat("#", 300<<10), "the file is too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			found := problems(t, tt.text)
			require.Contains(t, found[0].String(), tt.want)
			require.Less(t, len(found[0].String()), 700)
		})
	}
}

// staircase nests only by indentation.
func staircase(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// HME-003
func TestAllMistakesAtOnceInTheOrderOfTheFile(t *testing.T) {
	found := problems(t, `bindaddr: 127.0.0.1:8080
log: {level: loud}
pools:
  - id: a
    model: {ref: "ftp:x/y"}
    slots: 4
    timeouts: {wall: soon}
  - id: a
    model: {}
`)
	var lines []int
	for _, p := range found {
		require.Equal(t, "c.yaml", p.File)
		lines = append(lines, p.Line)
	}
	require.Equal(t, []int{1, 2, 5, 6, 7, 8, 9}, lines, "%v", found)
}

// The YAML bomb "billion laughs", in the form that needs no merge key.
// HME-003
func TestBombsAreRefusedBeforeTheyAreParsed(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i < 'j'; i++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", i-1), 9), ","))
	}
	require.Contains(t, problems(t, bomb)[0].What, "anchors")
}

// HME-003
func TestLoadOfAMissingFile(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "none.yaml"), environ())
	var e *config.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, err.Error(), "there is no such file")
	_, err = config.Load(t.TempDir(), environ())
	require.ErrorAs(t, err, &e)
}

// ORCH-3090
func TestCanonicalRef(t *testing.T) {
	c := parse(t, minimal)
	for ref, want := range map[string]string{
		"file:a.gguf":                        "file:/etc/llama-orch/a.gguf",
		"FILE:./x/../a.gguf":                 "file:/etc/llama-orch/a.gguf",
		"./a.gguf":                           "file:/etc/llama-orch/a.gguf",
		"models/a.gguf":                      "file:/etc/llama-orch/models/a.gguf",
		"/etc/llama-orch/a.gguf":             "file:/etc/llama-orch/a.gguf",
		"file:///etc/llama-orch/a.gguf":      "file:/etc/llama-orch/a.gguf",
		"file:~/a.gguf":                      "file:/home/user/a.gguf",
		" haiku ":                            "haiku",
		"a.gguf":                             "a.gguf", // a bare name is never a path
		"hf://Org/Repo/":                     "hf:Org/Repo",
		"HF:Org/Repo/f.gguf":                 "hf:Org/Repo/f.gguf",
		"https://Host.Example:443/m.gguf#x":  "https://host.example/m.gguf",
		"s3://bucket/key":                    "s3:bucket/key",
		"oci:registry.example/repo/model:v1": "oci:registry.example/repo/model:v1",
		"hf:only":                            "hf:only",
		"weird:thing":                        "weird:thing",
		"":                                   "",
	} {
		require.Equal(t, want, c.CanonicalRef(ref), ref)
		require.Equal(t, want, c.CanonicalRef(c.CanonicalRef(ref)), "canonical once and for all: %s", ref)
	}
}

// HME-003, ORCH-3003
func TestCheckLooksAtTheMachine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	write("good.gguf", "GGUF\x03\x00\x00\x00")
	write("bad.gguf", "no model")
	load := func(text string, env ...string) config.Config {
		write("c.yaml", text)
		c, err := config.Load(filepath.Join(dir, "c.yaml"), environ(env...))
		require.NoError(t, err)
		return c
	}
	good := load("auth: {optional_on_loopback: true}\npools: [{id: a, model: {ref: file:good.gguf}}]\n")
	require.NoError(t, good.Check())

	err := load(`pools:
- {id: a, model: {ref: file:none.gguf}}
- {id: b, model: {ref: file:bad.gguf}}
- {id: c, model: {ref: "file:.", id: c}}
- {id: d, model: {ref: file:good.gguf}, provisioning: {mode: binary, path: ./no-such-program}}
- {id: e, model: {ref: label}, provisioning: {mode: external, urls: ["http://h"]}}
`).Check()
	var e *config.Error
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Problems, 5)
	for i, want := range []string{
		"LLORCH_API_TOKEN: no API token is set", "c.yaml:2:24: there is no model file", "c.yaml:3:24: " + filepath.Join(dir, "bad.gguf") + " is no GGUF file",
		"c.yaml:4:24: " + dir + " is no file", "there is no program",
	} {
		require.Contains(t, e.Problems[i].String(), want)
	}
}

// AUTH-1001
func TestCheckWantsATokenWhereOthersCanCall(t *testing.T) {
	text := "bind_addr: 0.0.0.0:1\nauth: {optional_on_loopback: true}\npools: [{id: a, model: {ref: x}, provisioning: {mode: external, urls: [\"http://h\"]}}]\n"
	require.ErrorContains(t, parse(t, text).Check(), "LLORCH_API_TOKEN: no API token is set, and other machines can reach 0.0.0.0:1")
	require.NoError(t, parse(t, text, "LLORCH_API_TOKEN", "tok").Check())
}

// ORCH-2101, AUTH-1008
func TestAPoolOfEnginesThatRegisterWantsAToken(t *testing.T) {
	text := "auth: {optional_on_loopback: true}\npools: [{id: a, model: {ref: x}, provisioning: {mode: external}}]\n"
	c := parse(t, text)
	require.Zero(t, c.Pools[0].Replicas)
	require.ErrorContains(t, c.Check(), "LLORCH_API_TOKEN: no API token is set, and only engines that register themselves serve pool a")
	require.Contains(t, c.Describe(), "from engines that register themselves")
	require.NoError(t, parse(t, text, "LLORCH_API_TOKEN", "tok").Check())
}

// HME-003
func TestDescribeIsALineAPool(t *testing.T) {
	c, err := config.Load("../../examples/workstation.yaml", environ("LLORCH_API_TOKEN", "tok"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(c.Describe()), "\n")
	require.Len(t, lines, 4)
	require.Equal(t, "Would listen on 0.0.0.0:8080; callers need the API token. State is kept in /var/lib/llama-orch.", lines[0])
	require.Equal(t, `Pool 'coder' would serve completions as "qwen2.5-coder-32b" by 1 process of llama-server on the GPU that holds it, never the CPU, with `+
		`/home/user/models/qwen2.5-coder-32b-instruct-q4_k_m.gguf, 1 slot each (the same request gives the same bytes) of 16384 tokens, `+
		`loaded when a task needs it and unloaded when idle for 30m; at most 128 tasks wait, and beyond that the one that has waited longest is dropped; a task ends after 15m, after 2m without a first token or progress, or after 1m without a further one.`, lines[1])

	c, err = config.Load("../../examples/external.yaml", environ())
	require.NoError(t, err)
	require.Contains(t, c.Describe(), "from 2 running engines (http://127.0.0.1:9700, http://127.0.0.1:9701)")
}

// For any bytes, Parse returns either a config or an *Error whose problems all say what to do.
// HME-003
func FuzzParse(f *testing.F) {
	for _, name := range []string{"haiku", "workstation", "external"} {
		data, err := os.ReadFile("../../examples/" + name + ".yaml")
		require.NoError(f, err)
		f.Add(data)
	}
	for _, text := range []string{minimal, "", "a: &a [*a]", "? a\n: b", "- - - -", "{{{{", "a: |\n  x\n", "%YAML 1.2\n---\n", "pools: [{id: a, device: [0x1]}]", "\"", "<<: *x", "a:\r\n b"} {
		f.Add([]byte(text))
	}
	env := environ("LLORCH_API_TOKEN", "tok")
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("c.yaml", data, env)
		if err == nil {
			require.NotEmpty(t, c.Pools)
			require.NotEmpty(t, c.Describe())
			return
		}
		var e *config.Error
		require.ErrorAs(t, err, &e)
		for _, p := range e.Problems {
			require.NotEmpty(t, p.What)
			require.NotEmpty(t, p.Remedy)
		}
	})
}

// One slot is what makes a llama.cpp worker give the same bytes again. No other kind promises that, but for a vLLM that is batch-invariant.
//
// LO-453
func TestStrictIsWhatTheKindPromises(t *testing.T) {
	invariant := config.Determinism{BatchInvariant: true}
	for _, c := range []struct {
		pool   config.Pool
		strict bool
	}{
		{config.Pool{Engine: task.LlamaCpp, Slots: 1}, true},
		{config.Pool{Engine: task.LlamaCpp, Slots: 2}, false},
		{config.Pool{Engine: task.VLLM, Slots: 1}, false},
		{config.Pool{Engine: task.VLLM, Slots: 8, Determinism: invariant}, true},
		{config.Pool{Engine: task.TGI, Slots: 1}, false},
		{config.Pool{Engine: task.Triton, Slots: 1}, false},
		{config.Pool{Engine: task.OpenAI, Slots: 1}, false},
	} {
		require.Equal(t, c.strict, c.pool.Strict(), "%+v", c.pool)
	}
}
