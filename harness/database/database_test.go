// SPDX-License-Identifier: GPL-3.0-or-later

package database_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/postgres"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// rig is a database, and the daemons that use it.
type rig struct {
	t   *testing.T
	lab *daemon.Lab
	db  *postgres.Server
}

func newRig(t *testing.T) *rig {
	t.Helper()
	db, err := postgres.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	return &rig{t, lab, db}
}

// config writes a configuration of a data folder, with the record in the database or not.
func (r *rig) config(dir string, database bool) string {
	r.t.Helper()
	name, ledger := "file.yaml", ""
	if database {
		name, ledger = "database.yaml", "ledger: {postgres: {dsn_env: THE_DSN, schema: tasks, connections: 4}}\n"
	}
	at := filepath.Join(dir, name)
	require.NoError(r.t, os.WriteFile(at, fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
sampler_profiles: {v1: {temperature: 0.8}}
%spools:
  - {id: fast, model: {id: m, ref: "file:%[2]s"}, device: cpu, ctx: 256, sampler_profile: v1, provisioning: {mode: builtin}}
  - {id: slow, model: {id: m, ref: "file:%[2]s"}, device: cpu, ctx: 256, sampler_profile: v1, pace: 5, provisioning: {mode: builtin}}
`, ledger, r.lab.Model), 0o600))
	return at
}

func (r *rig) env(dir string) []string {
	return r.lab.Env(dir, map[string]string{"THE_DSN": r.db.TCP(r.db.Port)})
}

func (r *rig) serve(config string) *daemon.Daemon {
	r.t.Helper()
	d, err := r.lab.Serve(r.t.Context(), daemon.Options{Config: config, Options: process.Options{Args: []string{"--no-self-test"}, Env: r.env(filepath.Dir(config))}})
	require.NoError(r.t, err)
	r.t.Cleanup(func() {
		d.Kill()
		require.NotContains(r.t, d.Output(), postgres.Password)
	})
	for _, pool := range []string{"fast", "slow"} {
		_, err := d.Idle(r.t.Context(), pool)
		require.NoError(r.t, err)
	}
	return d
}

// run runs a command to its end, and returns what it said.
func (r *rig) run(want int, args ...string) string {
	r.t.Helper()
	p, err := r.lab.Start(process.Options{Name: strings.Join(args[:2], " "), Exe: r.lab.Program("orchestratord"), Args: args, Env: r.env(r.t.TempDir())})
	require.NoError(r.t, err)
	code, err := p.Exit()
	require.NoError(r.t, err)
	require.Equal(r.t, want, code, p.Tail(20))
	require.NotContains(r.t, p.Output(), postgres.Password)
	return p.Output()
}

func (r *rig) submit(d *daemon.Daemon, id, pool string) error {
	_, err := d.Client.Submit(r.t.Context(), fmt.Appendf(nil,
		`{"task_id":%q,"model_ref":"m","prompt":"A haiku about \"seven\".\n\n","max_tokens":24,"seed":7,"placement":{"mode":"pin","pool_id":%q}}`, id, pool))
	return err
}

func (r *rig) open(d *daemon.Daemon, id string) *client.Stream {
	r.t.Helper()
	s, err := d.Client.Open(r.t.Context(), id)
	require.NoError(r.t, err)
	return s
}

// end reads a task's stream to its end, and returns the SHA-256 of its text, which the receipt has too.
func (r *rig) end(d *daemon.Daemon, id string) string {
	r.t.Helper()
	s := r.open(d, id)
	require.NoError(r.t, s.Rest())
	require.NotNil(r.t, s.End, "%+v", s.Fail)
	sum, _ := s.Digest()
	return sum
}

func tokens(t *testing.T, s *client.Stream, n int) {
	t.Helper()
	for n += len(s.Tokens); len(s.Tokens) < n; {
		_, err := s.Next()
		require.NoError(t, err)
	}
}

// LO-704: a database that goes away under a daemon is what a full disk is. New tasks are refused, a stream goes on, its end is seen when the database is back, and
// nothing has to be done.
func TestTheDatabaseGoesAndComesBack(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	d := r.serve(r.config(dir, true))
	require.NoError(t, r.submit(d, "before", "fast"))
	sum := r.end(d, "before")

	for i, away := range []func(){
		func() { require.NoError(t, r.db.Kill()) },
		func() { require.NoError(t, r.db.Stop()) },
	} {
		id := fmt.Sprint("stream-", i)
		require.NoError(t, r.submit(d, id, "slow"))
		s := r.open(d, id)
		tokens(t, s, 2)
		away()
		tokens(t, s, 3)
		var refused *client.RefusedError
		err := r.submit(d, fmt.Sprint("refused-", i), "fast")
		require.ErrorAs(t, err, &refused)
		require.Equal(t, http.StatusServiceUnavailable, refused.Status)
		require.Equal(t, "LEDGER_UNAVAILABLE", refused.Code)
		_, err = d.Client.Get(t.Context(), "/readyz")
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "LEDGER_UNAVAILABLE", refused.Code)
		tokens(t, s, 1)
		require.NoError(t, r.db.Start())
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
		got, _ := s.Digest()
		require.Equal(t, sum, got, "the same bytes as those of a task that nobody disturbed")
		require.NoError(t, watch.Poll(t.Context(), "an accept", func() error { return r.submit(d, fmt.Sprint("after-", i), "fast") }))
		require.Equal(t, sum, r.end(d, fmt.Sprint("after-", i)))
		_, err = d.Client.Get(t.Context(), fmt.Sprintf("/v1/tasks/refused-%d", i))
		require.ErrorAs(t, err, &refused)
		require.Equal(t, http.StatusNotFound, refused.Status, "a task that was refused is not there")
	}
}

// LO-701, LO-702: a daemon that is killed finds its tasks again at once, and a stream goes on with the same bytes.
func TestTheDaemonIsKilled(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	config := r.config(dir, true)
	d := r.serve(config)
	require.NoError(t, r.submit(d, "fast-0", "fast"))
	sum := r.end(d, "fast-0")
	ids := []string{"slow-0", "slow-1", "slow-2"}
	for _, id := range ids { // one runs, the others wait
		require.NoError(t, r.submit(d, id, "slow"))
	}
	s := r.open(d, "slow-0")
	tokens(t, s, 3)
	d.Kill()
	d = r.serve(config)
	for _, id := range ids {
		require.Equal(t, sum, r.end(d, id))
	}
	code, err := d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code, d.Tail(20))
	other := r.serve(r.config(t.TempDir(), true)) // another host: the first has given up its lease
	require.Equal(t, sum, r.end(other, "slow-1"))
}

// digests are the lines of `ledger move`, without how many rows there are.
var digest = regexp.MustCompile(`(?m)^(\w+) +\d+ rows, SHA-256 ([0-9a-f]{64}) on both sides$`)

// LO-707: the record goes to the database and back, by digests, with tasks that go on.
func TestTheRecordIsMoved(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	inFile, inDatabase := r.config(dir, false), r.config(dir, true)
	d := r.serve(inFile)
	require.NoError(t, r.submit(d, "done", "fast"))
	sum := r.end(d, "done")
	require.NoError(t, r.submit(d, "gone", "fast"))
	require.Equal(t, sum, r.end(d, "gone"))
	for _, id := range []string{"slow-0", "slow-1"} {
		require.NoError(t, r.submit(d, id, "slow"))
	}
	tokens(t, r.open(d, "slow-0"), 2)
	require.Contains(t, r.run(1, "ledger", "move", "--config", inDatabase, "--to", "postgres"), "stop") // a daemon uses it
	require.Contains(t, r.run(1, "ledger", "move", "--config", inDatabase, "--to", "sqlite"), "orchestrat")
	d.Kill()
	require.Contains(t, r.run(1, "serve", "--config", inDatabase), "ledger move --to postgres", "tasks would be forgotten")

	exported := r.run(0, "ledger", "export", "--config", inFile, "--with-text")
	to := digest.FindAllStringSubmatch(r.run(0, "ledger", "move", "--config", inDatabase, "--to", "postgres"), -1)
	require.Len(t, to, 8)
	require.Equal(t, exported, r.run(0, "ledger", "export", "--config", inDatabase, "--with-text"))
	require.Contains(t, r.run(0, "ledger", "check", "--config", inDatabase), "Nothing is damaged.")
	aside, err := filepath.Glob(filepath.Join(dir, "state", "state.db.aside-*"))
	require.NoError(t, err)
	require.NotEmpty(t, aside)

	back := digest.FindAllStringSubmatch(r.run(0, "ledger", "move", "--config", inDatabase, "--to", "sqlite"), -1)
	require.Equal(t, to, back, "what came back is what went")
	require.Equal(t, exported, r.run(0, "ledger", "export", "--config", inFile, "--with-text"))
	require.Contains(t, r.run(0, "ledger", "check", "--config", inFile), "Nothing is damaged.")
	r.run(0, "ledger", "move", "--config", inDatabase, "--to", "postgres")

	d = r.serve(inDatabase)
	require.Equal(t, sum, r.end(d, "done"))
	for _, id := range []string{"slow-0", "slow-1"} {
		require.Equal(t, sum, r.end(d, id))
	}
	require.Contains(t, r.run(0, "ledger", "check", "--config", inDatabase), "Schema 2, 4 tasks: 0 queued 0 running 4 completed") // while it runs
	require.Contains(t, r.run(1, "ledger", "backup", "--config", inDatabase, filepath.Join(dir, "x")), "pg_dump")
	require.Contains(t, r.run(1, "ledger", "move", "--config", inDatabase, "--to", "sqlite"), "orchestrat")
	d.Kill()

	// A ledger that is damaged, or that nobody wants, is set aside, like the file.
	d, err = r.lab.Serve(t.Context(), daemon.Options{Config: inDatabase, Options: process.Options{Args: []string{"--no-self-test", "--ledger-aside"}, Env: r.env(dir)}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	var refused *client.RefusedError
	_, err = d.Client.Get(t.Context(), "/v1/tasks/done")
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusNotFound, refused.Status)
	require.Contains(t, d.Output(), "tasks_aside_")
}

// LO-704, LO-703: a database that is away at the start, and one with another password. The start fails, says what to do, and not the password.
func TestTheDatabaseIsAwayAtTheStart(t *testing.T) {
	r := newRig(t)
	config := r.config(t.TempDir(), true)
	require.NoError(t, r.db.Exec(t.Context(), `ALTER ROLE postgres PASSWORD 'another'`))
	require.Contains(t, r.run(1, "serve", "--config", config), "refuses the user or the password")
	require.NoError(t, r.db.Stop())
	require.Contains(t, r.run(1, "serve", "--config", config), "start the database")
}
