// SPDX-License-Identifier: GPL-3.0-or-later

// Package exec runs commands of an allow list, each in a folder of its own, with a bare environment, and with bounds on time, memory and output
// (LO-918). Where the kernel has Landlock, a command reads only programs and libraries, writes only its folder, and has no network. What the machine
// cannot hold a command to, the result says in words.
package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/internal/nearest"
)

// The defaults of a Policy's bounds.
const (
	DefaultTime   = 10 * time.Second
	DefaultMemory = 4 << 30
	DefaultOutput = 1 << 20
)

// reapWithin bounds the wait for output after a command has ended: something that left its process group may hold the pipe.
const reapWithin = time.Second

// Policy says what may run, and how. Allow is required; zero elsewhere means the default.
type Policy struct {
	Allow  []string      // names, looked up in the policy's PATH, or absolute paths
	Time   time.Duration // by the clock
	Memory int64         // bytes of address space, for each process
	Output int64         // bytes, of stdout and stderr each
	Path   string        // of programs; default /usr/local/bin:/usr/bin:/bin
	Read   []string      // files and folders that commands may read beside programs and libraries, such as a toolchain
	Env    []string      // NAME=value, beside PATH, HOME, TMPDIR and LANG
	Net    bool          // commands may open connections
}

// Command is one command.
type Command struct {
	Name  string            `json:"name"`
	Args  []string          `json:"args,omitempty"`
	Stdin string            `json:"stdin,omitempty"`
	Files map[string]string `json:"files,omitempty"` // put into its folder first
	Dir   string            `json:"-"`               // its folder; default: a new one, which is removed when it has ended
}

// Result is what a command did.
type Result struct {
	Code    int    `json:"code"` // its exit code; -1 if it was ended by a signal
	Stdout  string `json:"stdout"`
	Stderr  string `json:"stderr"`
	Stopped string `json:"stopped,omitempty"` // the bound that ended it: `time` or `output`; or its signal
	// Missing says what it was not held to, in words. Empty: to everything.
	Missing []string `json:"missing,omitempty"`
}

// DeniedError says that a command is not on the allow list.
type DeniedError struct {
	Name  string
	Allow []string
}

func (e *DeniedError) Error() string {
	allowed := "no command is"
	if len(e.Allow) > 0 {
		allowed = "allowed are " + strings.Join(e.Allow, ", ")
	}
	if like := nearest.Name(e.Name, e.Allow); like != "" {
		allowed += fmt.Sprintf("; did you mean %q?", like)
	}
	return fmt.Sprintf("command %q is not allowed: %s", e.Name, allowed)
}

// StartError says that a command could not be started.
type StartError struct {
	Name string
	Err  error
}

func (e *StartError) Error() string {
	return fmt.Sprintf("command %q cannot be started: %v; check that it is installed, and that what it reads is in the policy", e.Name, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

// Run runs a command, and waits until it and its process group have ended. That it failed is no error: the result says so.
func Run(ctx context.Context, p Policy, c Command) (*Result, error) {
	p = p.filled()
	program, err := p.find(c.Name)
	if err != nil {
		return nil, err
	}
	dir := c.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "llama-orch-exec-"); err != nil {
			return nil, fmt.Errorf("make the command's folder: %w", err)
		}
		defer os.RemoveAll(dir)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("find the command's folder: %w", err)
	}
	if err := put(dir, c.Files); err != nil {
		return nil, err
	}
	r := &run{policy: p, program: program, command: c, dir: dir, done: make(chan struct{})}
	go r.run(ctx) // on a thread of its own, which is restricted with the command and ends with it
	<-r.done
	return r.result, r.err
}

func (p Policy) filled() Policy {
	if p.Time <= 0 {
		p.Time = DefaultTime
	}
	if p.Memory <= 0 {
		p.Memory = DefaultMemory
	}
	if p.Output <= 0 {
		p.Output = DefaultOutput
	}
	if p.Path == "" {
		p.Path = "/usr/local/bin:/usr/bin:/bin"
	}
	return p
}

