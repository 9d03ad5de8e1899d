// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// launcher starts processes from one thread that stays: the parent-death signal, by which nothing outlives a test run that
// is killed, is sent when the starting thread ends.
type launcher struct{ jobs chan func() }

func newLauncher() *launcher {
	l := &launcher{jobs: make(chan func())}
	go func() { // ends with close
		runtime.LockOSThread()
		for job := range l.jobs {
			job()
		}
	}()
	return l
}

func (l *launcher) start(cmd *exec.Cmd) error {
	result := make(chan error)
	l.jobs <- func() { result <- cmd.Start() }
	return <-result
}

func (l *launcher) close() { close(l.jobs) }

// process is a started program, the leader of its own group, with all lines it wrote.
type process struct {
	watched
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	lines []string
	ended bool
	code  int // once ended; -1 for a signal
	done  chan struct{}
}

func (l *launcher) run(name, exe string, args, env []string) (*process, error) {
	return l.runApart(name, exe, args, env, nil)
}

// runApart starts a program whose standard output goes to a file.
func (l *launcher) runApart(name, exe string, args, env []string, out *os.File) (*process, error) {
	p := &process{name: name, cmd: exec.Command(exe, args...), done: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("make the standard input of %s: %w", name, err)
	}
	// One pipe for both, which this process owns: lines keep their order, and a grandchild that holds it blocks nothing.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for %s: %w", name, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = write, write
	if out != nil {
		p.cmd.Stdout = out
	}
	err = l.start(p.cmd)
	_ = write.Close()
	if err != nil {
		_ = read.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	var output sync.WaitGroup
	output.Go(func() {
		in := bufio.NewReader(read)
		for {
			line, err := in.ReadString('\n')
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				p.update(func() { p.lines = append(p.lines, line) })
			}
			if err != nil {
				return
			}
		}
	})
	go func() { // joined through done
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in the state
		output.Wait()
		_ = read.Close()
		p.update(func() { p.ended, p.code = true, p.cmd.ProcessState.ExitCode() })
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// kill ends the process and its group, and returns when it is gone.
func (p *process) kill() {
	select {
	case <-p.done: // its pid may be somebody else's by now
	default:
		_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	}
	<-p.done
}

// exit waits for the end and returns the exit code.
func (p *process) exit() (int, error) {
	err := p.await("the end of "+p.name, func() bool { return p.ended })
	return p.code, err
}

// output is all that the process wrote.
func (p *process) output() (all string) {
	p.look(func() { all = strings.Join(p.lines, "\n") })
	return all
}

// tail is the end of what the process wrote, for people: without debug lines, and no line in full length.
func (p *process) tail(n int) string {
	var lines []string
	p.look(func() {
		for _, line := range p.lines {
			if !strings.HasPrefix(line, `{"level":"debug"`) {
				lines = append(lines, line)
			}
		}
	})
	lines = lines[max(len(lines)-n, 0):]
	for i, line := range lines {
		if len(line) > 600 {
			lines[i] = line[:600] + "…"
		}
	}
	return strings.Join(lines, "\n")
}

// said waits for a line that find takes.
func (p *process) said(what string, find func(line string) bool) error {
	seen, gone := 0, false
	err := p.await(what+" from "+p.name, func() bool {
		for ; seen < len(p.lines); seen++ {
			if find(p.lines[seen]) {
				return true
			}
		}
		gone = p.ended
		return gone
	})
	if err == nil && gone {
		err = fmt.Errorf("%s ended with exit code %d before it gave %s", p.name, p.code, what)
	}
	return err
}

// workers lists the worker processes that run a program; parent 0 means of anybody.
func workers(exe string, parent int) []int {
	var found []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if target, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || target != exe {
			continue // not ours, or not there any more
		}
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if words := strings.Split(string(args), "\x00"); len(words) < 2 || words[1] != "worker" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && (parent == 0 || parentOf(pid) == parent) {
			found = append(found, pid)
		}
	}
	slices.Sort(found)
	return found
}

// parentOf reads field 4 of /proc/<pid>/stat, which stands behind the name in brackets.
func parentOf(pid int) int {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	if fields := strings.Fields(rest); len(fields) > 1 {
		parent, _ := strconv.Atoi(fields[1])
		return parent
	}
	return 0
}
