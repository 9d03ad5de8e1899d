// SPDX-License-Identifier: GPL-3.0-or-later

// Package daemon runs orchestratord for the suites, the benches, the smoke test and `up`.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"syscall"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// Options say how to run a daemon.
type Options struct {
	process.Options // of the program. Args come after the arguments that follow from Config

	Config string // the file
	Token  string // of the client
}

// Daemon is one life of orchestratord.
type Daemon struct {
	*process.Process

	URL    string
	Client *client.Client

	exe    string
	mu     sync.Mutex
	health map[string][]byte // by pool, as last seen
}

// How a line for a person says that the daemon serves, and what colours it.
var (
	servesAt = regexp.MustCompile(` serving  addr=(\S+)`)
	plain    = regexp.MustCompile("\x1b\\[[0-9;]*m")
)

// Start starts a daemon and waits until it serves. If ctx ends before that, the daemon ends too.
func Start(ctx context.Context, l *process.Launcher, o Options) (*Daemon, error) {
	if o.Name == "" {
		o.Name = "orchestratord"
	}
	o.Args = append([]string{"serve", "--config", o.Config}, o.Args...)
	return Attach(ctx, l, o)
}

// Attach is like Start, for a program that runs the daemon within itself and has arguments of its own.
func Attach(ctx context.Context, l *process.Launcher, o Options) (*Daemon, error) {
	p, err := l.Start(o.Options)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.Kill)
	defer stop()
	d := &Daemon{Process: p, exe: o.Exe, health: map[string][]byte{}}
	if err := p.Said("its address", func(text string) bool {
		var line struct{ Msg, Addr string }
		if json.Unmarshal([]byte(text), &line) != nil { // or a line for a person
			if found := servesAt.FindStringSubmatch(plain.ReplaceAllString(text, "")); found != nil {
				line.Msg, line.Addr = "serving", found[1]
			}
		}
		d.URL = "http://" + line.Addr
		return line.Msg == "serving"
	}); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%w:\n%s", errors.Join(context.Cause(ctx), err), p.Tail(20))
	}
	d.Client = client.New(d.URL, o.Token)
	return d, nil
}

// Kill ends the daemon and its process group at once. The workers have groups of their own, and have to end by themselves.
func (d *Daemon) Kill() {
	d.Process.Kill()
	d.Client.Close()
}

// Stop sends a signal to the daemon alone and waits for its end. It returns the exit code, or -1 if a signal ended the daemon.
func (d *Daemon) Stop(sig syscall.Signal) (int, error) {
	d.Client.Close()
	return d.Process.Stop(sig)
}

// Answers waits until the answer to a GET of a path is 200.
func (d *Daemon) Answers(ctx context.Context, path string) error {
	return watch.Poll(ctx, path+" of "+d.Name, func() error {
		if d.Ended() {
			code, _ := d.Exit() // it has ended
			return watch.Never(fmt.Errorf("%s ended with exit code %d before it answered %s", d.Name, code, path))
		}
		_, err := d.Client.Get(ctx, path)
		return err
	})
}

// Replica is what a pool's health says about a replica.
type Replica struct {
	ID            string `json:"id"`
	State         string `json:"state"`
	Fingerprint   string `json:"fingerprint"`
	EngineVersion string `json:"engine_version"`
	Slots         int    `json:"slots"`
	Active        int    `json:"active"`
	LastError     string `json:"last_error"`
	Cards         []int  `json:"cards"`
}

// Replicas asks for a pool's health and returns the replicas.
func (d *Daemon) Replicas(ctx context.Context, poolID string) ([]Replica, error) {
	data, err := d.Client.Get(ctx, "/v1/pools/"+poolID+"/health")
	if err != nil {
		return nil, fmt.Errorf("ask for the health of pool %s: %w", poolID, err)
	}
	var health struct {
		Replicas []Replica `json:"replicas"`
	}
	if err := json.Unmarshal(data, &health); err != nil {
		return nil, fmt.Errorf("decode the health of pool %s: %w", poolID, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.health[poolID] = data
	return health.Replicas, nil
}

// LastHealth returns the last answer about a pool's health.
func (d *Daemon) LastHealth(poolID string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.health[poolID]
}

// Idle waits until all replicas of a pool are ready and none has a task.
func (d *Daemon) Idle(ctx context.Context, poolID string) (replicas []Replica, err error) {
	if err := watch.Poll(ctx, "pool "+poolID, func() error {
		if replicas, err = d.Replicas(ctx, poolID); err != nil {
			return watch.Never(err)
		}
		if len(replicas) == 0 {
			return errors.New("it has no replica")
		}
		for _, r := range replicas {
			switch {
			case r.State == "failed":
				return watch.Never(fmt.Errorf("replica %s has failed: %s", r.ID, r.LastError))
			case r.State != "ready" || r.Active > 0:
				return fmt.Errorf("replica %s is %s, with %d active tasks: %s", r.ID, r.State, r.Active, r.LastError)
			}
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, d.Tail(20))
	}
	return replicas, nil
}
