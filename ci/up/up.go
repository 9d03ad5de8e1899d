// SPDX-License-Identifier: GPL-3.0-or-later

// Package up has the target that starts the daemon on a fresh machine and shows that it streams.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/build"
	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/engine"
	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/haiku"
	"github.com/llama-orch/llama-orch/harness/process"
)

const upConfig = "examples/haiku.yaml"

// Up builds everything, starts the daemon with the bundled model, streams one real haiku, and serves until Ctrl-C.
func Up(ctx context.Context) error {
	l := process.NewLauncher()
	defer l.Close()
	if err := l.Do(dieWithParent); err != nil {
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

	// The signals are ours from here on: mage would give up after five seconds.
	signal.Reset(os.Interrupt)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	log := &valve{to: os.Stderr}
	log.shut()
	nobody, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open the place for the self-test's table: %w", err)
	}
	defer nobody.Close()
	d, err := daemon.Start(ctx, l, daemon.Options{Config: upConfig, Options: process.Options{
		Name: "the daemon", Exe: "bin/orchestratord", Env: append(command.Environ(ctx), sentences(os.Stderr)...), Stdout: nobody, Echo: log, Keep: 20, Death: syscall.SIGTERM,
	}})
	if err != nil {
		return err
	}
	url := "http://" + addr
	err = d.Answers(ctx, "/readyz")
	if err == nil {
		err = stream(ctx, log, url, time.Now())
	}
	log.open(err != nil) // what led to an error, or what was said of the haiku
	if err != nil {
		return errors.Join(err, end(d, signals))
	}
	fmt.Printf(`
The daemon is serving on %[1]s. Try, in another terminal:

  bin/llama-orch run --addr %[1]s --model haiku 'Write a haiku about the moon.'

  curl -s %[1]s/v1/tasks -H 'Content-Type: application/json' \
    -d '{"model_ref":"haiku","task_id":"moon-1","prompt":"Write a haiku about the moon.\n\n"}'
  curl -sN %[1]s/v1/tasks/moon-1/stream

Ctrl-C stops it.
`, url)
	select {
	case <-d.Done():
		code, _ := d.Exit() // it has ended
		return fmt.Errorf("the daemon ended by itself, with exit code %d", code)
	case <-ctx.Done():
		return end(d, signals)
	}
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

// sentences has the daemon log for a person, in colours where the log goes to a terminal.
func sentences(to *os.File) []string {
	env := []string{"LLORCH_LOG_FORMAT=console"}
	if info, err := to.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		env = append(env, "CLICOLOR_FORCE=1")
	}
	return env
}

// valve passes on what the daemon logs. What comes while it is shut waits, so that a newcomer sees a haiku first (LO-624).
type valve struct {
	to     io.Writer
	mu     sync.Mutex
	closed bool
	held   []byte
	mark   int // of held, where the haiku began
}

func (g *valve) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		g.held = append(g.held, p...)
		return len(p), nil
	}
	return g.to.Write(p)
}

func (g *valve) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// begin marks where the log of the start ends.
func (g *valve) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mark = len(g.held)
}

// open passes on what waited, all of it or what came behind the mark, and what comes from then on.
func (g *valve) open(all bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !all {
		g.held = g.held[g.mark:]
	}
	_, _ = g.to.Write(g.held) // a terminal that is gone
	g.held, g.closed = nil, false
}

// dieWithParent makes the kernel send this process a SIGTERM when mage ends: a SIGTERM to `go tool mage` stops at mage.
// It is asked for on the launcher's thread, which stays: the kernel ties it to the thread.
func dieWithParent() error {
	parent := os.Getppid()
	_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
	if errno != 0 {
		return fmt.Errorf("asking to be told of mage's end: %w", errno)
	}
	if os.Getppid() != parent {
		return errors.New("mage has ended")
	}
	return nil
}

// haiku asks for the current minute in words, which nobody can have written down before, and streams the answer.
func stream(ctx context.Context, log *valve, url string, now time.Time) error {
	topic, words := haiku.Topic(), haiku.Minute(now.Minute())
	log.begin()
	fmt.Printf("\nAsking the model for a haiku about %s that contains %q, the current minute:\n\n", topic, words)
	cmd := exec.CommandContext(ctx, "bin/llama-orch", "run", "--addr", url, "--model", "haiku",
		fmt.Sprintf("Write a haiku about %s containing %q.\n\n", topic, words))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("streaming the haiku: %w", err)
	}
	fmt.Println("\nWhat the daemon says of it:")
	return nil
}

// end asks the daemon to end and waits for it. The terminal, go and mage may each deliver the same Ctrl-C, so another one
// counts only after a moment; then it kills.
func end(d *daemon.Daemon, signals <-chan os.Signal) error {
	if d.Ended() {
		return nil // which has been reported
	}
	d.Client.Close()
	if err := d.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	asked := time.Now()
	for {
		select {
		case <-d.Done():
			if code, err := d.Exit(); err != nil || code != 0 {
				return errors.Join(err, fmt.Errorf("the daemon did not end cleanly: exit code %d", code))
			}
			fmt.Println("The daemon has stopped.")
			return nil
		case <-signals:
			if time.Since(asked) > 2*time.Second {
				fmt.Println("Killing the daemon.")
				d.Kill()
			}
		}
	}
}
