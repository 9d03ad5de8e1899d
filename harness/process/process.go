// SPDX-License-Identifier: GPL-3.0-or-later

// Package process runs the programs of the suites: each leads a process group of its own, ends with the suite however that
// ends, and what it writes is kept.
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// Launcher starts processes from one thread that stays. The parent-death signal, by which nothing outlives a run that is
// killed, is sent when the thread ends that started the process.
type Launcher struct{ jobs chan func() }

// NewLauncher makes a Launcher. Close it.
func NewLauncher() *Launcher {
	l := &Launcher{jobs: make(chan func())}
	go func() { // ends with Close
		runtime.LockOSThread()
		for job := range l.jobs {
			job()
		}
	}()
	return l
}

// Close ends the thread. The processes that are left get their death signals.
func (l *Launcher) Close() { close(l.jobs) }

// Do runs a function on the thread.
func (l *Launcher) Do(f func() error) error {
	result := make(chan error)
	l.jobs <- func() { result <- f() }
	return <-result
}

// Options say what to run.
type Options struct {
	Name string // for messages
	Exe  string
	Args []string
	Env  []string

	// Stdout takes the standard output. Without it that goes where the standard error goes.
	Stdout *os.File
	// Echo gets each line that is read, too.
	Echo io.Writer
	// Keep is how many of the lines that were read last are kept; 0: all of them.
	Keep int
	// File takes all output, in place of this process: nothing reads it but those who ask. It is for measurements, in which a
	// reader would take part.
	File *os.File
	// Death is the signal that the process gets when the launcher's thread ends; 0: SIGKILL.
	Death syscall.Signal
}

// Process is a started program. Its standard input stays open as long as this process lives.
type Process struct {
	Name  string
	Begun time.Time

	watch.State

	cmd   *exec.Cmd
	done  chan struct{}
	file  *os.File
	lines []string // guarded by State, as is what follows
	first int      // how many lines were dropped before these
	ended bool
	code  int // once ended; -1 for a signal
}

// Start runs a program.
func (l *Launcher) Start(o Options) (*Process, error) {
	if o.Death == 0 {
		o.Death = syscall.SIGKILL
	}
	p := &Process{Name: o.Name, cmd: exec.Command(o.Exe, o.Args...), done: make(chan struct{}), file: o.File}
	p.cmd.Env = o.Env
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: o.Death}
	if _, err := p.cmd.StdinPipe(); err != nil { // closed when the process has ended
		return nil, fmt.Errorf("make the standard input of %s: %w", o.Name, err)
	}
	if o.File != nil {
		p.cmd.Stdout, p.cmd.Stderr = o.File, o.File
		if o.Stdout != nil {
			p.cmd.Stdout = o.Stdout
		}
		if err := l.begin(p, func() {}); err != nil {
			return nil, err
		}
		return p, nil
	}
	// One pipe for both, which this process owns: lines keep their order, and a grandchild that holds it blocks nothing.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for %s: %w", o.Name, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = write, write
	if o.Stdout != nil {
		p.cmd.Stdout = o.Stdout
	}
	var output sync.WaitGroup
	output.Go(func() { p.read(read, o) })
	err = l.begin(p, func() {
		_ = read.SetReadDeadline(time.Now().Add(2 * time.Second))
		output.Wait()
		_ = read.Close()
	})
	_ = write.Close()
	if err != nil {
		output.Wait()
		return nil, errors.Join(err, read.Close())
	}
	return p, nil
}

// begin starts the process and waits for its end, and for that of its output.
func (l *Launcher) begin(p *Process, output func()) error {
	p.Begun = time.Now()
	if err := l.Do(p.cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() { // joined through done
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in the state
		output()
		p.Update(func() { p.ended, p.code = true, p.cmd.ProcessState.ExitCode() })
	}()
	return nil
}

func (p *Process) read(from io.Reader, o Options) {
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadString('\n')
		if o.Echo != nil {
			_, _ = io.WriteString(o.Echo, line) // the reader of the echo may be gone
		}
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			p.Update(func() {
				p.lines = append(p.lines, line)
				if more := len(p.lines) - o.Keep; o.Keep > 0 && more > 0 {
					p.lines, p.first = p.lines[more:], p.first+more
				}
			})
		}
		if err != nil {
			return
		}
	}
}

// Pid is the process's number, and its group's.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and its output has been read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended reports whether it has.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process and its group, and returns when it is gone.
func (p *Process) Kill() {
	if !p.Ended() { // its number may be somebody else's by now
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
	}
	<-p.done
}

// Exit waits for the end and returns the exit code, which is -1 for a signal.
func (p *Process) Exit() (code int, err error) {
	err = p.Await("the end of "+p.Name, func() bool {
		code = p.code
		return p.ended
	})
	return code, err
}

// Stop asks the process to end, and kills it when it does not within Patience, which is an error. It returns the exit code.
func (p *Process) Stop(sig syscall.Signal) (int, error) {
	if err := p.Signal(sig); err != nil {
		return 0, err
	}
	code, err := p.Exit()
	if err != nil {
		p.Kill()
	}
	return code, err
}

// Lines are those that the process wrote, as far as they are kept.
func (p *Process) Lines() (all []string) {
	p.catchUp()
	p.Look(func() { all = slices.Clone(p.lines) })
	return all
}

// Output is the same as one text.
func (p *Process) Output() string { return strings.Join(p.Lines(), "\n") }

// Tail is the end of what the process wrote, for people: without debug lines, and no line in full length.
func (p *Process) Tail(n int) string {
	lines := slices.DeleteFunc(p.Lines(), func(line string) bool { return strings.HasPrefix(line, `{"level":"debug"`) })
	lines = lines[max(len(lines)-n, 0):]
	for i, line := range lines {
		if len(line) > 600 {
			lines[i] = line[:600] + "…"
		}
	}
	return strings.Join(lines, "\n")
}

// Said waits for a line that find takes. Each line is shown to find once.
func (p *Process) Said(what string, find func(line string) bool) error {
	seen, found, gone := 0, false, false
	look := func() bool {
		for seen = max(seen, p.first); seen < p.first+len(p.lines) && !found; seen++ {
			found = find(p.lines[seen-p.first])
		}
		gone = p.ended
		return found || gone
	}
	var err error
	if p.file == nil {
		err = p.Await(what+" from "+p.Name, look)
	} else {
		err = watch.Poll(context.Background(), what+" from "+p.Name, func() (err error) {
			ended := p.Ended() // before its last lines are read
			p.catchUp()
			p.Look(func() {
				if !look() || !found && !ended {
					err = errors.New("it has not come")
				}
			})
			return err
		})
	}
	if err == nil && !found {
		err = fmt.Errorf("%s ended with exit code %d before it gave %s", p.Name, p.code, what)
	}
	return err
}

// catchUp reads what a file has taken.
func (p *Process) catchUp() {
	if p.file == nil {
		return
	}
	text, _ := os.ReadFile(p.file.Name())
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if !strings.HasSuffix(string(text), "\n") {
		lines = lines[:len(lines)-1] // it is not whole yet
	}
	p.Update(func() { p.lines = lines })
}

// Env is an environment with nothing of this one's but where programs are.
func Env(home string, more map[string]string) []string {
	vars := map[string]string{"PATH": os.Getenv("PATH"), "HOME": home}
	maps.Copy(vars, more)
	var env []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}
