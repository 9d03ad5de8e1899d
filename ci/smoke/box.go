// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
)

// box is the daemon on the reference box, or on a stand-in for it.
type box struct{ *daemon.Daemon }

// start builds and runs the daemon. Its port, data and token are the test's own.
func start(ctx context.Context, l *process.Launcher, dir, config string, more []string) (*box, error) {
	exe, token := filepath.Join(dir, "orchestratord"), rand.Text()
	if err := process.Build(ctx, "", exe, "./cmd/orchestratord"); err != nil {
		return nil, err
	}
	d, err := daemon.Start(ctx, l, daemon.Options{Config: config, Token: token, Options: process.Options{
		Exe: exe, Keep: tailLines,
		Env: slices.Concat(os.Environ(), more, []string{"LLORCH_BIND_ADDR=127.0.0.1:0", "LLORCH_DATA_DIR=" + filepath.Join(dir, "data"), "LLORCH_API_TOKEN=" + token}),
	}})
	if err != nil {
		return nil, err
	}
	return &box{d}, nil
}

// tailLines is how much of the daemon's log a failure shows.
const tailLines = 20

// stop ends the daemon as an operator would, which has to work.
func (b *box) stop() error {
	code, err := b.Stop(syscall.SIGTERM)
	if err == nil && code != 0 {
		err = fmt.Errorf("the daemon exited with %d", code)
	}
	return err
}

// What the API says, as far as the test looks at it.
type (
	pool struct {
		ID        string `json:"id"`
		Lifecycle string `json:"lifecycle"`
		Workload  string `json:"workload"`
		Replicas  int    `json:"replicas"`
		Ready     int    `json:"replicas_ready"`
		LastError string `json:"last_error"`
		Model     struct {
			ID string `json:"id"`
		} `json:"model"`
	}
	card struct {
		Index   int `json:"index"`
		Holders []struct {
			Replica string `json:"replica_id"`
			Used    int64  `json:"used_bytes"`
		} `json:"holders"`
	}
)

// check is the test itself.
func (b *box) check(ctx context.Context, cards []gpu.Card, out io.Writer) error {
	pools, err := b.ready(ctx)
	if err != nil {
		return err
	}
	where := map[string][]int{} // the cards of each replica
	served := map[int]bool{}
	for _, p := range pools {
		if p.Workload != "completion" {
			continue
		}
		for _, answered := range b.tasks(ctx, p) {
			if answered.err != nil {
				return fmt.Errorf("a task of pool '%s': %w", p.ID, answered.err)
			}
			if where[answered.replica], err = b.cardsOf(ctx, p.ID, answered.replica); err != nil {
				return err
			}
			for _, index := range where[answered.replica] {
				served[index] = true
			}
			fmt.Fprintf(out, "a task of pool '%s' ran on replica %s, on GPU %v: %d tokens\n", p.ID, answered.replica, where[answered.replica], answered.tokens)
		}
	}
	for _, c := range cards {
		if !served[c.Index] {
			return fmt.Errorf("no task ran on GPU %d (%s): give it a pool in the configuration that %s names", c.Index, c.Name, configEnv)
		}
	}
	if err := b.explained(ctx, pools[0], out); err != nil {
		return err
	}
	return b.drained(ctx, pools[0], out)
}

// ready waits until all replicas are that are to be loaded at the start.
func (b *box) ready(ctx context.Context) (pools []pool, err error) {
	err = watch.Until(ctx, "all pools to be ready", func() error {
		var list struct{ Pools []pool }
		if err := b.get(ctx, "/v1/pools", &list); err != nil {
			return err
		}
		pools = list.Pools
		for _, p := range pools {
			if p.Lifecycle != "on_demand" && p.Ready < p.Replicas {
				return fmt.Errorf("pool '%s' has %d of %d replicas ready: %s", p.ID, p.Ready, p.Replicas, p.LastError)
			}
		}
		return nil
	})
	return pools, err
}

type answer struct {
	replica string
	tokens  int
	err     error
}

