// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/fakedocker"
	"github.com/llama-orch/llama-orch/harness/hubengine"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/hub"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// hubKinds are those whose workers take models in the form of the hub.
var hubKinds = []string{task.TGI, task.VLLM}

// started is a pool whose engine of that kind is this test binary, with a model of its own.
func started(t *testing.T, kind string) pool.Spec {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "llama")
	require.NoError(t, hubengine.WriteModel(folder, 1<<20))
	return pool.Spec{
		ID: "p", Engine: kind, ModelID: "m", ModelPath: folder, Device: "0", Ctx: 2048, Slots: 4, Mode: pool.Binary, BinaryPath: os.Args[0], BinaryArgs: []string{asHub},
	}
}

func appendTo(t *testing.T, folder, name, text string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = file.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, file.Close())
}

// has reports whether an argument with that value is on a command line.
func has(args []string, name, value string) bool {
	at := slices.Index(args, name)
	return at >= 0 && at+1 < len(args) && args[at+1] == value
}

// names of the arguments that the engines take for the same things.
var hubArgs = map[string]struct{ model, cards, ctx, share, key string }{
	task.TGI:  {"--model-id", "--num-shard", "--max-total-tokens", "--cuda-memory-fraction", "API_KEY"},
	task.VLLM: {"serve", "--tensor-parallel-size", "--max-model-len", "--gpu-memory-utilization", "VLLM_API_KEY"},
}

// A worker is told its cards, its context and the share of the memory that was reserved for it. Nobody can read its key from its command line.
//
// LO-461
func TestAnEngineOfTheHubIsStarted(t *testing.T) {
	for _, kind := range hubKinds {
		t.Run(kind, func(t *testing.T) {
			memory, spec, told := newCards(t, 24*gib, 24*gib), started(t, kind), hubArgs[kind]
			spec.Device = "0,1"
			b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM = memory }, spec)
			info := b.await("p", is(pool.Ready))
			require.Equal(t, []int{0, 1}, info.Cards)
			require.Equal(t, 2048, info.Ctx)
			require.Regexp(t, "^sha256:", info.ModelDigest)
			require.Greater(t, info.EstimateBytes, int64(gib))
			calls, err := hubengine.Calls(spec.ModelPath)
			require.NoError(t, err)
			require.Len(t, calls, 1)
			args := calls[0].Args
			require.True(t, slices.Contains(args, spec.ModelPath), args)
			require.True(t, has(args, told.cards, "2") && has(args, told.ctx, "2048"), args)
			wish := memory.asked()[0]
			share := slices.Index(args, told.share)
			require.Positive(t, share)
			require.Equal(t, hub.Fraction(float64(wish.Bytes)/2/(24*gib)), args[share+1])
			require.Contains(t, calls[0].Env, "CUDA_VISIBLE_DEVICES=0,1")
			require.Contains(t, calls[0].Env, "HF_HUB_OFFLINE=1")
			at := slices.IndexFunc(calls[0].Env, func(pair string) bool { return strings.HasPrefix(pair, told.key+"=") })
			require.GreaterOrEqual(t, at, 0)
			key := strings.TrimPrefix(calls[0].Env[at], told.key+"=")
			require.Len(t, key, 26)
			require.NotContains(t, strings.Join(args, " "), key)

			lease, err := b.m.Lease("p-0")
			require.NoError(t, err)
			defer lease.Release()
			r, err := lease.Engine().Generate(t.Context(), engine.Job{
				Workload: task.Completion, Prompt: "rain", Seed: 7, MaxTokens: 5, Sampling: task.Sampling{Temperature: 1, TopP: 1, RepeatPenalty: 1},
			}, func(task.Piece) error { return nil })
			require.NoError(t, err)
			require.Equal(t, 5, r.TokensOut)
		})
	}
}

// ORCH-3200, LO-461
func TestAnEngineOfTheHubInAContainer(t *testing.T) {
	for _, kind := range hubKinds {
		t.Run(kind, func(t *testing.T) {
			d, err := fakedocker.New(t.TempDir(), "docker", os.Args[0], asHub)
			require.NoError(t, err)
			spec := started(t, kind)
			env := []string{"HF_HUB_OFFLINE=1"}
			plan, err := provision.MakePlan(provision.Want{
				Pool: "p", Mode: provision.Container, GPU: true, Image: "example.org/engine:1", Model: spec.ModelPath, Hub: true, KeyEnv: hubArgs[kind].key, Env: env,
			}, provision.User())
			require.NoError(t, err)
			spec.Mode, spec.Recipe, spec.BinaryArgs, spec.BinaryPath = pool.Container, image, nil, ""
			l := plan.Launch
			spec.Container = &process.Container{Argv: append([]string{d.Path}, l.Argv[1:]...), GPUs: l.GPUs, Model: l.Model, Port: l.Port}
			b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM = newCards(t, 24*gib, 24*gib) }, spec)
			b.await("p", is(pool.Ready))
			calls, err := d.Calls()
			require.NoError(t, err)
			for _, says := range []string{
				"--mount type=bind,source=" + spec.ModelPath + ",target=/models/model,readonly", "--env " + hubArgs[kind].key + " ", "--env HF_HUB_OFFLINE=1",
				"--tmpfs /tmp:exec", "--shm-size 1g", `--gpus "device=0"`, fakedocker.ImageID + " ", " /models/model ", " 0.0.0.0 ", "--port 8080",
			} {
				require.Contains(t, calls[1], says)
			}
			require.NotContains(t, calls[1], hubArgs[kind].key+"=")
		})
	}
}

