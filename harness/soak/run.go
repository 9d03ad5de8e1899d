// SPDX-License-Identifier: GPL-3.0-or-later

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
)

// Options say how to soak.
type Options struct {
	Root    string // of the repository
	Results string // folder for the plot and the samples
	For     time.Duration
	Rate    float64 // acts a second
	Out     io.Writer
}

// PerHour is what a machine that has nothing else to do is given in an hour.
const PerHour = 100_000

// The load's shape.
const (
	visitors = 32
	engineOf = 8                // slots of the stand-in
	samples  = 40               // that a run should have, at the least
	looks    = 10               // of a sample
	calmFor  = 2 * time.Second  // what they take together
	answerIn = time.Minute      // an act that takes longer is stuck
	keeps    = 30 * time.Second // how long the daemon keeps what has ended
)

// The pools of the built-in worker: one that nobody touches, one whose workers are killed, and one that each reload replaces.
const (
	calm    = "calm"
	killed  = "killed"
	changed = "changed"
)

// pools are all of them. The last is the stand-in's.
var pools = []string{calm, killed, changed, quick}

// soak is a run.
type soak struct {
	o       Options
	lab     *daemon.Lab
	dir     string
	config  string
	daemon  *daemon.Daemon
	engine  *httptest.Server
	crowd   *crowd
	reloads int
	kills   int
	cuts    int
}

// Run soaks a daemon, prints what it saw, and draws it. The error names what grows.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "llama-orch-soak-")
	if err != nil {
		return fmt.Errorf("make the run's folder: %w", err)
	}
	defer os.RemoveAll(dir)
	l, err := daemon.NewLab(ctx, dir, o.Root)
	if err != nil {
		return err
	}
	defer l.Close()
	s := &soak{o: o, lab: l, dir: filepath.Join(l.Dir, "daemon")}
	engine := fakeengine.New(fakeengine.Options{Slots: engineOf})
	engine.SetScript(fakeengine.Script{Match: slowly, IntervalMS: atATime})
	s.engine = httptest.NewServer(engine)
	defer s.engine.Close()
	defer s.engine.CloseClientConnections()
	if err := s.start(ctx); err != nil {
		return err
	}
	defer func() {
		s.daemon.Kill()
		for _, w := range l.Workers() {
			w.Kill()
		}
	}()
	seen, err := s.soak(ctx)
	if err == nil {
		err = s.end()
	}
	all := seriesOf(seen)
	s.report(all)
	return errors.Join(err, s.keep(all), s.crowd.judge(), judge(all))
}

// configure writes the configuration. What is kept is kept for half a minute, so that all of it has its most within the first tenth.
func (s *soak) configure() error {
	var b strings.Builder
	fmt.Fprintf(&b, "bind_addr: 127.0.0.1:0\ndata_dir: %[1]q\nauth: {optional_on_loopback: true}\nledger: {retain_age: %[2]s}\nartifacts: {retain_age: %[2]s}\n"+
		"sessions: {ttl: %[2]s}\nfronts: {keep: %[2]s}\npools:\n", filepath.Join(s.dir, "data"), keeps)
	for _, p := range pools[:3] {
		capacity := 64
		if p == changed {
			capacity += s.reloads % 2
		}
		fmt.Fprintf(&b, "  - {id: %s, model: {id: %s, ref: %q}, device: cpu, threads: 1, ctx: 256, queue: {capacity: %d}}\n", p, haiku, "file:"+s.lab.Model, capacity)
	}
	fmt.Fprintf(&b, "  - {id: %s, model: {id: %s, ref: stand-in}, slots: %d, provisioning: {mode: external, urls: [%q]}, queue: {capacity: 64}}\n", quick, quick, engineOf, s.engine.URL)
	if err := os.WriteFile(s.config, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the daemon's configuration: %w", err)
	}
	return nil
}

