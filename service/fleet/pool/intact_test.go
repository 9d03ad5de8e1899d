// SPDX-License-Identifier: GPL-3.0-or-later

package pool_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/task"
)

// unwatched leaves it to the leases to notice changes.
func unwatched(o *pool.Options) { o.HealthInterval, o.LivenessInterval = time.Hour, -1 }

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o700))
}

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// splitModel writes a model in two parts. The first one tells the worker what to do.
func (b *bundle) splitModel() (first, second string) {
	first, second = filepath.Join(b.dir, "m-00001-of-00002.gguf"), filepath.Join(b.dir, "m-00002-of-00002.gguf")
	write(b.T, first, "{}")
	write(b.T, second, "weights")
	return first, second
}

// LO-808: whatever is done to a file that a worker has loaded, the next lease finds it out, and what is there now is hashed and loaded.
func TestAModelThatChangesIsNotUsedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, first, second string)
		want string // the bytes that are loaded then; empty: there are none that can be
	}{
		"overwritten, by as many bytes, and its time set back": {func(t *testing.T, _, second string) {
			at, err := os.Stat(second)
			require.NoError(t, err)
			write(t, second, "WEIGHTS")
			require.NoError(t, os.Chtimes(second, at.ModTime(), at.ModTime()))
		}, "{}WEIGHTS"},
		"the first part": {func(t *testing.T, first, _ string) { write(t, first, "{ }") }, "{ }weights"},
		"cut short":      {func(t *testing.T, _, second string) { require.NoError(t, os.Truncate(second, 3)) }, "{}wei"},
		"replaced": {func(t *testing.T, _, second string) {
			write(t, second+".new", "others")
			require.NoError(t, os.Rename(second+".new", second))
		}, "{}others"},
		"replaced by the same": {func(t *testing.T, _, second string) {
			write(t, second+".new", "weights")
			require.NoError(t, os.Rename(second+".new", second))
		}, "{}weights"},
		"removed":           {func(t *testing.T, _, second string) { require.NoError(t, os.Remove(second)) }, ""},
		"no model any more": {func(t *testing.T, first, _ string) { write(t, first, "no model") }, ""},
		"a folder in its place": {func(t *testing.T, _, second string) {
			require.NoError(t, os.Remove(second))
			require.NoError(t, os.Mkdir(second, 0o700))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var first, second string
			b := setup(t, func(b *bundle, o *pool.Options) {
				unwatched(o)
				first, second = b.splitModel()
				o.Specs[0].ModelPath = first
			}, plain)
			was := b.await("p", is(pool.Ready))
			require.Equal(t, digestOf("{}weights"), was.ModelDigest)
			b.lease("p-0").Release()
			c.do(t, first, second)
			_, err := b.m.Lease("p-0")
			require.True(t, task.HasCode(err, task.PoolUnready), "%v", err)
			require.True(t, task.AsError(err).Retriable)
			now := b.await("p", func(i pool.Info) bool {
				return i.Restarts > 0 && i.State != pool.Probing && i.State != pool.Loading && i.State != pool.Provisioning
			})
			require.Contains(t, b.logs.FilterMessage("replica is not ready").All()[0].ContextMap()["reason"], "files_changed")
			if c.want == "" {
				require.NotEqual(t, pool.Ready, now.State)
				require.NoError(t, os.RemoveAll(second))
				write(t, first, "{}")
				write(t, second, "mended")
				c.want = "{}mended"
				require.NoError(t, b.m.Retry("p"))
				now = b.await("p", is(pool.Ready))
			}
			require.Equal(t, digestOf(c.want), now.ModelDigest)
			require.Equal(t, now.ModelDigest == was.ModelDigest, now.Fingerprint == was.Fingerprint)
			b.lease("p-0").Release()
		})
	}
}

