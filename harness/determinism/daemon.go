// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
)

// patience bounds every wait. It is long, because a busy machine is no failure: waits end with what they wait for.
const patience = time.Minute

// logLines is how much of a daemon's log a proof bundle gets.
const logLines = 200

// daemon is one life of orchestratord.
type daemon struct {
	name   string // of this life, such as "after kill -9"
	cmd    *exec.Cmd
	client *client.Client
	ended  chan struct{}
	runs   int // numbers the tasks of a life that need no name of their own

	mu     sync.Mutex
	lines  []string
	health map[string][]byte // by pool, as last seen
}

// serve starts a daemon in a new folder and waits until it serves. A new folder, because a daemon that finds its old state
// may answer a task that it knows from the record, and the suite wants it decoded again.
func (l *lab) serve(name, config string, env map[string]string) (*daemon, error) {
	dir, err := os.MkdirTemp(l.dir, "daemon-")
	if err != nil {
		return nil, fmt.Errorf("make the daemon's folder: %w", err)
	}
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write the daemon's configuration: %w", err)
	}
	d := &daemon{name: name, cmd: exec.Command(l.exe, "serve", "--no-self-test", "--config", path), ended: make(chan struct{}), health: map[string][]byte{}}
	d.cmd.Env = l.env(dir, env)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// One pipe for both, which this process owns, so that a left-over worker that holds it blocks nothing.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the daemon: %w", err)
	}
	d.cmd.Stdout, d.cmd.Stderr = write, write
	err = l.start(d.cmd)
	_ = write.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the daemon: %w", err), read.Close())
	}
	addr := make(chan string, 1)
	var output sync.WaitGroup
	output.Go(func() { d.read(read, addr) })
	go func() { // joined through ended
		defer close(d.ended)
		_ = d.cmd.Wait() // how it ended matters to nobody here
		output.Wait()
		_ = read.Close()
	}()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case at := <-addr:
		d.client = client.New("http://"+at, "")
		return d, nil
	case <-d.ended:
		return nil, fmt.Errorf("the daemon ended before it served:\n%s", d.tail())
	case <-limit.C:
		d.kill()
		return nil, fmt.Errorf("the daemon did not serve within %s:\n%s", patience, d.tail())
	}
}

// read keeps the end of what the daemon writes, and finds the address in its log.
func (d *daemon) read(r io.Reader, addr chan<- string) {
	in := bufio.NewReader(r)
	for found := false; ; {
		text, err := in.ReadString('\n')
		if text != "" {
			d.mu.Lock()
			d.lines = append(d.lines, strings.TrimSuffix(text, "\n"))
			d.lines = d.lines[max(len(d.lines)-logLines, 0):]
			d.mu.Unlock()
		}
		if err != nil {
			return
		}
		var line struct{ Msg, Addr string }
		if !found && json.Unmarshal([]byte(text), &line) == nil && line.Msg == "serving" {
			found = true
			addr <- line.Addr
		}
	}
}

// tail is the end of the log.
func (d *daemon) tail() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, "\n") + "\n"
}

// stop ends the daemon with a signal and returns when it is gone.
func (d *daemon) stop(sig syscall.Signal) error {
	d.client.Close()
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal the daemon: %w", err)
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-d.ended:
		return nil
	case <-limit.C:
		d.kill()
		return fmt.Errorf("the daemon did not end within %s of a %s", patience, sig)
	}
}

// kill ends the daemon however it is.
func (d *daemon) kill() {
	if d.client != nil {
		d.client.Close()
	}
	select {
	case <-d.ended: // its pid may be somebody else's by now
	default:
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-d.ended
}

// replica is what a pool's health says of one.
type replica struct {
	ID            string `json:"id"`
	State         string `json:"state"`
	Fingerprint   string `json:"fingerprint"`
	EngineVersion string `json:"engine_version"`
	Slots         int    `json:"slots"`
	Active        int    `json:"active"`
	LastError     string `json:"last_error"`
}

// replicas asks for a pool's health.
func (d *daemon) replicas(ctx context.Context, poolID string) ([]replica, error) {
	data, err := d.client.Get(ctx, "/v1/pools/"+poolID+"/health")
	if err != nil {
		return nil, err
	}
	var health struct {
		Replicas []replica `json:"replicas"`
	}
	if err := json.Unmarshal(data, &health); err != nil {
		return nil, fmt.Errorf("decode the health of pool %s: %w", poolID, err)
	}
	d.mu.Lock()
	d.health[poolID] = data
	d.mu.Unlock()
	return health.Replicas, nil
}

func (d *daemon) lastHealth(poolID string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.health[poolID]
}

// idle waits until all replicas of a pool are ready and none has a task.
func (d *daemon) idle(ctx context.Context, poolID string) ([]replica, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		replicas, err := d.replicas(ctx, poolID)
		if err != nil {
			return nil, err
		}
		waiting := ""
		for _, r := range replicas {
			switch {
			case r.State == "failed":
				return nil, fmt.Errorf("replica %s has failed: %s\n%s", r.ID, r.LastError, d.tail())
			case r.State != "ready" || r.Active > 0:
				waiting = fmt.Sprintf("replica %s is %s, with %d active tasks: %s", r.ID, r.State, r.Active, r.LastError)
			}
		}
		if waiting == "" && len(replicas) > 0 {
			return replicas, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waited %s in vain for pool %s to be ready and idle: %s\n%s", patience, poolID, waiting, d.tail())
		}
	}
}
