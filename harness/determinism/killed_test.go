// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// kills is how often the daemon is killed.
const kills = 3

// read reads on behind the last event that it has, until the stream's end, or that of a daemon that was killed. Told is called at each token.
func (r *run) read(ctx context.Context, d *life, told func(), killed <-chan struct{}) error {
	after := ""
	if n := len(r.Events); n > 0 {
		after = r.Events[n-1].ID
	}
	frames, err := d.Client.Follow(ctx, r.task, after, false)
	if err != nil {
		return unless(killed, fmt.Errorf("follow task %s: %w", r.task, err))
	}
	defer frames.Close()
	for !r.Over() {
		e, err := frames.Next()
		if err != nil {
			return unless(killed, fmt.Errorf("the stream broke off: %w", err))
		}
		if err := r.Take(e); err != nil {
			return err
		}
		if e.Name == "token" {
			told()
		}
	}
	return nil
}

// unless is err, but for a daemon that was killed: its readers break off, also those that had not connected yet.
func unless(killed <-chan struct{}, err error) error {
	select {
	case <-killed:
		return nil
	default:
		return err
	}
}

// All cases stand in one line, and the daemon is killed again and again in one data folder while two of them run and the others wait. Each client reads
// on in the next life, and ends up with the tokens that a daemon had sent that nobody disturbed. The log of each client checks that the ids go on.
//
// LO-870, LO-204, ORCH-3045
func TestTasksThatAKillHitsHaveTheSameBytes(t *testing.T) {
	for _, e := range engines(t) {
		t.Run(e.name, func(t *testing.T) {
			began := time.Now()
			p := newProof(t.TempDir())
			main := pool{id: "main", replicas: 2, provisioning: e.provisioning}
			calm := serve(t, "undisturbed", shared.config(main), nil)
			var readers []*run
			ready(t, calm, "main")
			tokens := 0
			for _, c := range cases(t) {
				r, err := calm.answer(t.Context(), c, "main", "calm-"+c.Name)
				require.NoError(t, err)
				require.NoError(t, p.add(r))
				tokens += len(r.Tokens)
				read := &run{test: c, pool: "main", task: "killed-" + c.Name, Log: client.NewLog()}
				read.body, err = c.body(read.task, "main")
				require.NoError(t, err)
				readers = append(readers, read)
			}
			_, err := calm.Stop(syscall.SIGTERM)
			require.NoError(t, err)

			if !e.slots { // a llama-server has no brake
				main.more = "pace: 300"
			}
			dir, hit := t.TempDir(), 0
			for killed := 0; killed <= kills; killed++ {
				d, err := shared.serveIn(t.Context(), dir, fmt.Sprintf("behind %d kills", killed), shared.config(main), nil)
				require.NoError(t, err)
				t.Cleanup(d.Kill)
				if killed == 0 {
					ready(t, d, "main")
					for _, r := range readers {
						_, err := d.Client.Submit(t.Context(), r.body)
						require.NoError(t, err)
					}
				}
				readAll(t, d, readers, killed < kills, tokens/(kills+2))
				for _, r := range readers {
					r.on = d
					if !r.Over() && len(r.Tokens) > 0 {
						hit++
					}
				}
			}
			require.Positive(t, hit, "the kills were to come in the middle of answers")
			for _, r := range readers {
				require.Nil(t, r.Fail, r.task)
				require.NoError(t, p.add(r))
			}
			require.Empty(t, p.report())
			say(t, "%s: %d kills of one data folder in %d tasks, in the middle of %d answers; the clients read on, and nothing differs from an undisturbed run, in %s",
				e.name, kills, len(readers), hit, took(began))
		})
	}
}

// readAll has every reader read whose stream is not over. With kill, the daemon is killed once they have so many tokens more.
func readAll(t *testing.T, d *life, readers []*run, kill bool, after int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), watch.Patience)
	defer cancel()
	var mu sync.Mutex
	enough, killed := make(chan struct{}), make(chan struct{})
	told := func() {
		mu.Lock()
		defer mu.Unlock()
		if after--; after == 0 {
			close(enough)
		}
	}
	var all sync.WaitGroup
	failed := make([]error, len(readers))
	for i, r := range readers {
		if !r.Over() {
			all.Go(func() { failed[i] = r.read(ctx, d, told, killed) })
		}
	}
	if kill {
		select {
		case <-enough:
		case <-ctx.Done():
			t.Error("the answers did not come far enough for a kill")
		}
		close(killed)
		d.Kill()
	}
	all.Wait()
	for i, err := range failed {
		require.NoError(t, err, readers[i].task)
	}
}
