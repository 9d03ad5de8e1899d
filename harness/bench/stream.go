// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// load is a number of streams that run at a rate.
type load struct {
	name    string
	streams int
	rate    int           // tokens a second of each; 0: as fast as they are taken
	tokens  int           // of each stream, if there is no rate
	ramp    time.Duration // over which the streams are started
	window  time.Duration // the time of measuring, once all streams have begun
}

// sample is the result of one round on one way.
type sample struct {
	p50, p99   time.Duration // from the engine's write to the client's read
	ttft       time.Duration // from the request (of the task) to its first token, median
	cpu        time.Duration // of the process in between, for each token
	cpuStream  time.Duration // and for each stream, beside its tokens
	rss, anon  int64         // at the end of the window
	throughput float64       // tokens a second
	counted    int64         // tokens in the window
	commits    float64       // of the ledger in the window
}

// ways starts what is between the client and the stub: nothing, the proxy, the daemon, and another daemon. The caller calls end with the result of
// its part. Plain asks the stub and the proxy, and native the daemons.
func (l *lab) ways(part string, plain, native ask, pools ...pool) (ways []*way, end func(error) error, err error) {
	urls := l.stub.urls
	var started []*child
	end = func(err error) error {
		for _, c := range slices.Backward(started) {
			err = errors.Join(err, c.end())
		}
		return err
	}
	proxy, err := l.start("proxy", urls[0])
	if err != nil {
		return nil, nil, err
	}
	started = append(started, proxy)
	ways = []*way{newWay("direct", urls[0], nil, plain), newWay("proxy", proxy.url(), proxy, plain)}
	type variant struct{ name, exe, data string }
	variants := []variant{{"daemon", l.exe, filepath.Join(l.disk, part)}}
	switch {
	case l.against != "":
		variants = append(variants, variant{"other daemon", l.against, filepath.Join(l.disk, part+"-against")})
	case !l.quick:
		variants = append(variants, variant{"daemon, ledger in memory", l.exe, filepath.Join(l.memory, part)})
	}
	for _, v := range variants {
		d, err := l.serve(v.name, v.exe, v.data, pools...)
		if err != nil {
			return nil, nil, end(err)
		}
		started = append(started, d)
		if _, err := l.answers(d, "/readyz"); err != nil {
			return nil, nil, end(err)
		}
		ways = append(ways, newWay(v.name, d.url(), d, native))
	}
	return ways, end, nil
}

// streams measures each load on each way.
func (l *lab) streams() (err error) {
	ways, end, err := l.ways("stream", completion, asTask, broad(l.stub))
	if err != nil {
		return err
	}
	defer func() { err = end(err) }()
	rounds := 7
	loads := []load{
		{name: "32 streams of 100 tokens/s", streams: 32, rate: 100, ramp: 300 * time.Millisecond, window: 1500 * time.Millisecond},
		{name: "500 streams of 20 tokens/s", streams: 500, rate: 20, ramp: time.Second, window: 1500 * time.Millisecond},
		{name: "8 streams flat out", streams: 8, tokens: 8000},
	}
	if l.quick {
		rounds = 2
		for i := range loads {
			loads[i].window /= 3
			loads[i].tokens /= 2
		}
	}
	var accepts, tokens, inWindows, commits float64
	for _, load := range loads {
		if !strings.Contains(load.name, l.load) {
			continue
		}
		others := l.others(ways)
		results := make([][]sample, len(ways))
		for range rounds {
			for i, w := range ways {
				s, n, err := l.round(w, load)
				if err != nil {
					return w.blame(load.name, err)
				}
				results[i] = append(results[i], s)
				if i == 2 {
					accepts, tokens = accepts+float64(load.streams), tokens+float64(n)
					inWindows, commits = inWindows+float64(s.counted), commits+s.commits
				}
			}
		}
		fmt.Fprintf(l.out, "\n### %s\n\n%d rounds; load average %s; other programs took %.2f CPUs\n\n", load.name, rounds, loadAverage(),
			others())
		l.table(ways, results, load.rate == 0)
	}
	if err := l.perTask(ways[2].proc, accepts, tokens); err != nil {
		return err
	}
	fmt.Fprintf(l.out, "\n%.0f tokens came in the windows, and %.0f commits of the ledger\n", inWindows, commits)
	return nil
}