// find looks a command up. Only the exact words of the allow list will do.
func (p Policy) find(name string) (string, error) {
	if name == "" || !slices.Contains(p.Allow, name) {
		return "", &DeniedError{Name: name, Allow: p.Allow}
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range filepath.SplitList(p.Path) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && filepath.Base(name) == name {
			return path, nil
		}
	}
	return "", &StartError{Name: name, Err: fmt.Errorf("%w in %s", exec.ErrNotFound, p.Path)}
}

// put writes the command's files, below its folder alone.
func put(dir string, files map[string]string) error {
	if len(files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the command's folder: %w", err)
	}
	defer root.Close()
	for name, content := range files {
		err := root.MkdirAll(filepath.Dir(name), 0o755)
		if err == nil {
			err = root.WriteFile(name, []byte(content), 0o644)
		}
		if err != nil {
			return fmt.Errorf("put file %q into the command's folder: %w", name, err)
		}
	}
	return nil
}

// run is one command that runs. Its goroutine alone writes it until done is closed.
type run struct {
	policy  Policy
	program string
	command Command
	dir     string
	result  *Result
	err     error
	done    chan struct{}
}

func (r *run) run(ctx context.Context) {
	defer close(r.done)
	defer func() {
		if p := recover(); p != nil {
			r.err = fmt.Errorf("running %q broke: %v\n%s", r.command.Name, p, debug.Stack())
		}
	}()
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, and its restriction with the thread
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	result := &Result{}
	stdout, stderr := &bounded{limit: r.policy.Output, full: stop}, &bounded{limit: r.policy.Output, full: stop}
	cmd := exec.Command(r.program, r.command.Args...) //nolint:noctx // its whole group ends with the context, below
	cmd.Args[0] = r.command.Name
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = r.dir, strings.NewReader(r.command.Stdin), stdout, stderr
	cmd.Env = append([]string{"PATH=" + r.policy.Path, "HOME=" + r.dir, "TMPDIR=" + r.dir, "LANG=C.UTF-8", "PWD=" + r.dir}, r.policy.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = reapWithin

	missing, err := start(cmd, r.policy, r.dir)
	if err != nil {
		r.err = &StartError{Name: r.command.Name, Err: err}
		return
	}
	result.Missing = missing
	group := &group{pid: cmd.Process.Pid}
	defer context.AfterFunc(ctx, group.kill)()
	defer time.AfterFunc(r.policy.Time, func() { stop(errTime) }).Stop()
	err = await(cmd.Process.Pid)
	group.end()
	err = errors.Join(err, cmd.Wait())
	result.Stdout, result.Stderr, result.Code = stdout.text(), stderr.text(), cmd.ProcessState.ExitCode()
	if errors.Is(err, exec.ErrWaitDelay) {
		result.Missing = append(result.Missing, "something left the process group and held its output: it may still run")
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTime):
		result.Stopped = "time"
	case errors.Is(cause, errOutput):
		result.Stopped = "output"
	case cause != nil:
		r.err = cause
		return
	default:
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			result.Stopped = status.Signal().String()
		}
	}
	r.result = result
}

// The causes for which a command is ended.
var (
	errTime   = errors.New("its time is over")
	errOutput = errors.New("it writes too much")
)

// group is a command's process group. Its number is the command's, until that has been waited for.
type group struct {
	mu    sync.Mutex
	pid   int
	ended bool
}

func (g *group) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		_ = syscall.Kill(-g.pid, syscall.SIGKILL) // it may be empty
	}
}

// end kills what the command left in its group, once and for all.
func (g *group) end() {
	g.kill()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
}

// bounded keeps what is written, up to a limit, and has the command ended when more comes.
type bounded struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	limit int64
	full  context.CancelCauseFunc
}

// Write implements io.Writer. It never fails: a command that cannot write would end for another reason than its bound.
func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := b.limit - int64(b.buf.Len())
	if int64(len(p)) > room {
		b.full(errOutput)
	}
	b.buf.Write(p[:min(int64(len(p)), room)])
	return len(p), nil
}

func (b *bounded) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.ToValidUTF8(b.buf.String(), "\uFFFD")
}
