// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/service/fleet/gpu"
)

const (
	lookEvery  = 200 * time.Millisecond
	stopWithin = time.Minute
	tailLines  = 20
)

// box is the daemon on the reference box.
type box struct {
	url, token string
	client     *client.Client
	cmd        *exec.Cmd
	done       chan struct{} // closed once the daemon has ended and its output was read

	mu    sync.Mutex
	lines []string // the last ones of the log
}

// start builds and runs the daemon. Its port, data and token are the test's own.
func start(ctx context.Context, dir, config string) (*box, error) {
	exe := filepath.Join(dir, "orchestratord")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", exe, "./cmd/orchestratord").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the daemon: %w\n%s", err, out)
	}
	b := &box{token: rand.Text(), done: make(chan struct{})}
	b.cmd = exec.Command(exe, "serve", "--config", config)
	b.cmd.Env = append(os.Environ(), "LLORCH_BIND_ADDR=127.0.0.1:0", "LLORCH_DATA_DIR="+filepath.Join(dir, "data"), "LLORCH_API_TOKEN="+b.token)
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write := io.Pipe()
	b.cmd.Stdout, b.cmd.Stderr = write, write
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	address := make(chan string, 1)
	var output sync.WaitGroup
	output.Go(func() { b.listen(read, address) })
	go func() { // joined through done
		defer close(b.done)
		_ = b.cmd.Wait() // stop looks at how it ended
		_ = write.Close()
		output.Wait()
	}()
	select {
	case at := <-address:
		b.url = "http://" + at
		b.client = client.New(b.url, b.token)
		return b, nil
	case <-b.done:
		return nil, fmt.Errorf("the daemon ended before it served:\n%s", b.tail())
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), b.stop())
	}
}

func (b *box) listen(output io.Reader, address chan<- string) {
	lines := bufio.NewReader(output)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			b.mu.Lock()
			b.lines = append(b.lines, strings.TrimSuffix(text, "\n"))
			b.lines = b.lines[max(len(b.lines)-tailLines, 0):]
			b.mu.Unlock()
		}
		var line struct{ Msg, Addr string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "serving" {
			address <- line.Addr
		}
		if err != nil {
			return
		}
	}
}

func (b *box) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

// stop ends the daemon as an operator would, which has to work.
func (b *box) stop() error {
	if b.client != nil {
		b.client.Close()
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.NewTimer(stopWithin)
	defer timer.Stop()
	select {
	case <-b.done:
	case <-timer.C:
		_ = b.cmd.Process.Kill()
		<-b.done
		return fmt.Errorf("the daemon did not stop within %s", stopWithin)
	}
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the daemon exited with %d", code)
	}
	return nil
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
	replica struct {
		ID    string `json:"id"`
		State string `json:"state"`
		Cards []int  `json:"cards"`
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
	err = until(ctx, func() error {
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
	accepted, err := b.client.Submit(ctx, body)
	if err != nil {
		return answer{err: err}
	}
	s, err := b.client.Open(ctx, accepted.TaskID)
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

func (b *box) health(ctx context.Context, poolID string) (replicas []replica, err error) {
	var health struct{ Replicas []replica }
	err = b.get(ctx, "/v1/pools/"+poolID+"/health", &health)
	return health.Replicas, err
}

func (b *box) cardsOf(ctx context.Context, poolID, id string) ([]int, error) {
	replicas, err := b.health(ctx, poolID)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(replicas, func(r replica) bool { return r.ID == id })
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
	if err := b.post(ctx, "/v1/placement/explain", map[string]any{"model_ref": p.Model.ID}, &e); err != nil {
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
	if err := b.post(ctx, "/v1/pools/"+p.ID+"/drain", map[string]any{"deadline_ms": 5000}, nil); err != nil {
		return err
	}
	if err := until(ctx, func() error {
		replicas, err := b.health(ctx, p.ID)
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

// until asks until try succeeds, or ctx ends.
func until(ctx context.Context, try func() error) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func (b *box) get(ctx context.Context, path string, into any) error {
	text, err := b.client.Get(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func (b *box) post(ctx context.Context, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+b.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err = io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("POST %s: %d %s", path, answer.StatusCode, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