func (s *soak) start(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Join(s.dir, "tmp"), 0o700); err != nil {
		return fmt.Errorf("make the daemon's folder: %w", err)
	}
	s.config = filepath.Join(s.dir, "config.yaml")
	if err := s.configure(); err != nil {
		return err
	}
	s.daemon, err = s.lab.Serve(ctx, daemon.Options{Config: s.config, Options: process.Options{
		Args: []string{"--no-self-test"}, Env: s.lab.Env(s.dir, map[string]string{"TMPDIR": filepath.Join(s.dir, "tmp")}), Keep: 400,
	}})
	if err != nil {
		return err
	}
	for _, p := range pools {
		if _, err := s.daemon.Idle(ctx, p); err != nil {
			s.daemon.Kill()
			return err
		}
	}
	s.crowd = &crowd{
		url: s.daemon.URL, native: s.daemon.Client, run: fmt.Sprintf("soak-%d", os.Getpid()), ends: map[string]map[string]int{},
		http: &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: visitors}},
	}
	return nil
}

// soak runs clients and faults beside each other, and looks at the daemon meanwhile.
func (s *soak) soak(ctx context.Context) (seen []sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.For)
	defer cancel()
	defer s.crowd.http.CloseIdleConnections()
	data := filepath.Join(s.dir, "data")
	ledger, err := openLedger(data)
	if err != nil {
		return nil, err
	}
	defer ledger.Close()
	look := &sampler{daemon: s.daemon, data: data, calm: calm, ledger: ledger}

	pace := rate.NewLimiter(rate.Limit(s.o.Rate), visitors)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for i := range visitors {
		v := &visitor{crowd: s.crowd, r: rand.New(rand.NewPCG(uint64(i), 0x736f616b)), me: i}
		running.Go(func() { v.visit(ctx, pace) })
	}
	for n := 0; pause(ctx, s.cycle()-calmFor); n++ {
		one, err := s.look(ctx, look)
		switch {
		case s.daemon.Ended():
			return seen, fmt.Errorf("the daemon has ended:\n%s", s.daemon.Tail(20))
		case ctx.Err() != nil:
			return seen, nil
		case err != nil:
			return seen, err
		}
		seen = append(seen, one)
		if pause(ctx, calmFor) { // the clients have come back
			s.fault(n)
		}
	}
	return seen, nil
}

// cycle is the time from one sample to the next.
func (s *soak) cycle() time.Duration { return min(max(s.o.For/samples, 5*time.Second), 20*time.Second) }

// visit has a client do one thing after the other, at the pace of all.
func (v *visitor) visit(ctx context.Context, pace *rate.Limiter) {
	for pace.Wait(ctx) == nil {
		a := v.next()
		err := v.do(ctx, a)
		if ctx.Err() == nil { // else it may be the run's end that broke it off
			v.note(a.name, err)
		}
	}
}

// do does one thing, unless all clients are to wait: then it waits.
func (v *visitor) do(ctx context.Context, a act) error {
	v.open.RLock()
	defer v.open.RUnlock()
	ctx, end := context.WithTimeout(ctx, answerIn)
	defer end()
	v.ctx = ctx
	return a.run(v)
}

// look has the clients wait, and takes a sample once all that they had begun has ended and all workers are there. So what is counted is what stays, and not what just
// happens to be under way. Connections and goroutines take a moment to end: of ten looks, the least counts.
func (s *soak) look(ctx context.Context, at *sampler) (least sample, err error) {
	s.crowd.open.Lock()
	defer s.crowd.open.Unlock()
	// A worker that is killed often is tried again ever later. An operator has it tried now.
	if _, err := s.daemon.Client.Post(ctx, "/v1/pools/"+killed+"/load", nil, http.StatusAccepted); err != nil {
		return least, fmt.Errorf("have the pool tried again whose workers are killed: %w", err)
	}
	for _, p := range pools {
		if _, err := s.daemon.Idle(ctx, p); err != nil {
			return least, fmt.Errorf("the clients wait, and the pool is not idle: %w", err)
		}
	}
	for n := range looks {
		s.crowd.http.CloseIdleConnections()
		s.crowd.native.Close()
		s.engine.CloseClientConnections() // how many of them idle is chance; those to the calm workers show what is not closed
		if !pause(ctx, calmFor/looks) {
			return least, context.Cause(ctx)
		}
		one, err := at.take(ctx)
		if err != nil {
			return least, err
		}
		if n == 0 {
			least = one
		}
		least.least(one)
	}
	return least, nil
}

