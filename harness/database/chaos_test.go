// SPDX-License-Identifier: GPL-3.0-or-later

//go:build hosts

package database_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/postgres"
	"github.com/llama-orch/llama-orch/harness/process"
)

// member is one of three daemons with the same two pools, and its own way to the database.
type member struct {
	r    *rig
	name string
	dir  string
	way  *postgres.Proxy
	at   atomic.Pointer[daemon.Daemon]
}

func (r *rig) member(name string) *member {
	r.t.Helper()
	way, err := postgres.NewProxy(r.db.Port)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, way.Close()) })
	m := &member{r: r, name: name, dir: r.t.TempDir(), way: way}
	require.NoError(r.t, os.WriteFile(filepath.Join(m.dir, "host.yaml"), fmt.Appendf(nil, `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
hosts: {name: %s, lease: 2s}
sampler_profiles: {v1: {temperature: 0.8}}
ledger: {postgres: {dsn_env: THE_DSN, schema: tasks, connections: 4}}
pools:
  - {id: one, model: {id: m-one, ref: "file:%[2]s"}, device: cpu, ctx: 256, sampler_profile: v1, pace: 30, provisioning: {mode: builtin}}
  - {id: two, model: {id: m-two, ref: "file:%[2]s"}, device: cpu, ctx: 256, sampler_profile: v1, pace: 30, provisioning: {mode: builtin}}
`, name, r.lab.Model), 0o600))
	require.NoError(r.t, m.start())
	return m
}

func (m *member) start() error {
	d, err := m.r.lab.Serve(m.r.t.Context(), daemon.Options{Config: filepath.Join(m.dir, "host.yaml"), Options: process.Options{
		Name: m.name, Args: []string{"--no-self-test", "--stop-within", "4s"}, Env: m.r.lab.Env(m.dir, map[string]string{"THE_DSN": m.r.db.TCP(m.way.Port)}),
	}})
	if err != nil {
		return err
	}
	m.r.t.Cleanup(d.Kill)
	m.at.Store(d)
	for _, pool := range []string{"one", "two"} {
		if _, err := d.Idle(m.r.t.Context(), pool); err != nil {
			return err
		}
	}
	return nil
}

// again starts a daemon that has ended. One whose pools another one has taken needs a moment for that.
func (m *member) again() error {
	if m.at.Load().Ended() {
		return m.start()
	}
	return nil
}

// ended is what a client knows of a task of its own.
type ended struct {
	id     string
	seed   int
	strict bool
	body   []byte
	log    *client.Log
	lost   string          // what it was told of a best-effort task of which it had more than the record has
	hosts  map[string]bool // through which it read
}

// field is three daemons, and clients that know all three.
type field struct {
	members []*member
	mu      sync.Mutex
	random  *rand.Rand
	refused atomic.Int64
	resumed atomic.Int64
}

func (f *field) intN(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(n)
}

func (f *field) any() *member { return f.members[f.intN(len(f.members))] }