// others returns a function that tells how many CPUs other programs have taken since now.
func (l *lab) others(ways []*way) func() float64 {
	all, own, began := busy(), l.cpu(ways), time.Now()
	return func() float64 { return (busy() - all - (l.cpu(ways) - own)).Seconds() / time.Since(began).Seconds() }
}

// cpu returns the CPU time that this run's processes have used.
func (l *lab) cpu(ways []*way) time.Duration {
	sum := cpuOf(0) + l.stub.cpu()
	counted := map[*child]bool{} // several ways may lead through one process
	for _, w := range ways {
		if !counted[w.proc] {
			sum += w.proc.cpu()
		}
		counted[w.proc] = true
	}
	return sum
}

// round runs a load once. It returns the result and the number of tokens.
func (l *lab) round(w *way, load load) (s sample, tokens int64, err error) {
	ctx, cancel := context.WithTimeoutCause(l.ctx, watch.Patience, fmt.Errorf("a round took longer than %s", watch.Patience))
	defer cancel()
	var (
		m        meter
		mu       sync.Mutex
		all      []time.Duration
		ttft     []time.Duration
		failure  error
		running  sync.WaitGroup
		begun    = make(chan struct{}, load.streams)
		prompt   = fmt.Sprintf("rate=%d tokens=%d", load.rate, load.tokens)
		cpuFirst = w.proc.cpu()
		began    = time.Now()
	)
	m.open.Store(load.rate == 0)
	one := func() {
		asked := time.Now()
		var first time.Duration
		tokens, err := w.stream(ctx, prompt, &m, func() { first = time.Since(asked); begun <- struct{}{} })
		mu.Lock()
		defer mu.Unlock()
		all, ttft = append(all, tokens.late...), append(ttft, first)
		if err != nil && failure == nil {
			failure = err // other failures follow from this one
			cancel()
		}
	}
	for i := range load.streams {
		time.Sleep(time.Until(began.Add(load.ramp * time.Duration(i) / time.Duration(load.streams))))
		running.Go(one)
	}
	cpuTokens, counted := time.Duration(0), int64(0)
	if load.rate > 0 {
		for range load.streams {
			select {
			case <-begun:
			case <-ctx.Done():
				running.Wait()
				return s, 0, cmp.Or(failure, context.Cause(ctx))
			}
		}
		time.Sleep(100 * time.Millisecond)
		commits, err := w.commits()
		if err != nil {
			return s, 0, err
		}
		cpu, n, from := w.proc.cpu(), m.tokens.Load(), time.Now()
		m.open.Store(true)
		time.Sleep(load.window)
		m.open.Store(false)
		cpuTokens, counted = w.proc.cpu()-cpu, m.tokens.Load()-n
		s.throughput = float64(counted) / time.Since(from).Seconds()
		s.rss, s.anon = w.proc.rss()
		s.counted = counted
		if s.commits, err = w.commits(); err != nil {
			return s, 0, err
		}
		s.commits -= commits
		if _, err := l.tell("/bench/end"); err != nil {
			return s, 0, err
		}
	}
	running.Wait()
	if failure != nil {
		return s, 0, failure
	}
	tokens = m.tokens.Load()
	cpuAll := w.proc.cpu() - cpuFirst
	if load.rate == 0 {
		cpuTokens, counted = cpuAll, tokens
		s.throughput = float64(tokens) / time.Since(began).Seconds()
		s.rss, s.anon = w.proc.rss()
	}
	if sent, err := l.tell("/bench/sent"); err != nil || sent != fmt.Sprint(tokens) {
		return s, 0, errors.Join(err, fmt.Errorf("the engine sent %s tokens and the clients got %d", sent, tokens))
	}
	s.cpu = cpuTokens / time.Duration(max(counted, 1))
	s.cpuStream = (cpuAll - s.cpu*time.Duration(tokens)) / time.Duration(load.streams)
	s.p50, s.p99, s.ttft = percentile(all, 50), percentile(all, 99), percentile(ttft, 50)
	return s, tokens, nil
}

func (w *way) stream(ctx context.Context, prompt string, m *meter, first func()) (times, error) {
	body, err := w.asks(ctx, w, prompt)
	if err != nil {
		return times{}, err
	}
	defer body.Close()
	return follow(body, m, first)
}

