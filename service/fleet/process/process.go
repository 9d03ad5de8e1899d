// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/lines"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/spare"
	"github.com/llama-orch/llama-orch/service/task"
)

// straysWait bounds the wait for the output of a process that has ended: a child that left the group may keep the pipes open.
const straysWait = 2 * time.Second

// Command is a process to be started.
type Command struct {
	Owner string // the replica whose worker it is
	Path  string
	Args  []string
	Env   []string // all that it inherits
	// Container is what the process runs; nil: none. It is removed at the end, and before the start, because a container that an earlier run
	// left over would hold the name.
	Container *Container
	// Foreign says that the program is not our own: it may start others, which outlive it.
	Foreign bool
	// Signs are further texts, in lower case, of lines that tell why the program ends.
	Signs []string
	// Noted reports whether a line is one that Process.Noted returns. Nil: none is.
	Noted func(line string) bool
}

// Process is a running process, the leader of its own group. It ends with this program, however that ends: it gets the parent-death
// signal, and its standard input ends. What it has started ends then too, by its guardian.
type Process struct {
	PID       int
	log       *ring
	announced chan string // the address the worker says it listens on
	ended     chan struct{}
	death     Death // set before ended is closed

	stdin  io.Closer
	mu     sync.Mutex
	gone   bool // guarded by mu: it was reaped, so the pid may belong to another process
	killed bool // guarded by mu until ended is closed: we sent a signal while it ran
}

// Death is how a process ended.
type Death struct {
	Text     string         // one line, with the process's last complaints
	ExitCode int            // -1: it was ended by a signal
	Signal   syscall.Signal // the one that ended it; 0: none did
	ByUs     bool           // we sent a signal while it ran
}

// Spawn starts the command. It calls lost when the process has ended, for whatever reason.
func (l *Launcher) Spawn(c Command, lost func(), log *zap.Logger) (*Process, error) {
	proc := &Process{log: &ring{signs: c.Signs, notes: c.Noted}, announced: make(chan string, 1), ended: make(chan struct{})}
	mark := l.mark + strconv.FormatInt(l.count.Add(1), 10)
	if c.Foreign {
		l.guard.watch(l.mark, log)
	}
	container := c.Container.ref()
	if err := container.remove(); err != nil {
		log.Debug("no container was left over", zap.Error(err))
	}
	reader := func(stream string, hear func(line string)) *lines.Cutter { // exec.Cmd calls it from a goroutine of its own
		return &lines.Cutter{Limit: lineLimit, Each: func(line string) {
			_ = contain.Do(log, "reading a line of a worker panicked: the line is lost", func() {
				hear(line)
				proc.log.add(stream, line, time.Now())
				log.Debug("worker output", zap.String("stream", stream), zap.String("line", line), observe.Verbatim())
			})
		}}
	}
	stdout, stderr := reader("stdout", proc.hear), reader("stderr", func(string) {})
	cmd, err := spare.Get(func() (*exec.Cmd, error) { // a command that could not be started is of no use any more
		cmd := exec.Command(c.Path, c.Args...) //nolint:noctx // End ends it, in steps
		cmd.Env, cmd.Stdout, cmd.Stderr = append(slices.Clone(c.Env), envMark+"="+mark), stdout, stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		cmd.WaitDelay = straysWait
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("make the worker's standard input: %w", err)
		}
		if err := l.start(cmd); err != nil {
			_ = stdin.Close()
			return nil, fmt.Errorf("start %s: %w", c.Path, err)
		}
		proc.stdin = stdin
		return cmd, nil
	})
	if err != nil {
		return nil, err
	}
	proc.PID = cmd.Process.Pid
	forget := l.dir.note(proc.PID, c.Owner, mark, container)
	proc.death = Death{ExitCode: -1, Text: "the worker process ended"} // more is known later
	var waited error
	ending := []func(){
		func() { awaitExit(proc.PID) },
		lost,
		// The leader is a zombie, so its pid is still its own, and names the group: everything else in the group ends, too.
		func() { _ = unix.Kill(-proc.PID, unix.SIGKILL) },
		func() {
			if c.Foreign { // what has left the group
				endMarked(mark + "\x00")
			}
		},
		proc.leave,
		func() { waited = cmd.Wait() }, // reaps the process, and joins the readers of its output
		func() {
			// The process only ran the container. The container itself is not our child, and may still be there.
			if err := container.remove(); err != nil {
				log.Debug("the container was not removed", zap.Error(err))
			}
		},
		forget,
		stdout.Flush,
		stderr.Flush,
		func() { proc.death = proc.mourn(cmd.ProcessState, waited) },
	}
	go func() { // joined by End
		defer close(proc.ended)
		contain.Each(log, "the end of a worker's process panicked, and goes on", ending)
	}()
	return proc, nil
}