// fault kills a worker, has the configuration read again, or cuts the engine's connections, in turns.
func (s *soak) fault(n int) {
	switch n % 3 {
	case 0:
		noted := daemon.Noted(filepath.Join(s.dir, "data"))
		for _, w := range s.daemon.Workers() {
			if strings.HasPrefix(noted[w.Pid], killed+"-") {
				w.Kill()
				s.kills++
			}
		}
	case 1:
		s.reloads++
		if s.configure() == nil {
			_ = s.daemon.Signal(syscall.SIGHUP) // one that has ended is noticed
		}
	case 2:
		s.engine.CloseClientConnections()
		s.cuts++
	}
}

// end has the daemon end, and waits for its workers.
func (s *soak) end() error {
	code, err := s.daemon.Stop(syscall.SIGTERM)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("the daemon ended with exit code %d:\n%s", code, s.daemon.Tail(20))
	}
	return nil
}

// report prints what came out.
func (s *soak) report(all []Series) {
	out := s.o.Out
	tasks := 0.0
	if len(all) > 0 {
		tasks = all[0].Tasks[len(all[0].Tasks)-1]
	}
	fmt.Fprintf(out, "\n%.0f tasks in %s; %d reloads, %d kills of workers, %d cuts of the engine's connections\n\n", tasks, s.o.For, s.reloads, s.kills, s.cuts)
	fmt.Fprintln(out, "| act | ended |\n|---|---|")
	s.crowd.mu.Lock()
	defer s.crowd.mu.Unlock()
	for _, a := range acts {
		ends := s.crowd.ends[a.name]
		var words []string
		for _, how := range slices.SortedFunc(maps.Keys(ends), func(a, b string) int { return ends[b] - ends[a] }) {
			words = append(words, fmt.Sprintf("%s %d", how, ends[how]))
		}
		fmt.Fprintf(out, "| %s | %s |\n", a.name, strings.Join(words, ", "))
	}
	fmt.Fprintf(out, "\nThe line that fits what follows the first tenth; slopes are for %d tasks, with three standard errors.\n\n", perTasks)
	fmt.Fprintln(out, "| | unit | from | to | slope | error | a leak's | |\n|---|---|---:|---:|---:|---:|---:|---|")
	for _, one := range all {
		fmt.Fprintln(out, one)
	}
}

// keep writes the plot, and the series as JSON.
func (s *soak) keep(all []Series) error {
	if err := os.MkdirAll(s.o.Results, 0o755); err != nil {
		return fmt.Errorf("make the folder of results: %w", err)
	}
	name := filepath.Join(s.o.Results, "soak")
	if err := os.WriteFile(name+".json", encode(all), 0o644); err != nil {
		return fmt.Errorf("write the series: %w", err)
	}
	if err := Draw(name+".svg", all); err != nil {
		return err
	}
	fmt.Fprintf(s.o.Out, "\n%s.svg shows it\n", name)
	return nil
}

// judge is the error that says which acts ended as none should.
func (c *crowd) judge() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.odd) > 0 {
		return fmt.Errorf("these should not have been:\n%s", strings.Join(c.odd, "\n"))
	}
	return nil
}

// judge is the error that names what grows, and what cannot be told.
func judge(all []Series) error {
	if len(all) == 0 {
		return errors.New("nothing was seen")
	}
	words := map[Word][]string{}
	for _, s := range all {
		w := s.Judge().Word
		words[w] = append(words[w], s.Name)
	}
	var bad []error
	if grow := words[Grows]; len(grow) > 0 {
		bad = append(bad, fmt.Errorf("these grow with the tasks: %s", strings.Join(grow, ", ")))
	}
	if unclear := words[Unclear]; len(unclear) > 0 {
		bad = append(bad, fmt.Errorf("the run was too short to tell whether these grow: %s", strings.Join(unclear, ", ")))
	}
	return errors.Join(bad...)
}

// form is one that sends a file for a batch, and its type.
func form(name, text string) (body []byte, kind string) {
	var b bytes.Buffer
	to := multipart.NewWriter(&b)
	file, err := to.CreateFormFile("file", name)
	if err == nil {
		_, err = io.WriteString(file, text)
	}
	if err = errors.Join(err, to.WriteField("purpose", "batch"), to.Close()); err != nil {
		panic(err) // it is written to memory
	}
	return b.Bytes(), to.FormDataContentType()
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // texts and numbers always encode
		panic(err)
	}
	return b
}

// pause waits, and returns false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