// LO-808: an idle worker is replaced without waiting for a task, and the change does not count as a failure.
func TestAnIdleWorkerIsReplacedWhenItsModelChanges(t *testing.T) {
	var path string
	b := setup(t, func(b *bundle, o *pool.Options) {
		o.HealthInterval, o.BreakerFailures = 300*time.Millisecond, 3
		path = b.model(child{})
		o.Specs[0].ModelPath = path
	}, plain)
	b.await("p", is(pool.Ready))
	for i := range 3 {
		content := "{}" + fmt.Sprintf("%*s", i+1, "")
		write(t, path, content)
		b.await("p", func(info pool.Info) bool { return info.State == pool.Ready && info.ModelDigest == digestOf(content) })
	}
	changes := b.logs.FilterMessage("replica is not ready").FilterField(zap.String("reason", "files_changed")).All()
	require.Len(t, changes, 3)
	for _, line := range changes {
		require.Equal(t, "backoff", line.ContextMap()["state"])
	}
}

// LO-808: a task that is running when the files change is told, and its worker is lost, whoever notices first. So it is where the worker died of the
// change.
func TestARunningTaskIsToldThatItsModelChanged(t *testing.T) {
	for name, kill := range map[string]bool{"alive": false, "dead of it": true} {
		t.Run(name, func(t *testing.T) {
			var path string
			b := setup(t, func(b *bundle, o *pool.Options) {
				unwatched(o)
				path = b.model(child{})
				o.Specs[0].ModelPath = path
			}, plain)
			b.await("p", is(pool.Ready))
			lease := b.lease("p-0")
			defer lease.Release()
			require.NoError(t, lease.Intact(t.Context()))
			write(t, path, "{} ")
			if kill {
				require.NoError(t, unix.Kill(lease.Info().PID, unix.SIGBUS))
				b.lost(lease)
			}
			for range 2 {
				err := lease.Intact(t.Context())
				require.True(t, task.HasCode(err, task.WorkerReset), "%v", err)
				require.True(t, task.AsError(err).Retriable)
				require.NotContains(t, task.AsError(err).Message, path)
				require.ErrorContains(t, err, "was written to")
			}
			b.lost(lease)
			b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.ModelDigest == digestOf("{} ") })
			require.Contains(t, b.logs.FilterMessage("replica is not ready").All()[0].ContextMap()["reason"], "files_changed")
			require.Error(t, lease.Intact(t.Context()), "the lease is of the worker before")
		})
	}
}

// LO-808: between the hash and the load, too.
func TestAModelThatChangesWhileItIsLoadedIsHashedAgain(t *testing.T) {
	var path string
	var once sync.Once
	b := setup(t, func(b *bundle, o *pool.Options) {
		unwatched(o)
		path = b.model(child{})
		o.Specs[0].ModelPath = path
		o.HostMemory = func() (int64, error) { // asked for after the hash, and before the start
			once.Do(func() { write(t, path, "{}  ") })
			return 1 << 40, nil
		}
	}, plain)
	info := b.await("p", is(pool.Ready))
	require.Equal(t, digestOf("{}  "), info.ModelDigest)
	require.Equal(t, 1, info.Restarts, "the first one had other bytes than those that were hashed")
}

// LO-807
func TestAPoolsModelInPartsIsWholeOrRefused(t *testing.T) {
	var second string
	b := setup(t, func(b *bundle, o *pool.Options) { _, second = b.splitModel(); o.Specs[0].ModelPath = second }, plain)
	info := b.await("p", is(pool.Ready))
	require.Equal(t, digestOf("{}weights"), info.ModelDigest, "whichever part is named")
	require.Contains(t, info.LogTail[1], "m-00001-of-00002.gguf", "the engine wants the first")

	err := b.m.Reload(t.Context(), "p", pool.Model{Ref: "file:x", Path: second, Digest: digestOf("{}")})
	require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
	require.NoError(t, b.m.Reload(t.Context(), "p", pool.Model{Ref: "file:x", Path: second, Digest: digestOf("{}weights")}))

	lacks := setup(t, func(b *bundle, o *pool.Options) {
		_, second := b.splitModel()
		require.NoError(t, os.Remove(second))
		o.Specs[0].ModelPath = second
	}, plain)
	info = lacks.await("p", is(pool.Failed))
	require.Contains(t, info.LastError, "m-00002-of-00002.gguf, of a model in 2 parts, is missing")
}

