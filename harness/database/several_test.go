// SPDX-License-Identifier: GPL-3.0-or-later

package database_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// host starts a daemon of its own folder, with these pools. A pool whose name begins with slow takes its time.
func (r *rig) host(name string, pools ...string) *daemon.Daemon {
	r.t.Helper()
	return r.hostIn(r.t.TempDir(), name, pools...)
}

func (r *rig) hostIn(dir, name string, pools ...string) *daemon.Daemon {
	r.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
hosts: {name: %s, lease: 2s}
sampler_profiles: {v1: {temperature: 0.8}}
ledger: {postgres: {dsn_env: THE_DSN, schema: tasks, connections: 4}}
pools:
`, name)
	for _, p := range pools {
		pace := ""
		if strings.HasPrefix(p, "slow") {
			pace = "pace: 10, "
		}
		fmt.Fprintf(&text, "  - {id: %s, model: {id: m-%[1]s, ref: \"file:%s\"}, device: cpu, ctx: 256, sampler_profile: v1, %sprovisioning: {mode: builtin}}\n", p, r.lab.Model, pace)
	}
	at := filepath.Join(dir, "host.yaml")
	require.NoError(r.t, os.WriteFile(at, []byte(text.String()), 0o600))
	d, err := r.lab.Serve(r.t.Context(), daemon.Options{Config: at, Options: process.Options{Name: name, Args: []string{"--no-self-test"}, Env: r.env(dir)}})
	require.NoError(r.t, err)
	r.t.Cleanup(d.Kill)
	for _, pool := range pools {
		_, err := d.Idle(r.t.Context(), pool)
		require.NoError(r.t, err)
	}
	return d
}

func (r *rig) ask(d *daemon.Daemon, id, pool string) error {
	_, err := d.Client.Submit(r.t.Context(), fmt.Appendf(nil, `{"task_id":%q,"model_ref":"m-%s","prompt":"A haiku about \"seven\".\n\n","max_tokens":24,"seed":7}`, id, pool))
	return err
}

// holders are the names of the hosts that hold the pools, as a daemon says.
func (r *rig) holders(d *daemon.Daemon) map[string]string {
	r.t.Helper()
	data, err := d.Client.Get(r.t.Context(), "/v1/hosts")
	require.NoError(r.t, err)
	var list struct {
		Hosts []struct {
			Name  string
			Up    bool
			Pools []struct {
				ID    string `json:"pool_id"`
				Holds bool
			}
		}
	}
	require.NoError(r.t, json.Unmarshal(data, &list))
	held := map[string]string{}
	for _, h := range list.Hosts {
		for _, p := range h.Pools {
			if p.Holds {
				require.True(r.t, h.Up)
				require.Empty(r.t, held[p.ID], "one host at a time")
				held[p.ID] = h.Name
			}
		}
	}
	return held
}

// LO-710, LO-711, LO-712: two daemons with other pools share a database. Each serves its own, and shows what the other has.
func TestTwoDaemonsShareADatabase(t *testing.T) {
	r := newRig(t)
	a, b := r.host("attic", "fast-a"), r.host("cellar", "fast-b")
	require.NoError(t, r.ask(a, "one", "fast-a"))
	require.NoError(t, r.ask(b, "two", "fast-b"))
	require.Equal(t, r.end(a, "one"), r.end(b, "two"))
	require.Equal(t, r.end(b, "one"), r.end(a, "two"), "any daemon has what ended")
	for _, d := range []*daemon.Daemon{a, b} {
		require.Equal(t, map[string]string{"fast-a": "attic", "fast-b": "cellar"}, r.holders(d))
	}
	a.Kill()
	require.NoError(t, watch.Poll(t.Context(), "the end of the lease", func() error {
		if held := r.holders(b); held["fast-a"] != "" {
			return fmt.Errorf("%v", held)
		}
		return nil
	}))
	require.NoError(t, r.ask(b, "three", "fast-b"))
	r.end(b, "three")
}

// LO-715, LO-716: a client that knows one daemon uses the pools of all: it submits, streams, looks, lists and cancels there. The same task to the other daemon is the same task.
func TestAnyDaemonTakesAnyRequest(t *testing.T) {
	r := newRig(t)
	a, b := r.host("attic", "slow"), r.host("cellar", "fast")
	require.NoError(t, watch.Poll(t.Context(), "the look at each other", func() error { return r.ask(b, "first", "slow") }))
	require.NoError(t, r.ask(a, "first", "slow"), "the same again, where it runs")
	require.NoError(t, r.ask(b, "first", "slow"), "and where it was sent")
	s := r.open(b, "first")
	tokens(t, s, 2)
	data, err := b.Client.Get(t.Context(), "/v1/tasks?limit=10")
	require.NoError(t, err)
	require.Contains(t, string(data), `"first"`, "a list has the live tasks of all")
	require.NoError(t, s.Rest())
	require.NotNil(t, s.End)
	got, _ := s.Digest()
	require.NoError(t, r.ask(a, "second", "fast"))
	require.Equal(t, got, r.end(a, "second"))
	require.NoError(t, r.ask(b, "third", "slow"))
	stream := r.open(b, "third")
	tokens(t, stream, 1)
	canceled, err := b.Client.Cancel(t.Context(), "third")
	require.NoError(t, err)
	require.Equal(t, "canceled", canceled.Outcome)
	_, err = b.Client.Post(t.Context(), "/v1/chat/completions", []byte(`{"model":"m-slow","messages":[{"role":"user","content":"hi"}],"max_tokens":2}`), 200)
	require.NoError(t, err)
	_, err = b.Client.Get(t.Context(), "/v1/pools/slow/health")
	require.NoError(t, err)
}

// LO-711, LO-714, LO-715, LO-720: a daemon with the same pool stands by. When the first is killed it takes the queue: what ran is decoded again with the same bytes, what waited keeps
// its order, and the next life of the first stands by.
func TestAKilledDaemonIsTakenOver(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	a := r.hostIn(dir, "attic", "slow", "fast")
	require.NoError(t, r.ask(a, "before", "fast"))
	sum := r.end(a, "before")
	b := r.host("cellar", "slow")
	ids := []string{"slow-0", "slow-1", "slow-2"}
	for _, id := range ids {
		require.NoError(t, r.ask(a, id, "slow"))
	}
	var through *client.Stream
	require.NoError(t, watch.Poll(t.Context(), "a stream through the other host", func() (err error) {
		through, err = b.Client.Open(t.Context(), "slow-0")
		return err
	}))
	tokens(t, through, 3)
	a.Kill()
	require.NoError(t, through.Rest(), "for its reader it is one stream")
	require.NotNil(t, through.End, "%+v", through.Fail)
	got, _ := through.Digest()
	require.Equal(t, sum, got, "with the same bytes")
	require.NoError(t, watch.Poll(t.Context(), "a takeover", func() error {
		if held := r.holders(b); held["slow"] != "cellar" {
			return fmt.Errorf("%v", held)
		}
		return nil
	}))
	for _, id := range ids {
		require.Equal(t, sum, r.end(b, id))
	}
	var ended time.Time
	for _, id := range ids {
		data, err := b.Client.Get(t.Context(), "/v1/tasks/"+id)
		require.NoError(t, err)
		var status struct {
			FinishedAt time.Time `json:"finished_at"`
		}
		require.NoError(t, json.Unmarshal(data, &status))
		require.True(t, status.FinishedAt.After(ended), "in their order")
		ended = status.FinishedAt
	}
	require.Equal(t, sum, r.end(b, "before"))
	a = r.hostIn(dir, "attic", "slow", "fast")
	require.Equal(t, map[string]string{"slow": "cellar", "fast": "attic"}, r.holders(a))
	code, err := b.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code, b.Tail(20))
	require.NoError(t, watch.Poll(t.Context(), "the pool's way back", func() error { return r.ask(a, "after", "slow") }))
	require.Equal(t, sum, r.end(a, "after"))
}

// LO-702, LO-714, LO-720: a daemon that was stopped for longer than its lease makes nothing durable when it goes on: it says that its tasks are another's, and ends.
func TestADaemonThatHangsIsFenced(t *testing.T) {
	r := newRig(t)
	a := r.host("attic", "slow")
	b := r.host("cellar", "slow")
	require.NoError(t, r.ask(a, "task", "slow"))
	s := r.open(a, "task")
	through := r.open(b, "task")
	tokens(t, through, 2)
	tokens(t, s, 2)
	require.NoError(t, syscall.Kill(a.Pid(), syscall.SIGSTOP))
	require.NoError(t, watch.Poll(t.Context(), "a takeover", func() error {
		if held := r.holders(b); held["slow"] != "cellar" {
			return fmt.Errorf("%v", held)
		}
		return nil
	}))
	sum := r.end(b, "task")
	require.NoError(t, through.Rest(), "nobody tells it that the daemon hangs, and it goes on all the same")
	got, _ := through.Digest()
	require.Equal(t, sum, got)
	require.NoError(t, syscall.Kill(a.Pid(), syscall.SIGCONT))
	code, err := a.Exit()
	require.NoError(t, err)
	require.NotZero(t, code)
	require.Contains(t, a.Output(), "another orchestratord has taken the tasks of this one")
	require.Equal(t, sum, r.end(b, "task"))
	require.NoError(t, r.ask(b, "next", "slow"))
	require.Equal(t, sum, r.end(b, "next"))
}

// LO-721: daemons are restarted one after the other under clients that read through the other one. Each gives its queue up as it stops, and the other one goes on at once: with the
// same bytes, in the same order, and nobody is refused.
func TestARollingRestartLosesNothing(t *testing.T) {
	r := newRig(t)
	dirs := map[string]string{"attic": t.TempDir(), "cellar": t.TempDir()}
	a := r.hostIn(dirs["attic"], "attic", "slow")
	require.NoError(t, r.ask(a, "undisturbed", "slow"))
	sum := r.end(a, "undisturbed")
	b := r.hostIn(dirs["cellar"], "cellar", "slow")
	ids := []string{"t-0", "t-1", "t-2", "t-3"}
	streams := map[string]*client.Stream{}
	for _, id := range ids {
		require.NoError(t, r.ask(a, id, "slow"))
	}
	for _, id := range ids[:2] {
		require.NoError(t, watch.Poll(t.Context(), "a stream through the other host", func() (err error) {
			streams[id], err = b.Client.Open(t.Context(), id)
			return err
		}))
	}
	tokens(t, streams["t-0"], 3)
	asked := time.Now()
	code, err := a.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code, a.Tail(20))
	t.Logf("the first one stopped in %s", time.Since(asked))
	tokens(t, streams["t-0"], 1)
	t.Logf("the next token came %s after the signal", time.Since(asked))
	a = r.hostIn(dirs["attic"], "attic", "slow")
	for _, id := range ids[2:] {
		require.NoError(t, watch.Poll(t.Context(), "a stream through the host that was restarted", func() (err error) {
			streams[id], err = a.Client.Open(t.Context(), id)
			return err
		}))
	}
	require.NoError(t, streams["t-0"].Rest())
	require.NoError(t, streams["t-1"].Rest())
	tokens(t, streams["t-2"], 3)
	code, err = b.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code, b.Tail(20))
	for _, id := range ids[2:] {
		require.NoError(t, streams[id].Rest())
	}
	for _, id := range ids {
		require.NotNil(t, streams[id].End, "%s: %+v", id, streams[id].Fail)
		got, _ := streams[id].Digest()
		require.Equal(t, sum, got)
	}
}
