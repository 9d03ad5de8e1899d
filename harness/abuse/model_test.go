// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// haikuTask is a task for the bundled model, however its pool is called.
const haikuTask = `{"model_ref":"m","workload":"completion","prompt":"Write a haiku about rain containing \"seven\".\n\n","max_tokens":32,"seed":7,
	"determinism":"strict","placement":{"mode":"pin","pool_id":%q}}`

// answers has a pool run a task, as soon as it takes one, to its end.
func answers(t *testing.T, d *daemon.Daemon, pool string) *client.Stream {
	t.Helper()
	var admitted client.Admission
	require.NoError(t, watch.Poll(t.Context(), "an admission by pool "+pool, func() (err error) {
		admitted, err = d.Client.Submit(t.Context(), fmt.Appendf(nil, haikuTask, pool))
		var refused *client.RefusedError
		if errors.As(err, &refused) && refused.Status == 503 {
			return err
		}
		return watch.Never(err)
	}), d.Tail(40))
	s, err := d.Client.Open(t.Context(), admitted.TaskID)
	require.NoError(t, err)
	require.NoError(t, s.Rest())
	return s
}

// sumOf is the digest of files, one behind the other.
func sumOf(t *testing.T, files ...string) string {
	t.Helper()
	hash := sha256.New()
	for _, name := range files {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		hash.Write(content)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}

// What is done to the files of a model while a worker has it loaded, and what the next task's receipt must say: the bytes that are there, under a
// fingerprint of their own. The model is in two parts, and mostly it is the second one that changes.
// LO-807, LO-808
func TestModelsThatChangeWhileTheyAreServed(t *testing.T) {
	t.Parallel()
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	dir := t.TempDir()
	parts, err := standin.Split("../../models/haiku/haiku.gguf", filepath.Join(dir, "haiku.gguf"))
	require.NoError(t, err)
	good, err := os.ReadFile(parts[1])
	require.NoError(t, err)
	other := bytes.Clone(good)
	clear(other[len(other)/2 : len(other)/2+4000])
	d, c := serveWith(t, built(t), fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%[1]s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
  - {id: slow, model: {id: m, ref: "file:%[1]s"}, device: cpu, ctx: 256, sampler_profile: v1, pace: 4, provisioning: {mode: builtin}}
`, parts[1]), map[string]string{provision.EnvEngineLibs: libs})
	_, err = d.Idle(t.Context(), "only")
	require.NoError(t, err)
	put := func(t *testing.T, content []byte) { require.NoError(t, os.WriteFile(parts[1], content, 0o600)) }

	first := answers(t, d, "only")
	require.NotNil(t, first.End)
	require.Equal(t, sumOf(t, parts...), first.End.Receipt.ModelDigest, "both parts, though the configuration names the second")
	require.Contains(t, first.Text(), "seven")
	for _, sent := range []struct {
		what string
		do   func(t *testing.T)
		same bool // as at first: fingerprint and text
	}{
		{"4,000 bytes overwritten", func(t *testing.T) { put(t, other) }, false},
		{"the old bytes again", func(t *testing.T) { put(t, good) }, true},
		{"overwritten, and the time set back", func(t *testing.T) {
			at, err := os.Stat(parts[1])
			require.NoError(t, err)
			put(t, other)
			require.NoError(t, os.Chtimes(parts[1], at.ModTime(), at.ModTime()))
		}, false},
		{"another file in its place", func(t *testing.T) {
			require.NoError(t, os.WriteFile(parts[1]+".new", good, 0o600))
			require.NoError(t, os.Rename(parts[1]+".new", parts[1]))
		}, true},
		{"cut short, and whole again after the worker fell over it", func(t *testing.T) {
			put(t, good[:len(good)/2])
			require.NoError(t, watch.Poll(t.Context(), "a loss", func() error {
				all, err := d.Replicas(t.Context(), "only")
				if err != nil || all[0].State == "ready" {
					return errors.Join(errors.New("it is ready"), err)
				}
				return nil
			}))
			put(t, good)
		}, true},
		{"removed, and put back", func(t *testing.T) { require.NoError(t, os.Remove(parts[1])); put(t, other) }, false},
		{"the good one again", func(t *testing.T) { put(t, good) }, true},
	} {
		t.Run(sent.what, func(t *testing.T) {
			sent.do(t)
			s := answers(t, d, "only")
			require.NotNil(t, s.End, "%+v\n%s", s.Fail, d.Tail(40))
			r := s.End.Receipt
			require.Equal(t, sumOf(t, parts...), r.ModelDigest)
			require.Equal(t, sent.same, r.Fingerprint == first.End.Receipt.Fingerprint)
			require.Equal(t, sent.same, s.Text() == first.Text())
			require.Equal(t, first.End.Receipt.RequestDigest, r.RequestDigest)
			readable(t, c)
		})
	}

	// A task that runs meanwhile has no receipt.
	_, err = d.Idle(t.Context(), "slow")
	require.NoError(t, err)
	admitted, err := d.Client.Submit(t.Context(), fmt.Appendf(nil, haikuTask, "slow"))
	require.NoError(t, err)
	s, err := d.Client.Open(t.Context(), admitted.TaskID)
	require.NoError(t, err)
	for len(s.Tokens) < 2 {
		_, err := s.Next()
		require.NoError(t, err)
	}
	put(t, other)
	require.NoError(t, s.Rest())
	require.Nil(t, s.End)
	require.Equal(t, "WORKER_RESET", s.Fail.Code)
	require.True(t, s.Fail.Retriable)
	require.Contains(t, s.Fail.Message, "changed while the task ran")
	again := answers(t, d, "slow")
	require.Equal(t, sumOf(t, parts...), again.End.Receipt.ModelDigest)
}

// What is replaced of an engine while the daemon runs, and what becomes of its workers: the one that runs goes on, and the next one has another
// fingerprint.
// LO-809
func TestEnginesThatAreReplacedWhileTheyRun(t *testing.T) {
	from, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	libs, exe := t.TempDir(), built(t)
	require.NoError(t, os.CopyFS(libs, os.DirFS(from)))
	library, err := filepath.EvalSymlinks(filepath.Join(libs, "libllama.so"))
	require.NoError(t, err)
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	d, _ := serveWith(t, exe, fmt.Sprintf(`
  - {id: only, model: {id: m, ref: "file:%s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
`, model), map[string]string{provision.EnvEngineLibs: libs})
	first := answers(t, d, "only").End.Receipt
	seen := []string{first.Fingerprint}
	for name, path := range map[string]string{"a library": library, "the daemon's own program, by an upgrade": exe} {
		t.Run(name, func(t *testing.T) {
			was, workers := seen[len(seen)-1], d.Workers()
			require.Len(t, workers, 1)
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path+".new", append(content, "another version"...), 0o700))
			require.NoError(t, os.Rename(path+".new", path))
			require.Equal(t, was, answers(t, d, "only").End.Receipt.Fingerprint, "the worker runs what it has loaded")
			require.NoError(t, syscall.Kill(workers[0].Pid, syscall.SIGKILL))
			require.NoError(t, watch.Poll(t.Context(), "another worker", func() error {
				all, err := d.Replicas(t.Context(), "only")
				if err != nil || all[0].State != "ready" || all[0].Fingerprint == was {
					return errors.Join(errors.New("it is not there"), err)
				}
				return nil
			}))
			r := answers(t, d, "only").End.Receipt
			require.NotContains(t, seen, r.Fingerprint)
			require.Equal(t, first.EngineVersion, r.EngineVersion)
			require.Equal(t, first.TranscriptSHA256, r.TranscriptSHA256)
			seen = append(seen, r.Fingerprint)
		})
	}
}
