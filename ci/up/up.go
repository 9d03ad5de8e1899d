// SPDX-License-Identifier: GPL-3.0-or-later

// Package up has the target that starts the daemon on a fresh machine and shows that it streams.
package up

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/build"
	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/engine"
)

const upConfig = "examples/haiku.yaml"

// upTopics are subjects that the bundled model has word lists for.
var upTopics = []string{"GPUs", "a queue", "rain", "coffee", "winter", "unit tests"}

// Up builds everything, starts the daemon with the bundled model, streams one real haiku, and serves until Ctrl-C.
func Up(ctx context.Context) error {
	kept := newKeptThread()
	if err := kept.dieWithParent(); err != nil {
		return err
	}
	addr := os.Getenv("LLORCH_BIND_ADDR")
	if addr == "" {
		addr = "127.0.0.1:8080"
	}
	if err := addrFree(addr); err != nil {
		return err
	}
	mg.CtxDeps(ctx, build.Build.All, engine.Engine.Libs)

	d, err := startDaemon(kept, "bin/orchestratord", "serve", "--config", upConfig)
	if err != nil {
		return err
	}
	url := "http://" + addr
	if err := d.waitReady(url); err != nil {
		return d.stopAfter(err)
	}
	if err := d.haiku(ctx, url, time.Now()); err != nil {
		return d.stopAfter(err)
	}
	fmt.Printf(`
The daemon is serving on %[1]s. Try, in another terminal:

  bin/llama-orch run --addr %[1]s --model haiku 'Write a haiku about the moon.'

  curl -s %[1]s/v1/tasks -H 'Content-Type: application/json' \
    -d '{"model_ref":"haiku","task_id":"moon-1","prompt":"Write a haiku about the moon.\n\n"}'
  curl -sN %[1]s/v1/tasks/moon-1/stream

Ctrl-C stops it.
`, url)
	return d.serve()
}

func addrFree(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is taken, so nothing was started. Stop the program that listens there (`ss -ltnp` names it), "+
			"or choose another address: LLORCH_BIND_ADDR=127.0.0.1:8081 go tool mage up", addr)
	}
	return fmt.Errorf("cannot listen on %s, so nothing was started; LLORCH_BIND_ADDR chooses another address: %w", addr, err)
}

// daemon is the child process. done yields its end, once.
type daemon struct {
	cmd     *exec.Cmd
	done    chan error
	signals chan os.Signal
	log     gate
}

// gate passes on what the daemon logs, but holds it back while a haiku streams to the same terminal.
type gate struct {
	mu   sync.Mutex
	shut bool
	held []byte
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.held = append(g.held, p...)
		return len(p), nil
	}
	return os.Stderr.Write(p)
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	if !shut {
		_, _ = os.Stderr.Write(g.held)
		g.held = nil
	}
}

// keptThread runs functions on one thread that lives as long as this process. The kernel ties a parent-death signal to the
// thread that asked for it, or that started the child, so no other thread will do.
type keptThread chan func()

func newKeptThread() keptThread {
	k := make(keptThread)
	go func() {
		runtime.LockOSThread()
		for f := range k {
			f()
		}
	}()
	return k
}

func (k keptThread) run(f func() error) error {
	done := make(chan error)
	k <- func() { done <- f() }
	return <-done
}

// dieWithParent makes the kernel send this process a SIGTERM when mage ends: a SIGTERM to `go tool mage` stops at mage.
func (k keptThread) dieWithParent() error {
	parent := os.Getppid()
	return k.run(func() error {
		_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
		if errno != 0 {
			return fmt.Errorf("asking to be told of mage's end: %w", errno)
		}
		if os.Getppid() != parent {
			return errors.New("mage has ended")
		}
		return nil
	})
}

// startDaemon takes over the signals from mage, which would give up after five seconds, and starts the child in a process
// group of its own, so that a Ctrl-C reaches it once, from here.
func startDaemon(kept keptThread, name string, args ...string) (*daemon, error) {
	d := &daemon{done: make(chan error, 1), signals: make(chan os.Signal, 4)}
	signal.Reset(os.Interrupt)
	signal.Notify(d.signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	d.cmd = exec.Command(name, args...)
	d.cmd.Env = command.Environ()
	d.cmd.Stdout, d.cmd.Stderr = os.Stdout, &d.log
	d.cmd.WaitDelay = 5 * time.Second
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := kept.run(d.cmd.Start); err != nil {
		return nil, fmt.Errorf("starting the daemon: %w", err)
	}
	go func() { d.done <- d.cmd.Wait() }()
	return d, nil
}

func (d *daemon) waitReady(url string) error {
	limit := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	client := http.Client{Timeout: time.Second}
	for {
		select {
		case err := <-d.done:
			d.done <- err
			return fmt.Errorf("the daemon ended before it was ready (%v); its messages are above", state(err))
		case s := <-d.signals:
			return fmt.Errorf("stopped by %v before the daemon was ready", s)
		case <-limit:
			return fmt.Errorf("the daemon was not ready within a minute; %s/readyz says why", url)
		case <-tick.C:
			res, err := client.Get(url + "/readyz")
			if err != nil {
				continue
			}
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
}

// haiku asks for the current minute in words, which nobody can have written down before, and streams the answer.
func (d *daemon) haiku(ctx context.Context, url string, now time.Time) error {
	topic, words := upTopics[rand.IntN(len(upTopics))], minuteWords(now.Minute())
	d.log.set(true)
	defer d.log.set(false)
	fmt.Printf("\nAsking the model for a haiku about %s that contains %q, the current minute:\n\n", topic, words)
	cmd := exec.CommandContext(ctx, "bin/llama-orch", "run", "--addr", url, "--model", "haiku",
		fmt.Sprintf("Write a haiku about %s containing %q.\n\n", topic, words))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("streaming the haiku: %w", err)
	}
	fmt.Println("\nWhat the daemon logged meanwhile:")
	return nil
}

// serve waits for a signal or for the daemon's end, which nobody asked for.
func (d *daemon) serve() error {
	select {
	case err := <-d.done:
		return fmt.Errorf("the daemon ended by itself (%v)", state(err))
	case s := <-d.signals:
		return d.stop(s)
	}
}

func (d *daemon) stopAfter(err error) error {
	return errors.Join(err, d.stop(syscall.SIGTERM))
}

// stop forwards the signal and waits for the daemon. The terminal, go and mage may each deliver the same Ctrl-C, so
// another one counts only after a moment; then it kills.
func (d *daemon) stop(s os.Signal) error {
	if err := d.cmd.Process.Signal(s); errors.Is(err, os.ErrProcessDone) {
		return nil // its end has been reported
	} else if err != nil {
		return fmt.Errorf("stopping the daemon: %w", err)
	}
	asked := time.Now()
	for {
		select {
		case err := <-d.done:
			if err != nil {
				return fmt.Errorf("the daemon did not end cleanly: %w", err)
			}
			fmt.Println("The daemon has stopped.")
			return nil
		case <-d.signals:
			if time.Since(asked) > 2*time.Second {
				fmt.Println("Killing the daemon.")
				_ = d.cmd.Process.Kill()
			}
		}
	}
}

func state(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// minuteWords spells a minute as the bundled model was taught to.
func minuteWords(minute int) string {
	small := []string{
		"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
		"thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
	}
	if minute < len(small) {
		return small[minute]
	}
	tens := []string{"twenty", "thirty", "forty", "fifty"}[minute/10-2]
	if minute%10 == 0 {
		return tens
	}
	return tens + "-" + small[minute%10]
}
