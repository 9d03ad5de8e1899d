// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
)

// child is a process that listens.
type child struct {
	*process.Process

	urls   []string
	daemon *daemon.Daemon // nil: it is none
}

// options run a child whose output goes to a file: a reader would take part in what is measured.
func options(name, dir, exe string, args ...string) (process.Options, error) {
	out, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return process.Options{}, fmt.Errorf("make the log of %s: %w", name, err)
	}
	return process.Options{Name: name, Exe: exe, Args: args, Env: process.Env(dir, nil), File: out}, nil
}

// start runs a role of this program and waits until it says where it listens.
func (l *lab) start(role string, args ...string) (*child, error) {
	o, err := options(role, l.disk, l.self, append([]string{role}, args...)...)
	if err != nil {
		return nil, err
	}
	defer o.File.Close() // the child has it
	p, err := l.launcher.Start(o)
	if err != nil {
		return nil, err
	}
	c := &child{Process: p}
	if err := p.Said("its addresses", func(text string) bool {
		var line struct{ Listening string }
		if json.Unmarshal([]byte(text), &line) != nil {
			return false
		}
		for addr := range strings.FieldsSeq(line.Listening) {
			c.urls = append(c.urls, "http://"+addr)
		}
		return c.urls != nil
	}); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%w:\n%s", err, p.Tail(10))
	}
	return c, nil
}

func (c *child) url() string { return c.urls[0] }

// end asks the process to end, which has to be news to it.
func (c *child) end() error {
	if c.Ended() {
		return fmt.Errorf("%s ended by itself:\n%s", c.Name, c.Tail(10))
	}
	_, err := c.Stop(syscall.SIGTERM)
	return err
}

// cpu is the CPU time of all of the process's threads, user and system: the figure behind utime and stime of
// /proc/PID/stat, which are the same in ticks of 10 ms.
func (c *child) cpu() time.Duration {
	if c == nil {
		return 0
	}
	return cpuOf(c.Pid())
}

func cpuOf(pid int) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil { // as clock_getcpuclockid(3) makes it
		return 0
	}
	return time.Duration(t.Nano())
}

// rss is the process's resident memory, and the part of it that is not files' pages, in bytes.
func (c *child) rss() (all, anon int64) {
	if c == nil {
		return 0, 0
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid()))
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

// A bench's daemon has pools of the stub's listeners.
const (
	configuration = `bind_addr: 127.0.0.1:0
data_dir: %q
auth: {optional_on_loopback: true}
pools:
`
	poolOf = `  - id: %[1]s
    model: {id: %[1]s, ref: label}
    slots: 256
    provisioning: {mode: external, urls: [%[2]s]}
    queue: {capacity: 1000000}
    timeouts: {wall: 1h, idle: 1h}
`
)

// pool is one of a daemon's pools. Its id is its model's too.
type pool struct {
	id   string
	urls []string
}

// The pools, by the stub's listeners that are behind them.
func broad(stub *child) pool    { return pool{"bench", stub.urls[:2]} }
func narrow(stub *child) pool   { return pool{"bench", stub.urls[2:3]} }
func thinking(stub *child) pool { return pool{"thinks", stub.urls[3:]} }

// serve starts an orchestrator in front of the stub, with its data in a folder, and waits until it serves.
func (l *lab) serve(name, exe, data string, pools ...pool) (*child, error) {
	l.count++
	dir := filepath.Join(l.disk, fmt.Sprintf("daemon-%d", l.count))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the daemon's folder: %w", err)
	}
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Appendf(nil, configuration, data)
	for _, p := range pools {
		text = fmt.Appendf(text, poolOf, p.id, `"`+strings.Join(p.urls, `", "`)+`"`)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, fmt.Errorf("write the daemon's configuration: %w", err)
	}
	o, err := options(name, dir, exe, "--no-self-test", "--stop-within", "2s")
	if err != nil {
		return nil, err
	}
	defer o.File.Close() // the daemon has it
	run := daemon.Start
	if l.profile != "" && name == "daemon" {
		o.Exe, o.Args, run = l.self, []string{"profiled", config, l.profile}, daemon.Attach
	}
	d, err := run(l.ctx, l.launcher, daemon.Options{Options: o, Config: config})
	if err != nil {
		return nil, err
	}
	return &child{Process: d.Process, urls: []string{d.URL}, daemon: d}, nil
}

// answers waits until a GET of the path is answered with 200, and returns the time since the process began.
func (l *lab) answers(c *child, path string) (time.Duration, error) {
	err := c.daemon.Answers(l.ctx, path)
	took := time.Since(c.Begun)
	c.daemon.Client.Close()
	return took, err
}

// series reads a metric's sum over all label values that contain label.
func series(c *child, name, label string) (sum float64, err error) {
	r, err := http.Get(c.url() + "/metrics")
	if err != nil {
		return 0, fmt.Errorf("read %s's metrics: %w", c.Name, err)
	}
	defer r.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(r.Body); err != nil {
		return 0, fmt.Errorf("read %s's metrics: %w", c.Name, err)
	}
	found := false
	for line := range strings.Lines(text.String()) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') && strings.Contains(rest, label) {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				return 0, fmt.Errorf("read %s of %s: %w", name, c.Name, err)
			}
			sum, found = sum+n, true
		}
	}
	if !found {
		return 0, fmt.Errorf("%s of %s: there is no such series", name, c.Name)
	}
	return sum, nil
}