// blame says which way failed, and what it logged.
func (w *way) blame(load string, err error) error {
	if w.proc != nil {
		err = fmt.Errorf("%w\nits log:\n%s", err, w.proc.Tail(10))
	}
	return fmt.Errorf("%s, %s: %w", load, w.name, err)
}

// commits returns the number of commits of a daemon's ledger.
func (w *way) commits() (float64, error) {
	if w.proc == nil || w.proc.daemon == nil {
		return 0, nil
	}
	return series(w.proc, "llorch_ledger_commits_total", "")
}

// tell calls the stub.
func (l *lab) tell(path string) (string, error) {
	var text strings.Builder
	r, err := http.Post(l.stub.url()+path, "", nil)
	if err != nil {
		return "", fmt.Errorf("tell the stub: %w", err)
	}
	defer r.Body.Close()
	buf := make([]byte, 100)
	n, _ := r.Body.Read(buf)
	text.Write(buf[:n])
	return strings.TrimSpace(text.String()), nil
}

// table prints the medians over the rounds. What a way adds is counted against the direct way of the same round.
func (l *lab) table(ways []*way, results [][]sample, flat bool) {
	fmt.Fprintln(l.out, "| | added latency p50, µs | p99, µs | first token after, ms | CPU a token, µs | ratio | CPU a stream, ms | tokens/s | RSS, MB | anonymous |")
	fmt.Fprintln(l.out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	for i, w := range ways {
		column := func(f func(round int, s sample) float64) float64 {
			values := make([]float64, len(results[i]))
			for round, s := range results[i] {
				values[round] = f(round, s)
			}
			return median(values)
		}
		direct, proxy := results[0], results[1]
		micro := func(d time.Duration) float64 { return float64(d) / 1e3 }
		name, first := w.name, column(func(_ int, s sample) float64 { return micro(s.ttft) / 1e3 })
		rate := column(func(_ int, s sample) float64 { return s.throughput })
		if i == 0 {
			fmt.Fprintf(l.out, "| %s | (%.0f) | (%.0f) | %.1f | | | | %.0f | | |\n", name,
				column(func(_ int, s sample) float64 { return micro(s.p50) }), column(func(_ int, s sample) float64 { return micro(s.p99) }), first, rate)
			continue
		}
		perStream := "|"
		if !flat {
			perStream = fmt.Sprintf("%.2f |", column(func(_ int, s sample) float64 { return micro(s.cpuStream) / 1e3 }))
		}
		fmt.Fprintf(l.out, "| %s | %.0f | %.0f | %.1f | %.1f | %.2f | %s %.0f | %.0f | %.0f |\n", name,
			column(func(r int, s sample) float64 { return micro(s.p50 - direct[r].p50) }),
			column(func(r int, s sample) float64 { return micro(s.p99 - direct[r].p99) }), first,
			column(func(_ int, s sample) float64 { return micro(s.cpu) }),
			column(func(r int, s sample) float64 { return float64(s.cpu) / float64(proxy[r].cpu) }), perStream, rate,
			column(func(_ int, s sample) float64 { return float64(s.rss) / 1e6 }), column(func(_ int, s sample) float64 { return float64(s.anon) / 1e6 }))
	}
}

// perTask says how many operations the ledger did. They belong to tasks, not to tokens.
func (l *lab) perTask(d *child, accepts, tokens float64) error {
	ops := map[string]float64{}
	for _, op := range []string{"accept", "dispatch", "finish"} {
		var err error
		if ops[op], err = series(d, "llorch_ledger_ops_total", op); err != nil {
			return err
		}
	}
	commits, err := series(d, "llorch_ledger_commits_total", "")
	if err != nil {
		return err
	}
	fmt.Fprintf(l.out, "\n%.0f tasks of %.0f tokens on average: the ledger committed %.0f accepts, %.0f dispatches and %.0f outcomes, in %.0f commits\n",
		accepts, tokens/accepts, ops["accept"], ops["dispatch"], ops["finish"], commits)
	return nil
}

func percentile(values []time.Duration, p int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)*p/100]
}

func median(values []float64) float64 {
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
