// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// proofOf reads the only proof bundle of a task. Its id is the digest of its bytes.
func proofOf(t *testing.T, d *daemon.Daemon, taskID string) (text []byte, b *proof.Bundle) {
	t.Helper()
	list, err := d.Client.Get(t.Context(), "/v1/artifacts?kind=proof&task_id="+taskID)
	require.NoError(t, err)
	var found struct {
		Artifacts []struct {
			ID string `json:"id"`
		} `json:"artifacts"`
	}
	require.NoError(t, json.Unmarshal(list, &found))
	require.Len(t, found.Artifacts, 1)
	text, err = d.Client.Get(t.Context(), "/v1/artifacts/"+found.Artifacts[0].ID+"/content")
	require.NoError(t, err)
	sum := sha256.Sum256(text)
	require.Equal(t, "sha256-"+hex.EncodeToString(sum[:]), found.Artifacts[0].ID)
	b, err = proof.Decode(text)
	require.NoError(t, err)
	require.Equal(t, taskID, b.TaskID)
	return text, b
}

// What a record is put back from, and what its proof bundles must then be: byte for byte those of before, with the digest that their receipts say, and a
// replay says match. No file of the artifacts' folder is needed for it.
// OC-CTRL-2067, LO-202
func TestProofsOfARecordThatWasPutBack(t *testing.T) {
	t.Parallel()
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	bin := filepath.Dir(built(t))
	require.NoError(t, process.Build(t.Context(), "../..", bin+"/", "./cmd/llama-orch"))
	model, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	l := process.NewLauncher()
	t.Cleanup(l.Close)
	env := map[string]string{provision.EnvEngineLibs: libs}
	// serve starts a daemon on a folder that may have a record.
	serve := func(t *testing.T, dir string) *daemon.Daemon {
		t.Helper()
		config := filepath.Join(dir, "config.yaml")
		require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
artifacts: {keep_prompts: true}
sampler_profiles: {v1: {temperature: 0.8}}
pools:
  - {id: only, model: {id: m, ref: "file:%[1]s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
  - {id: slow, model: {id: m, ref: "file:%[1]s"}, device: cpu, ctx: 256, sampler_profile: v1, pace: 4, provisioning: {mode: builtin}}
`, model), 0o600))
		d, err := daemon.Start(t.Context(), l, daemon.Options{Config: config, Options: process.Options{
			Exe: filepath.Join(bin, "orchestratord"), Args: []string{"--no-self-test"}, Env: process.Env(dir, env),
		}})
		require.NoError(t, err)
		t.Cleanup(d.Kill)
		return d
	}
	run := func(t *testing.T, d *daemon.Daemon, name string, args ...string) string {
		t.Helper()
		p, err := l.Start(process.Options{Name: name, Exe: filepath.Join(bin, name), Args: args, Env: append(process.Env(t.TempDir(), env), "LLORCH_ADDR="+d.URL)})
		require.NoError(t, err)
		code, err := p.Exit()
		require.NoError(t, err)
		require.Zero(t, code, p.Tail(20))
		return p.Output()
	}
	submit := func(t *testing.T, d *daemon.Daemon, pool, more string) *client.Stream {
		t.Helper()
		_, err := d.Idle(t.Context(), pool)
		require.NoError(t, err)
		a, err := d.Client.Submit(t.Context(), fmt.Appendf(nil,
			`{"model_ref":"m","workload":"completion","prompt":"A haiku about \"seven\" <é>.\n\n","max_tokens":24,"seed":7,"placement":{"mode":"pin","pool_id":%q},%s}`, pool, more))
		require.NoError(t, err)
		s, err := d.Client.Open(t.Context(), a.TaskID)
		require.NoError(t, err)
		return s
	}

	dir := t.TempDir()
	data := filepath.Join(dir, "state")
	d := serve(t, dir)
	strict, loose := submit(t, d, "only", `"determinism":"strict"`), submit(t, d, "only", `"determinism":"best_effort"`)
	require.NoError(t, strict.Rest())
	require.NoError(t, loose.Rest())
	cut := submit(t, d, "slow", `"determinism":"strict"`)
	for len(cut.Tokens) < 2 {
		_, err := cut.Next()
		require.NoError(t, err)
	}
	_, err = d.Client.Cancel(t.Context(), cut.Start.TaskID)
	require.NoError(t, err)
	require.NoError(t, cut.Rest())
	before := map[string][]byte{}
	for _, s := range []*client.Stream{strict, loose, cut} {
		text, b := proofOf(t, d, s.Start.TaskID)
		before[s.Start.TaskID] = text
		require.Equal(t, proof.Digest([]byte(s.Text())), b.Transcript.SHA256)
		require.Len(t, s.Text(), b.Transcript.Bytes)
		require.Equal(t, s.End != nil, b.Receipt != nil)
		if s.End != nil {
			require.Equal(t, s.End.Receipt.TranscriptSHA256, b.Receipt.TranscriptSHA256)
			require.Equal(t, b.Transcript.SHA256, b.Receipt.TranscriptSHA256)
		}
	}

	// What there is to put back, taken while the daemon runs and nothing is written.
	copied := map[string][]byte{}
	for _, name := range []string{"state.db", "state.db-wal"} {
		copied[name], err = os.ReadFile(filepath.Join(data, name))
		require.NoError(t, err)
	}
	require.NotEmpty(t, copied["state.db-wal"], "the latest writes are there alone")
	backup := filepath.Join(t.TempDir(), "backup.db")
	run(t, d, "orchestratord", "ledger", "backup", "--config", filepath.Join(dir, "config.yaml"), backup)
	whole, err := os.ReadFile(backup)
	require.NoError(t, err)

	// A best-effort task is lost by the kill, and a strict one goes on behind it.
	lost, again := submit(t, d, "slow", `"determinism":"best_effort"`), submit(t, d, "only", `"determinism":"strict"`)
	for len(lost.Tokens) < 1 {
		_, err := lost.Next()
		require.NoError(t, err)
	}
	_, err = again.Next()
	require.NoError(t, err)
	d.Kill()
	for _, put := range []struct {
		what  string
		files map[string][]byte // below the data folder; nil: everything is as the kill left it
	}{
		{"the file, and the writes beside it", copied},
		{"a backup", map[string][]byte{"state.db": whole}},
		{"a backup, and artifacts that are not those of before", map[string][]byte{"state.db": whole, "artifacts/sha256/00/stray": []byte("x")}},
		{"nothing: it was killed", nil},
	} {
		t.Run(put.what, func(t *testing.T) {
			to := dir
			if put.files != nil {
				to = t.TempDir()
			}
			for name, content := range put.files {
				path := filepath.Join(to, "state", filepath.FromSlash(name))
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
				require.NoError(t, os.WriteFile(path, content, 0o600))
			}
			d := serve(t, to)
			for id, want := range before {
				got, _ := proofOf(t, d, id)
				require.Equal(t, string(want), string(got))
			}
			for _, pool := range []string{"only", "slow"} {
				_, err := d.Idle(t.Context(), pool)
				require.NoError(t, err)
			}
			for _, s := range []*client.Stream{strict, loose, cut} {
				require.Contains(t, run(t, d, "llama-orch", "replay", s.Start.TaskID), "match: ")
			}
			if put.files == nil {
				s, err := d.Client.Open(t.Context(), lost.Start.TaskID)
				require.NoError(t, err)
				require.NoError(t, s.Rest())
				require.Equal(t, "WORKER_RESET", s.Fail.Code)
				_, b := proofOf(t, d, lost.Start.TaskID)
				require.Nil(t, b.Receipt)
				require.Equal(t, "failed", b.Outcome)
				require.Equal(t, "WORKER_RESET", b.Error.Code)

				s, err = d.Client.Open(t.Context(), again.Start.TaskID)
				require.NoError(t, err)
				require.NoError(t, s.Rest())
				require.Equal(t, strict.Text(), s.Text())
				_, b = proofOf(t, d, again.Start.TaskID)
				require.Equal(t, s.End.Receipt.TranscriptSHA256, b.Receipt.TranscriptSHA256)
				require.Equal(t, b.Transcript.SHA256, b.Receipt.TranscriptSHA256)
				require.Contains(t, run(t, d, "llama-orch", "replay", again.Start.TaskID), "match: ")
			}
			code, err := d.Stop(syscall.SIGTERM)
			require.NoError(t, err)
			require.Zero(t, code)
		})
	}
}