// LO-807, LO-205: what the operator's arguments name counts by its bytes, and is looked at, too.
func TestFilesThatArgumentsNameAreInTheFingerprint(t *testing.T) {
	dir := t.TempDir()
	adapter, draft := filepath.Join(dir, "a.gguf"), filepath.Join(dir, "d-00001-of-00002.gguf")
	rest := filepath.Join(dir, "d-00002-of-00002.gguf")
	for _, path := range []string{adapter, draft, rest} {
		write(t, path, "one")
	}
	spec := plain
	spec.Mode, spec.BinaryPath = pool.Binary, os.Args[0]
	log := filepath.Join(dir, "engine.log") // the engine writes it
	write(t, log, "one")
	spec.BinaryArgs = []string{"--lora-scaled", adapter + ":0.5", "--model-draft=" + draft, "--no-file", "--log-file", log, asServer}
	b := setup(t, func(b *bundle, o *pool.Options) { unwatched(o); o.Specs[0].ModelPath = b.model(child{}) }, spec)
	prints := []string{b.await("p", is(pool.Ready)).Fingerprint}
	write(t, log, "one\ntwo")
	lease, err := b.m.Lease("p-0")
	require.NoError(t, err, "what is no model may change")
	lease.Release()
	for i, path := range []string{adapter, draft, rest} {
		write(t, path, "two")
		_, err := b.m.Lease("p-0")
		require.True(t, task.HasCode(err, task.PoolUnready), "%v", err)
		info := b.await("p", func(info pool.Info) bool { return info.State == pool.Ready && info.Restarts == i+1 })
		require.NotContains(t, prints, info.Fingerprint, path)
		prints = append(prints, info.Fingerprint)
	}
	require.NoError(t, os.Remove(rest))
	_, err = b.m.Lease("p-0")
	require.Error(t, err)
	info := b.await("p", is(pool.Failed))
	require.Contains(t, info.LastError, "d-00002-of-00002.gguf")
}

// program copies this test binary, so that a test can change it. It is the same for the system.
func program(t *testing.T, path, more string) {
	t.Helper()
	whole, err := os.ReadFile(os.Args[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+".new", append(whole, more...), 0o700))
	require.NoError(t, os.Rename(path+".new", path))
}

// LO-809: a program that is replaced while its worker runs is another one for the next worker, and for nobody else.
func TestAProgramThatIsReplacedGetsAnotherFingerprint(t *testing.T) {
	for name, c := range map[string]func(o *pool.Options, exe string){
		"built in": func(o *pool.Options, exe string) { o.WorkerExe = exe },
		"llama-server": func(o *pool.Options, exe string) {
			s := &o.Specs[0]
			s.Mode, s.BinaryPath, s.BinaryArgs = pool.Binary, exe, []string{asServer}
		},
	} {
		t.Run(name, func(t *testing.T) {
			exe := filepath.Join(t.TempDir(), "engine")
			program(t, exe, "")
			b := setup(t, func(b *bundle, o *pool.Options) {
				unwatched(o)
				o.Specs[0].ModelPath = b.model(child{})
				c(o, exe)
			}, plain)
			first := b.await("p", is(pool.Ready))
			program(t, exe, "another version")
			lease := b.lease("p-0") // the worker runs the program that it was started from
			require.Equal(t, first.PID, lease.Info().PID)
			require.Equal(t, first.Fingerprint, lease.Info().Fingerprint)
			require.NoError(t, lease.Intact(t.Context()))
			lease.Release()
			restart := func(n int) pool.Info {
				require.NoError(t, unix.Kill(b.m.Infos("p")[0].PID, unix.SIGKILL))
				return b.await("p", func(i pool.Info) bool { return i.State == pool.Ready && i.Restarts == n })
			}
			second := restart(1)
			require.NotEqual(t, first.Fingerprint, second.Fingerprint)
			require.Equal(t, first.ModelDigest, second.ModelDigest)
			require.Equal(t, second.Fingerprint, restart(2).Fingerprint)
			program(t, exe, "")
			require.Equal(t, first.Fingerprint, restart(3).Fingerprint, "the same bytes are the same program")
		})
	}
}
