// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// patience bounds every wait for a process. It is long, because a busy machine is no failure.
const patience = time.Minute

// lab is what a run's daemons share.
type lab struct {
	dir   string // the caller removes it
	exe   string // orchestratord, built for this run: whoever runs it is ours
	model string
	libs  string

	starts chan func() // runs on one thread that stays: the parent-death signal is sent when the starting thread ends
}

func newLab(dir, root string) (*lab, error) {
	libs, err := provision.LocateEngineLibs()
	if err != nil {
		return nil, err // it says what to run
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as /proc shows it
		return nil, fmt.Errorf("find the run's folder: %w", err)
	}
	l := &lab{
		dir: dir, exe: filepath.Join(dir, "orchestratord"), model: filepath.Join(root, "models", "haiku", "haiku.gguf"), libs: libs,
		starts: make(chan func()),
	}
	build := exec.Command("go", "build", "-o", l.exe, "./cmd/orchestratord")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the daemon: %w\n%s", err, out)
	}
	go func() { // ends with close
		runtime.LockOSThread()
		for start := range l.starts {
			start()
		}
	}()
	return l, nil
}

func (l *lab) close() { close(l.starts) }

func (l *lab) start(cmd *exec.Cmd) error {
	result := make(chan error)
	l.starts <- func() { result <- cmd.Start() }
	return <-result
}

// configure writes a daemon's configuration into a folder of its own.
func (l *lab) configure(dir, dataDir string, pace int, all []poolPlan) (path string, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "bind_addr: 127.0.0.1:0\ndata_dir: %q\nauth: {optional_on_loopback: true}\npools:\n", dataDir)
	for _, p := range all {
		fmt.Fprintf(&b, "  - {id: %s, model: {id: haiku, ref: %q}, device: cpu, replicas: %d, threads: 1, ctx: 256, pace: %d, "+
			"queue: {capacity: %d, full_policy: %s}}\n", p.id, "file:"+l.model, p.replicas, pace, p.capacity, p.policy)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return "", fmt.Errorf("make the daemon's folder: %w", err)
	}
	path = filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("write the daemon's configuration: %w", err)
	}
	return path, nil
}

// daemon is one life of orchestratord.
type daemon struct {
	lab    *lab
	dir    string // of the configuration
	data   string
	cmd    *exec.Cmd
	client *client.Client
	ended  chan struct{}

	mu    sync.Mutex
	lines []string // the end of its log
}

// serve starts a daemon and waits until it serves.
func (l *lab) serve(config, dataDir string) (*daemon, error) {
	dir := filepath.Dir(config)
	d := &daemon{lab: l, dir: dir, data: dataDir, ended: make(chan struct{}), cmd: exec.Command(l.exe, "serve", "--no-self-test", "--config", config, "--stop-within", "3s")}
	d.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"), provision.EnvEngineLibs + "=" + l.libs,
	}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	read, write, err := os.Pipe() // this process owns it, so that a left-over worker that holds it blocks nothing
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
		_ = d.cmd.Wait() // how it ended is in its state
		_ = read.SetReadDeadline(time.Now().Add(2 * time.Second))
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

// read keeps the end of the daemon's log, and finds the address in it.
func (d *daemon) read(r io.Reader, addr chan<- string) {
	in := bufio.NewReader(r)
	for found := false; ; {
		text, err := in.ReadString('\n')
		if text != "" {
			d.mu.Lock()
			d.lines = append(d.lines, strings.TrimSuffix(text, "\n"))
			d.lines = d.lines[max(len(d.lines)-400, 0):]
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

func (d *daemon) tail() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, "\n") + "\n"
}

func (d *daemon) pid() int { return d.cmd.Process.Pid }

// kill ends the daemon alone, as `kill -9` does: its workers have to follow by themselves.
func (d *daemon) kill() {
	select {
	case <-d.ended: // its pid may be somebody else's by now
	default:
		_ = d.cmd.Process.Kill()
	}
	<-d.ended
	if d.client != nil {
		d.client.Close()
	}
}

// stop ends the daemon with SIGTERM, and says whether it ended well.
func (d *daemon) stop() bool {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-d.ended:
	case <-limit.C:
		d.kill()
	}
	d.client.Close()
	return d.cmd.ProcessState.ExitCode() == 0
}

// worker is a worker process. A pid alone does not name one: it may be given to another process.
type worker struct {
	pid     int
	start   string // in clock ticks since boot
	replica string // as the daemon noted it, empty if it could not
}

// workers are the daemon's children that run its program.
func (d *daemon) workers() (found []worker) {
	for _, w := range d.lab.processes() {
		if parent, _ := stat(w.pid); parent != strconv.Itoa(d.pid()) {
			continue
		}
		var note struct {
			Replica string `json:"replica_id"`
		}
		if data, err := os.ReadFile(filepath.Join(d.data, "run", strconv.Itoa(w.pid)+".json")); err == nil && json.Unmarshal(data, &note) == nil {
			w.replica = note.Replica
		}
		found = append(found, w)
	}
	return found
}

// processes are all that run this lab's program.
func (l *lab) processes() (found []worker) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if target, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || target != l.exe {
			continue // not ours, or not there any more
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if _, start := stat(pid); start != "" {
			found = append(found, worker{pid: pid, start: start})
		}
	}
	slices.SortFunc(found, func(a, b worker) int { return a.pid - b.pid })
	return found
}

// stat reads the parent and the start time from /proc/<pid>/stat; the name in brackets may hold anything.
func stat(pid int) (parent, start string) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return "", ""
	}
	return fields[1], fields[19]
}

// alive reports whether the process is still there, and no zombie.
func (w worker) alive(l *lab) bool {
	_, start := stat(w.pid)
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", w.pid)) // a zombie has none
	return start == w.start && err == nil && target == l.exe
}

func (w worker) kill(l *lab) {
	if w.alive(l) {
		_ = syscall.Kill(w.pid, syscall.SIGKILL)
	}
}

// fds counts the daemon's open descriptors.
func (d *daemon) fds() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid()))
	return len(entries)
}

// goroutines asks the daemon's metrics.
func (d *daemon) goroutines(ctx context.Context) int {
	data, err := d.client.Get(ctx, "/metrics")
	if err != nil {
		return 0
	}
	n := 0
	if _, rest, ok := bytes.Cut(data, []byte("\ngo_goroutines ")); ok {
		_, _ = fmt.Sscan(string(rest), &n)
	}
	return n
}

// ready waits until all replicas of all pools are ready and none has a task.
func (d *daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		waiting := 0
		for _, p := range pools {
			var health struct {
				Replicas []struct {
					State  string `json:"state"`
					Active int    `json:"active"`
				} `json:"replicas"`
			}
			data, err := d.client.Get(ctx, "/v1/pools/"+p.id+"/health")
			if err == nil {
				err = json.Unmarshal(data, &health)
			}
			if err != nil {
				return fmt.Errorf("ask for the health of pool %s: %w", p.id, err)
			}
			for _, r := range health.Replicas {
				if r.State != "ready" || r.Active > 0 {
					waiting++
				}
			}
		}
		if waiting == 0 {
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("%d replicas did not get ready and idle within %s:\n%s", waiting, patience, d.tail())
		}
	}
}

// pause waits, and returns false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
