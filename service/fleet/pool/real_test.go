// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/fleet/worker"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

const haiku = "../../../models/haiku/haiku.gguf"

// runWorker is `orchestratord worker`, for tests on the bundled model.
func runWorker() int {
	number := func(name string) float64 {
		n, err := strconv.ParseFloat(argument(name), 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	return worker.Main(context.Background(), worker.Options{
		Model: argument("--model"), Libs: argument("--libs"), Ctx: int(number("--ctx")), Threads: int(number("--threads")),
		Pace: number("--pace"), Workload: task.Workload(argument("--workload")), APIKey: os.Getenv("LLAMA_API_KEY"),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
}

// haikus is a pool of two replicas on the bundled model.
func haikus(t *testing.T) pool.Spec {
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	return pool.Spec{
		ID: "p", Engine: "llamacpp", ModelID: "haiku", ModelPath: haiku, Device: "cpu", Ctx: 256, Mode: pool.Builtin, Replicas: 2,
		LibsDir: libs,
	}
}

// decode has one replica write a haiku.
func (b *bundle) decode(replicaID string) (text string, info pool.Info) {
	lease, err := b.m.Lease(replicaID)
	require.NoError(b, err)
	defer lease.Release()
	var out strings.Builder
	_, err = lease.Engine().Generate(b.Context(), engine.Job{
		Workload: task.Completion, Prompt: "Write a haiku about rain containing \"seven\".\n\n", Seed: 7, MaxTokens: 64,
		Sampling: task.Sampling{Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1},
	}, func(p task.Piece) error { out.WriteString(p.Text); return nil })
	require.NoError(b, err)
	return out.String(), lease.Info()
}

// sameBytes has both replicas decode, and the first one again after a kill -9.
func sameBytes(t *testing.T, spec pool.Spec) {
	b := setup(t, nil, spec)
	both := func(pool.Info) bool {
		ok := len(b.m.Engines("p")) > 0
		return ok && b.m.Infos("p")[1].State == pool.Ready
	}
	b.await("p", func(i pool.Info) bool { return both(i) && i.State == pool.Ready })
	first, info := b.decode("p-0")
	second, other := b.decode("p-1")
	require.Contains(t, first, "seven")
	require.Equal(t, first, second)
	require.Equal(t, info.Fingerprint, other.Fingerprint)
	require.NoError(t, unix.Kill(info.PID, unix.SIGKILL))
	b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	third, again := b.decode("p-0")
	require.Equal(t, first, third)
	require.Equal(t, info.Fingerprint, again.Fingerprint)
}

// ORCH-3002, ORCH-3045, LO-205
func TestRealWorkersOfOneFingerprintGiveTheSameBytes(t *testing.T) { sameBytes(t, haikus(t)) }

// LO-809: so does a library that is replaced while the worker has it loaded. One that is written to in place ends the worker, for nobody knows what
// it runs then.
func TestALibraryThatIsReplacedGetsAnotherFingerprint(t *testing.T) {
	spec := haikus(t)
	spec.Replicas = 1
	libs := t.TempDir()
	entries, err := os.ReadDir(spec.LibsDir)
	require.NoError(t, err)
	for _, e := range entries {
		from, to := filepath.Join(spec.LibsDir, e.Name()), filepath.Join(libs, e.Name())
		if at, err := os.Readlink(from); err == nil {
			require.NoError(t, os.Symlink(at, to))
			continue
		}
		content, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, content, 0o700))
	}
	library, err := filepath.EvalSymlinks(filepath.Join(libs, "libllama.so"))
	require.NoError(t, err)
	spec.LibsDir = libs
	b := setup(t, func(_ *bundle, o *pool.Options) { unwatched(o) }, spec)
	first := b.await("p", is(pool.Ready))
	was, _ := b.decode("p-0")

	content, err := os.ReadFile(library)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(library+".new", append(content, "another build"...), 0o700)) // the loader does not mind
	require.NoError(t, os.Rename(library+".new", library))
	text, info := b.decode("p-0")
	require.Equal(t, was, text)
	require.Equal(t, first.Fingerprint, info.Fingerprint, "it has the old one loaded")
	require.NoError(t, unix.Kill(first.PID, unix.SIGKILL))
	second := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 1 })
	require.NotEqual(t, first.Fingerprint, second.Fingerprint)
	require.Equal(t, first.EngineVersion, second.EngineVersion, "it says the same of itself")

	other := filepath.Join(libs, "libllama-common.so") // nothing loads it
	require.NoError(t, os.Chtimes(other, time.Time{}, time.Now().Add(-time.Hour)))
	b.lease("p-0").Release()
	require.NoError(t, os.Chtimes(library, time.Time{}, time.Now().Add(-time.Hour)))
	_, err = b.m.Lease("p-0")
	require.True(t, task.HasCode(err, task.PoolUnready), "%v", err)
	third := b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == 2 })
	require.Equal(t, second.Fingerprint, third.Fingerprint, "its bytes are the same")
	require.Contains(t, third.LastError, library)
}
