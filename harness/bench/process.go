// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for a process. It is long, because a busy machine is no failure.
const patience = time.Minute

// process is a child that listens.
type process struct {
	name  string
	log   string // the file of its output
	addrs []string
	begun time.Time
	cmd   *exec.Cmd
	stdin *os.File // its end is what ends a role of this program
	ended chan struct{}
}

var listening = regexp.MustCompile(`"(?:listening|addr)":"([^"]+)"`)

// start runs a program and waits until its output says where it listens. Only the main goroutine may start one.
func (l *lab) start(name, dir, exe string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), ended: make(chan struct{}), cmd: exec.Command(exe, args...)}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the log of %s: %w", name, err)
	}
	defer out.Close()
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for %s: %w", name, err)
	}
	defer in.Close()
	p.stdin = stdin
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = in, out, out
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.begun = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), stdin.Close())
	}
	go func() { // joined through ended
		defer close(p.ended)
		_ = p.cmd.Wait() // it is ended by a signal
	}()
	err = l.until(patience, func() bool {
		text, _ := os.ReadFile(p.log)
		if m := listening.FindSubmatch(text); m != nil {
			p.addrs = strings.Fields(string(m[1]))
		}
		return p.addrs != nil || p.gone()
	})
	if p.addrs == nil {
		return nil, errors.Join(fmt.Errorf("%s does not serve: %w", name, errors.Join(err, errors.New(p.tail()))), p.kill())
	}
	return p, nil
}

// until asks every millisecond.
func (l *lab) until(bound time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeoutCause(l.ctx, bound, fmt.Errorf("waited %s in vain", bound))
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *process) url() string { return p.urls()[0] }

func (p *process) urls() (urls []string) {
	for _, addr := range p.addrs {
		urls = append(urls, "http://"+addr)
	}
	return urls
}

func (p *process) gone() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) tail() string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(len(lines)-10, 0):], "\n")
}

// kill ends the process as `kill -9` does.
func (p *process) kill() error {
	if !p.gone() {
		_ = p.cmd.Process.Kill() // it may just have ended
		<-p.ended
	}
	return p.stdin.Close()
}

// end asks the process to end, and then makes it.
func (p *process) end() error {
	if p.gone() {
		return errors.Join(fmt.Errorf("%s ended by itself (%s):\n%s", p.name, p.cmd.ProcessState, p.tail()), p.stdin.Close())
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
	}
	return p.kill()
}

// cpu is the CPU time of all of the process's threads, user and system: the figure behind utime and stime of
// /proc/PID/stat, which are the same in ticks of 10 ms.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	return cpuOf(p.cmd.Process.Pid)
}

func cpuOf(pid int) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil { // as clock_getcpuclockid(3) makes it
		return 0
	}
	return time.Duration(t.Nano())
}

// rss is the process's resident memory, and the part of it that is not files' pages, in bytes.
func (p *process) rss() (all, anon int64) {
	if p == nil {
		return 0, 0
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			all = kib << 10
		case "RssAnon:":
			anon = kib << 10
		}
	}
	return all, anon
}

// busy is the CPU time that the machine has spent on everything.
func busy() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	ticks := int64(0)
	for i, field := range strings.Fields(line) {
		n, _ := strconv.ParseInt(field, 10, 64)
		if i >= 1 && i <= 8 && i != 4 && i != 5 { // without idle and iowait; guests are in user
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// build makes the daemon.
func build(ctx context.Context, exe string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", exe, "github.com/llama-orch/llama-orch/cmd/orchestratord")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the daemon: %w\n%s", err, out)
	}
	return nil
}

// pool is what a bench's daemon has.
const pool = `bind_addr: 127.0.0.1:0
data_dir: %q
auth: {optional_on_loopback: true}
pools:
  - id: bench
    model: {id: bench, ref: label}
    slots: 256
    provisioning: {mode: external, urls: [%s]}
    queue: {capacity: 1000000}
    timeouts: {wall: 1h, idle: 1h}
`

// daemon starts an orchestrator in front of the stub, with its data in a folder, and waits until its pool is ready.
func (l *lab) daemon(name, exe, data string, urls ...string) (*process, error) {
	l.count++
	dir := filepath.Join(l.disk, fmt.Sprintf("daemon-%d", l.count))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the daemon's folder: %w", err)
	}
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, pool, data, `"`+strings.Join(urls, `", "`)+`"`), 0o600); err != nil {
		return nil, fmt.Errorf("write the daemon's configuration: %w", err)
	}
	if l.profile != "" && name == "daemon" {
		return l.start(name, dir, l.self, "profiled", config, l.profile)
	}
	return l.start(name, dir, exe, "serve", "--no-self-test", "--config", config, "--stop-within", "2s")
}

// answers waits until a GET of the path is answered with 200, and returns the time since the process began.
func (l *lab) answers(p *process, path string) (time.Duration, error) {
	err := l.until(patience, func() bool {
		r, err := http.Get(p.url() + path)
		if err != nil {
			return p.gone()
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	if err == nil && p.gone() {
		err = fmt.Errorf("%s ended:\n%s", p.name, p.tail())
	}
	return time.Since(p.begun), err
}

// series reads a metric's sum over all label values that contain label.
func series(p *process, name, label string) (sum float64, err error) {
	r, err := http.Get(p.url() + "/metrics")
	if err != nil {
		return 0, fmt.Errorf("read %s's metrics: %w", p.name, err)
	}
	defer r.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(r.Body); err != nil {
		return 0, fmt.Errorf("read %s's metrics: %w", p.name, err)
	}
	found := false
	for line := range strings.Lines(text.String()) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') && strings.Contains(rest, label) {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				return 0, fmt.Errorf("read %s of %s: %w", name, p.name, err)
			}
			sum, found = sum+n, true
		}
	}
	if !found {
		return 0, fmt.Errorf("%s of %s: there is no such series", name, p.name)
	}
	return sum, nil
}
