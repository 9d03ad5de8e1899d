// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// straysWait bounds the wait for the output pipes of a process that ended: something that left its group may hold them.
const straysWait = 2 * time.Second

// process is a running worker process, the leader of its own group. It ends with this process, however that ends: by
// the parent-death signal, and because its standard input ends.
type process struct {
	pid       int
	log       *ring
	announced chan string // the address the worker says it listens on
	ended     chan struct{}
	epitaph   string           // how it ended and what it last complained of, in one line; set when ended is closed
	state     *os.ProcessState // how it ended; set when ended is closed

	stdin  io.Closer
	mu     sync.Mutex
	gone   bool // guarded by mu: the pid may belong to somebody else
	killed bool // guarded by mu until ended is closed: a signal of ours was sent while it ran
}

// spawn starts the plan's command. When it ends, by itself or not, lose is called with the reason.
func (r *replica) spawn(p *plan, key string, lose context.CancelCauseFunc, log *zap.Logger) (*process, error) {
	proc := &process{log: &ring{}, announced: make(chan string, 1), ended: make(chan struct{})}
	cmd := exec.Command(p.exe, p.args...) //nolint:noctx // stop ends it, in steps
	cmd.Env = append(workerEnv(r.spec, p.cards), "LLAMA_API_KEY="+key)
	if len(p.remove) > 0 { // one of a run before that was killed would hold the name
		cmd.Env = append(containerEnv(), "LLAMA_API_KEY="+key)
		if err := remove(p.remove); err != nil {
			log.Debug("no container was left over", zap.Error(err))
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = straysWait
	stdout := &lines{each: func(line string) {
		proc.hear(line)
		proc.log.add("stdout", line)
		log.Debug("worker output", zap.String("stream", "stdout"), zap.String("line", line))
	}}
	stderr := &lines{each: func(line string) {
		proc.log.add("stderr", line)
		log.Debug("worker output", zap.String("stream", "stderr"), zap.String("line", line))
	}}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	var err error
	if proc.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("make the worker's standard input: %w", err)
	}
	if err := r.m.launcher.start(cmd); err != nil {
		_ = proc.stdin.Close()
		return nil, fmt.Errorf("start %s: %w", p.exe, err)
	}
	proc.pid = cmd.Process.Pid
	forget := r.m.runDir.note(proc.pid, r.id, p.remove)
	go func() { // joined through ended
		defer close(proc.ended)
		awaitExit(proc.pid)
		lose(errExited)
		// The leader is a zombie, so its pid, and with it the group's id, is still ours: what it started ends with it.
		_ = unix.Kill(-proc.pid, unix.SIGKILL)
		proc.mu.Lock()
		proc.gone = true
		proc.mu.Unlock()
		err := cmd.Wait() // reaps, and joins the readers of its output
		// The process was the container's command line: the container itself is nobody's child.
		if err := remove(p.remove); err != nil {
			log.Debug("the container was not removed", zap.Error(err))
		}
		forget()
		stdout.flush()
		stderr.flush()
		proc.state, proc.epitaph = cmd.ProcessState, proc.mourn(cmd.ProcessState, err)
	}()
	return proc, nil
}

// awaitExit waits until the child ended, without reaping it.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// isZombie tells whether a child has ended that was not reaped yet.
func isZombie(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	return err == nil && info.Signo != 0
}

func (p *process) mourn(state *os.ProcessState, err error) string {
	how := "exit status unknown"
	if state != nil {
		how = state.String()
	} else if err != nil {
		how = err.Error()
	}
	text := fmt.Sprintf("the worker process ended (%s)", how)
	if last := p.log.last("stderr", 3); len(last) > 0 {
		text += "; its last words: " + strings.Join(last, " | ")
	}
	return text
}

// hear looks for the worker's announcement, {"listening":"127.0.0.1:PORT"}.
func (p *process) hear(line string) {
	var said struct {
		Listening string `json:"listening"`
	}
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &said) != nil || said.Listening == "" {
		return
	}
	select {
	case p.announced <- said.Listening:
	default: // only the first counts
	}
}

// end makes the process and its group end, and returns when it has: with a grace by SIGTERM first, and by SIGKILL when
// that or kill ends.
func (p *process) end(kill context.Context, grace time.Duration) {
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

func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		p.killed = p.killed || !isZombie(p.pid)
		_ = unix.Kill(-p.pid, sig)
	}
}

// containerEnv is what the command line of containers needs to find its daemon, or its rootless state.
func containerEnv() (env []string) {
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if slices.Contains([]string{"PATH", "HOME", "LANG", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR"}, name) ||
			strings.HasPrefix(name, "DOCKER_") || strings.HasPrefix(name, "CONTAINER_") {
			env = append(env, pair)
		}
	}
	return env
}

// workerEnv is all that a worker inherits. Cards are those it was granted; nil where Memory grants none.
func workerEnv(spec Spec, cards []int) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "LANG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	libraries := spec.LibsDir
	if own := os.Getenv("LD_LIBRARY_PATH"); own != "" && libraries != "" {
		libraries += ":" + own
	} else if own != "" {
		libraries = own
	}
	if libraries != "" {
		env = append(env, "LD_LIBRARY_PATH="+libraries)
	}
	mask := spec.Device
	if cards != nil {
		mask = strings.Trim(strings.ReplaceAll(fmt.Sprint(cards), " ", ","), "[]")
	}
	switch mask {
	case "auto":
	case "cpu":
		env = append(env, "CUDA_VISIBLE_DEVICES=")
	default: // NVML counts cards in the order of the bus, CUDA does so only when told
		env = append(env, "CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES="+mask)
	}
	return env
}