// tasks runs as many tasks of a pool at once as it has replicas, so that each has a part in it.
func (b *box) tasks(ctx context.Context, p pool) []answer {
	answers := make([]answer, max(p.Replicas, 1))
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = b.task(ctx, p) })
	}
	all.Wait()
	return answers
}

func (b *box) task(ctx context.Context, p pool) (a answer) {
	body, err := json.Marshal(map[string]any{
		"model_ref": p.Model.ID, "prompt": "Write a haiku about rain containing \"seven\".\n\n", "max_tokens": 64,
		"placement": map[string]any{"mode": "pin", "pool_id": p.ID},
	})
	if err != nil {
		return answer{err: err}
	}
	accepted, err := b.Client.Submit(ctx, body)
	if err != nil {
		return answer{err: err}
	}
	s, err := b.Client.Open(ctx, accepted.TaskID)
	if err != nil {
		return answer{err: err}
	}
	defer s.Close()
	if err := s.Rest(); err != nil {
		return answer{err: err}
	}
	if s.End == nil {
		return answer{err: fmt.Errorf("it failed: %s", s.Fail.Message)}
	}
	return answer{replica: s.End.Receipt.ReplicaID, tokens: s.End.TokensOut}
}

func (b *box) cardsOf(ctx context.Context, poolID, id string) ([]int, error) {
	replicas, err := b.Replicas(ctx, poolID)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(replicas, func(r daemon.Replica) bool { return r.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("pool '%s' has no replica %s", poolID, id)
	}
	return replicas[at].Cards, nil
}

// explained asks where a task would go.
func (b *box) explained(ctx context.Context, p pool, out io.Writer) error {
	var e struct {
		Pool       string `json:"pool_id"`
		Replica    string `json:"replica_id"`
		Candidates []struct {
			Pool    string   `json:"pool_id"`
			Replica string   `json:"replica_id"`
			Reasons []string `json:"reasons"`
		} `json:"candidates"`
	}
	if err := b.post(ctx, "/v1/placement/explain", map[string]any{"model_ref": p.Model.ID}, &e, http.StatusOK); err != nil {
		return err
	}
	if e.Pool == "" || len(e.Candidates) == 0 {
		return fmt.Errorf("the placement of a task of model '%s' is not explained: %+v", p.Model.ID, e)
	}
	for _, c := range e.Candidates {
		fmt.Fprintf(out, "explain '%s': %s %s: %s\n", p.Model.ID, c.Pool, c.Replica, strings.Join(c.Reasons, "; "))
	}
	return nil
}

// drained takes a pool out of service, and looks that its cards are given back.
func (b *box) drained(ctx context.Context, p pool, out io.Writer) error {
	if err := b.post(ctx, "/v1/pools/"+p.ID+"/drain", map[string]any{"deadline_ms": 5000}, nil, http.StatusAccepted); err != nil {
		return err
	}
	if err := watch.Until(ctx, "the drained pool to give its memory back", func() error {
		replicas, err := b.Replicas(ctx, p.ID)
		if err != nil {
			return err
		}
		var list struct{ GPUs []card }
		if err := b.get(ctx, "/v1/gpus", &list); err != nil {
			return err
		}
		for _, r := range replicas {
			if r.State != "stopped" {
				return fmt.Errorf("replica %s of the drained pool is %s", r.ID, r.State)
			}
			for _, c := range list.GPUs {
				for _, h := range c.Holders {
					if h.Replica == r.ID && h.Used > 0 {
						return fmt.Errorf("replica %s of the drained pool holds %d MiB of GPU %d", r.ID, h.Used>>20, c.Index)
					}
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	fmt.Fprintf(out, "pool '%s' was drained, and its memory is free\n", p.ID)
	return nil
}

func (b *box) get(ctx context.Context, path string, into any) error {
	text, err := b.Client.Get(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func (b *box) post(ctx context.Context, path string, body, into any, want int) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	answer, err := b.Client.Post(ctx, path, text, want)
	if err != nil {
		return fmt.Errorf("POST %s: %w", path, err)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