// pause is what a client waits before it tries again elsewhere.
func pause(ctx context.Context) error {
	select {
	case <-time.After(100 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// task submits a task until somebody accepts it, and reads its events to its end, each time at whichever daemon.
func (f *field) task(ctx context.Context, id, pool string, seed int, strict bool) (ended, error) {
	e := ended{id: id, seed: seed, strict: strict, log: client.NewLog(), hosts: map[string]bool{}}
	how := map[bool]string{true: "strict", false: "best_effort"}[strict]
	body := fmt.Appendf(nil, `{"task_id":%q,"model_ref":"m-%s","prompt":"A haiku about \"seven\".\n\n","max_tokens":24,"seed":%d,"determinism":%q}`, id, pool, seed, how)
	e.body = body
	for {
		_, err := f.any().at.Load().Client.Submit(ctx, body)
		if err == nil {
			break
		}
		var refused *client.RefusedError
		if errors.As(err, &refused) && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusTooManyRequests {
			return e, fmt.Errorf("submit %s: %w", id, err)
		}
		f.refused.Add(1)
		if err := pause(ctx); err != nil {
			return e, err
		}
	}
	last := ""
	for tries := 0; !e.log.Over(); tries++ {
		m := f.any()
		frames, err := m.at.Load().Client.Follow(ctx, id, last, false)
		if err != nil {
			var refused *client.RefusedError
			if errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
				return e, fmt.Errorf("follow %s, which was accepted, behind %q at %s: %w", id, last, m.name, err)
			}
			if err := pause(ctx); err != nil {
				return e, err
			}
			continue
		}
		if tries > 0 {
			f.resumed.Add(1)
		}
		e.hosts[m.name] = true
		for !e.log.Over() {
			event, err := frames.Next()
			if err != nil || event.Aside() && strings.Contains(event.Data, "SHUTTING_DOWN") {
				break
			}
			if event.Aside() { // the client has more than the record: the task was lost, and it is told so
				e.lost = event.Data
				frames.Close()
				return e, nil
			}
			if err := e.log.Take(event); err != nil {
				frames.Close()
				return e, fmt.Errorf("%s behind %q at %s: %w", id, last, m.name, err)
			}
			if event.ID != "" {
				last = event.ID
			}
		}
		frames.Close()
	}
	return e, nil
}

// LO-730: three daemons serve two pools on one database. One after the other is killed, stopped for longer than its lease, restarted, and cut off from the database, which is
// killed too. Clients submit and read at whichever daemon answers. From what they saw alone: each accepted task has one end, which all daemons tell alike, also to who
// submits it once more, and strict ones have the bytes of an undisturbed run.
func TestThreeDaemonsInTrouble(t *testing.T) {
	const seeds, clients = 4, 4
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := newRig(t)
	f, trouble := &field{random: rand.New(rand.NewPCG(seed, 1))}, rand.New(rand.NewPCG(seed, 2))
	f.members = append(f.members, r.member("attic"))
	sums := map[int]string{}
	for n := range seeds {
		e, err := f.task(t.Context(), fmt.Sprint("calm-", n), "one", n, true)
		require.NoError(t, err)
		require.NotNil(t, e.log.End)
		sums[n], _ = e.log.Digest()
	}
	f.members = append(f.members, r.member("barn"), r.member("cellar"))

	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	over := make(chan struct{})
	var mu sync.Mutex
	var all []ended
	var busy sync.WaitGroup
	for c := range clients {
		busy.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				e, err := f.task(ctx, fmt.Sprintf("c%d-%d", c, n), []string{"one", "two"}[f.intN(2)], f.intN(seeds), f.intN(5) > 0)
				mu.Lock()
				all = append(all, e)
				mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", e.id, err)
					for _, m := range f.members {
						d := m.at.Load()
						for _, path := range []string{"/v1/hosts", "/v1/tasks/" + e.id} {
							data, err := d.Client.Get(t.Context(), path)
							t.Logf("%s says of %s: %s %v", m.name, path, data, err)
						}
						t.Logf("%s: %s", m.name, d.Tail(30))
					}
					return
				}
			}
		})
	}
	const long = 3 * time.Second // longer than a lease
	faults := map[string]func(m *member) error{
		"SIGKILL": func(m *member) error {
			m.at.Load().Kill()
			return m.start()
		},
		"SIGSTOP for longer than the lease": func(m *member) error {
			if err := m.at.Load().Signal(syscall.SIGSTOP); err != nil {
				return err
			}
			time.Sleep(long) // this is what the test is about
			return m.at.Load().Signal(syscall.SIGCONT)
		},
		"SIGTERM": func(m *member) error {
			if _, err := m.at.Load().Stop(syscall.SIGTERM); err != nil {
				return err
			}
			return m.start()
		},
		"no way to the database for longer than the lease": func(m *member) error {
			m.way.Cut(true)
			time.Sleep(long) // so is this
			m.way.Cut(false)
			return nil
		},
		"the database is killed": func(*member) error { return errors.Join(r.db.Kill(), r.db.Start()) },
	}
	names := slices.Sorted(maps.Keys(faults))
	for range 2 {
		trouble.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			m := f.members[trouble.IntN(len(f.members))]
			began := time.Now()
			require.NoError(t, m.again())
			require.NoError(t, faults[name](m), "%s: %s", m.name, name)
			t.Logf("%s: %s, %s", m.name, name, time.Since(began).Round(time.Millisecond))
			time.Sleep(time.Second) // for what goes on undisturbed
		}
	}
	close(over)
	busy.Wait()
	require.False(t, t.Failed())
	time.Sleep(long) // a daemon that another one has fenced needs a moment to end
	for _, m := range f.members {
		require.NoError(t, m.again())
	}

	strict, elsewhere, reset := 0, 0, 0
	for _, e := range all {
		if len(e.hosts) > 1 {
			elsewhere++
		}
		sum, _ := e.log.Digest()
		switch {
		case e.strict:
			strict++
			require.NotNil(t, e.log.End, "%s: %+v", e.id, e.log.Fail)
			require.Equal(t, sums[e.seed], sum, e.id)
		case e.lost != "":
			reset++
			require.Contains(t, e.lost, "WORKER_RESET", e.id)
		case e.log.Fail != nil:
			reset++
			require.Contains(t, []string{"WORKER_RESET", "SHUTTING_DOWN"}, e.log.Fail.Code, e.id)
		default:
			require.Equal(t, sums[e.seed], sum, e.id)
		}
		again, err := f.any().at.Load().Client.Submit(t.Context(), e.body)
		require.NoError(t, err, "%s, which has ended, is submitted once more", e.id)
		require.Equal(t, e.id, again.TaskID)
		told := map[string]bool{}
		for _, m := range f.members {
			data, err := m.at.Load().Client.Get(t.Context(), "/v1/tasks/"+e.id)
			require.NoError(t, err, e.id)
			var status struct {
				State      string    `json:"state"`
				FinishedAt time.Time `json:"finished_at"`
			}
			require.NoError(t, json.Unmarshal(data, &status))
			told[fmt.Sprint(status)] = true
			require.Equal(t, map[bool]string{true: "completed", false: "failed"}[e.log.End != nil], status.State, e.id)
		}
		require.Len(t, told, 1, "%s: one end, which all daemons tell alike", e.id)
	}
	t.Logf("%d tasks, %d of them strict with the undisturbed bytes; %d read at more than one daemon; %d best-effort ones lost their worker; %d submits refused, %d streams resumed",
		len(all), strict, elsewhere, reset, f.refused.Load(), f.resumed.Load())
	require.Greater(t, strict, 10)
	require.Positive(t, f.resumed.Load())
}