// What such an engine says when it dies comes far above its last line, and the pool says what to do about it.
//
// LO-462
func TestDeathsOfEnginesOfTheHub(t *testing.T) {
	for reason, c := range map[string]struct{ says, advice string }{
		"oom_vram":        {"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.50 GiB.", "ran out of the memory of card 0"},
		"no_kv_room":      {"ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "the KV of its context does not"},
		"port_taken":      {"OSError: [Errno 98] Address already in use", "the next try takes another port"},
		"model_missing":   {"OSError: /srv/llama does not appear to have a file named config.json", "fetch all files of the model's repository"},
		"unsupported_gpu": {"RuntimeError: CUDA error: no kernel image is available for execution on the device", "cannot use card 0 for this model"},
		"bad_model":       {"ValueError: Model architectures ['X'] are not supported for now.", "the engine does not take the model"},
	} {
		t.Run(reason, func(t *testing.T) {
			spec := started(t, hubKinds[0])
			appendTo(t, spec.ModelPath, ".dies", strings.Repeat("INFO nothing of note\n", 40)+"Traceback (most recent call last):\n"+c.says+"\n"+strings.Repeat("  File \"/usr/lib/python3/x.py\", line 7, in run\n", 200)+
				"RuntimeError: Engine core initialization failed. See root cause above.")
			b := setup(t, func(_ *bundle, o *pool.Options) {
				o.VRAM, o.BackoffMin, o.BackoffMax = newCards(t, 24*gib, 24*gib), bound, bound
			}, spec)
			info := b.await("p", is(pool.Backoff, pool.Failed))
			require.Contains(t, info.LastError, c.advice)
			require.InDelta(t, 1, b.restarts(reason), 0, info.LastError)
			require.Contains(t, strings.Join(info.LogTail, "\n"), c.says)
		})
	}
}

// A load that goes on may take longer than the time that one step may take. One that stands still is given up, with the last that it did.
//
// LO-463
func TestTheTimeForALoadBeginsAnewWithItsProgress(t *testing.T) {
	const limit = 2 * time.Second
	spec := started(t, hubKinds[0])
	appendTo(t, spec.ModelPath, ".hold", "")
	begun := time.Now()
	b := setup(t, func(_ *bundle, o *pool.Options) {
		o.VRAM, o.LoadTimeout, o.BackoffMin, o.BackoffMax, o.StopGrace = newCards(t, 24*gib, 24*gib), limit, bound, bound, time.Millisecond
	}, spec)
	for percent := 0; time.Since(begun) < 2*limit; percent++ {
		appendTo(t, spec.ModelPath, ".lines", "Loading safetensors checkpoint shards: "+strconv.Itoa(percent)+"% Completed\n")
		want := "reads the weights: " + strconv.Itoa(percent) + " %"
		var info pool.Info
		require.Eventually(t, func() bool {
			info = b.m.Infos("p")[0]
			return info.Progress == want || info.State == pool.Backoff
		}, bound, limit/20)
		require.Equal(t, pool.Loading, info.State, "%s", info.LastError)
	}
	info := b.await("p", is(pool.Backoff, pool.Failed))
	require.Contains(t, info.LastError, "neither healthy nor further within 2s; the last that it did: reads the weights:")
	require.Empty(t, info.Progress, "nothing loads")

	require.NoError(t, os.Remove(filepath.Join(spec.ModelPath, ".hold")))
	require.NoError(t, b.m.Retry("p"))
	b.await("p", is(pool.Ready))
}

// LO-461
func TestAModelOfTheHubThatIsNotThere(t *testing.T) {
	spec := started(t, hubKinds[0])
	require.NoError(t, os.Remove(filepath.Join(spec.ModelPath, "config.json")))
	b := setup(t, func(_ *bundle, o *pool.Options) { o.VRAM = newCards(t, 24*gib, 24*gib) }, spec)
	info := b.await("p", is(pool.Failed))
	require.Contains(t, info.LastError, "config.json")
	require.Contains(t, info.LastError, spec.ModelPath)
}