// leave notes that the process is about to be reaped: no more signals are sent to its pid.
func (p *Process) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
}

// Announced yields the address that the process said it listens on.
func (p *Process) Announced() <-chan string { return p.announced }

// Tail returns the last lines of its output, oldest first, and before them the beginning of what it has said since it was last quiet.
func (p *Process) Tail() []string { return p.log.tail() }

// Noted are the lines that Command.Noted chose, the first ones if there are very many.
func (p *Process) Noted() []string {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return slices.Clone(p.log.noted)
}

// Settle waits until the process has ended, but no longer than that. One that dies may take a moment.
func (p *Process) Settle(within time.Duration) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
	}
}

// Death says how the process ended. It may be called once End has returned.
func (p *Process) Death() Death { return p.death }

// awaitExit waits until the child has ended, without reaping it.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// isZombie reports whether a child has ended and was not reaped yet.
func isZombie(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	return err == nil && info.Signo != 0
}

func (p *Process) mourn(state *os.ProcessState, err error) Death {
	death := Death{ExitCode: -1, ByUs: p.killed}
	how := "exit status unknown"
	if state != nil {
		how, death.ExitCode = state.String(), state.ExitCode()
		if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			death.Signal = status.Signal()
			how += ", " + unix.SignalName(death.Signal)
		} else if name := unix.SignalName(syscall.Signal(death.ExitCode - shellSignal)); name != "" {
			how += ", as a shell says of " + name
		}
	} else if err != nil {
		how = err.Error()
	}
	death.Text = fmt.Sprintf("the worker process ended (%s)", how)
	if told := p.log.cause(); len(told) > 0 {
		death.Text += "; it said: " + join(told)
	} else if last := p.log.last("stderr", 3); len(last) > 0 {
		death.Text += "; its last words: " + join(last)
	}
	return death
}

// shellSignal is what a shell adds to the number of the signal that ended its command.
const shellSignal = 128

// maxWords bounds what a line of a worker has in the text of its death, in bytes.
const maxWords = 600

func join(lines []string) string {
	for i, line := range lines {
		lines[i] = task.Clip(line, maxWords)
	}
	return strings.Join(lines, " | ")
}

// hear looks for the worker's announcement, {"listening":"127.0.0.1:PORT"}.
func (p *Process) hear(line string) {
	var said struct {
		Listening string `json:"listening"`
	}
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &said) != nil || said.Listening == "" {
		return
	}
	select {
	case p.announced <- said.Listening:
	default: // only the first announcement counts
	}
}

// End ends the process and its group, and returns when they have ended. With a grace it sends SIGTERM first, and SIGKILL when the grace or
// kill ends.
func (p *Process) End(kill context.Context, grace time.Duration) {
	if grace > 0 {
		p.signal(unix.SIGTERM)
		_ = p.stdin.Close()
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.ended:
		case <-timer.C:
		case <-kill.Done():
		}
	}
	p.signal(unix.SIGKILL)
	<-p.ended
	_ = p.stdin.Close()
}

func (p *Process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		p.killed = p.killed || !isZombie(p.PID)
		_ = unix.Kill(-p.PID, sig)
	}
}
