// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// length is the number of tokens of a short task. It is so low that most of the cost is the task's and not its tokens'.
const length = 64

// volley is a load of short tasks.
type volley struct {
	name    string
	clients int // at once
	each    int // tasks of each, back to back
	rate    int // tokens a second; 0: as fast as they are taken
}

// shot is the result of one round on one way.
type shot struct {
	first50, first99 time.Duration // from the request (of the task) to its first token
	late99           time.Duration // from the engine's write of a token to the client's read
	gap99            time.Duration // from one token to the next, as the client sees them
	cpu              time.Duration // of the process in between, for each task
	commits          float64       // of the ledger, for each task
	rate             float64       // tasks a second
}

// settling is the time that a way gets for work after a task's end. That work counts as the task's.
const settling = 200 * time.Millisecond

// tasks measures short tasks on each way, in turns: tasks back to back, and tasks that arrive together.
func (l *lab) tasks() (err error) {
	ways, end, err := l.ways("task", completion, asTask, broad(l.stub))
	if err != nil {
		return err
	}
	defer func() { err = end(err) }()
	floor, err := l.floor("task", completion)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.proc.end()) }()
	ways = append(ways, floor)
	return l.volleys("Short tasks", ways, []volley{
		{name: "1 connection, back to back", clients: 1, each: 300},
		{name: "8 connections, back to back", clients: 8, each: 100},
		{name: "32 tasks that arrive together", clients: 32, each: 1, rate: 100},
		{name: "500 tasks that arrive together", clients: 500, each: 1, rate: 20},
	})
}

// floor starts a proxy whose answers are durable, and does nothing else (see floorMain).
func (l *lab) floor(part string, asks ask) (*way, error) {
	data := filepath.Join(l.disk, part+"-floor")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("make the floor's folder: %w", err)
	}
	proc, err := l.start("floor", l.stub.urls[0], data)
	if err != nil {
		return nil, err
	}
	return newWay("proxy with a ledger", proc.url(), proc, asks), nil
}

// volleys runs each load on each way, in turns, and prints a table of each.
func (l *lab) volleys(what string, ways []*way, volleys []volley) error {
	rounds := 5
	if l.quick {
		rounds = 1
		for i := range volleys {
			volleys[i].each = max(volleys[i].each/5, 1)
		}
	}
	for _, v := range volleys {
		if !strings.Contains(v.name, l.load) {
			continue
		}
		others := l.others(ways)
		results := make([][]shot, len(ways))
		for round := range rounds + 1 {
			for i, w := range ways {
				s, err := l.fire(w, v)
				if err != nil {
					return w.blame(v.name, err)
				}
				if round > 0 { // in the first round all connections are new
					results[i] = append(results[i], s)
				}
			}
		}
		fmt.Fprintf(l.out, "\n### %s: %s\n\n%d tokens each; %d rounds; load average %s; other programs took %.2f CPUs\n\n", what, v.name, length,
			rounds, loadAverage(), others())
		l.shots(ways, results, v.rate > 0)
	}
	return nil
}

// fire runs a volley once.
func (l *lab) fire(w *way, v volley) (s shot, err error) {
	ctx, cancel := context.WithTimeoutCause(l.ctx, watch.Patience, fmt.Errorf("a round took longer than %s", watch.Patience))
	defer cancel()
	var (
		m        = meter{gaps: true}
		mu       sync.Mutex
		all      times
		first    []time.Duration
		failure  error
		running  sync.WaitGroup
		together = make(chan struct{})
		prompt   = fmt.Sprintf("rate=%d tokens=%d", v.rate, length)
	)
	m.open.Store(true)
	one := func() error {
		asked := time.Now()
		var after time.Duration
		tokens, err := w.stream(ctx, prompt, &m, func() { after = time.Since(asked) })
		mu.Lock()
		defer mu.Unlock()
		first = append(first, after)
		all.late, all.gaps = append(all.late, tokens.late...), append(all.gaps, tokens.gaps...)
		if err != nil {
			failure = cmp.Or(failure, err) // other failures follow from the first one
			cancel()
		}
		return err
	}
	for range v.clients {
		running.Go(func() {
			<-together
			for range v.each {
				if one() != nil {
					return
				}
			}
		})
	}
	commits, err := w.commits()
	if err != nil {
		return s, err
	}
	cpu, began := w.proc.cpu(), time.Now()
	close(together)
	running.Wait()
	took := time.Since(began)
	if failure != nil {
		return s, failure
	}
	time.Sleep(settling)
	s.cpu = (w.proc.cpu() - cpu) / time.Duration(len(first))
	if s.commits, err = w.commits(); err != nil {
		return s, err
	}
	s.commits = (s.commits - commits) / float64(len(first))
	s.rate = float64(len(first)) / took.Seconds()
	s.first50, s.first99 = percentile(first, 50), percentile(first, 99)
	s.late99, s.gap99 = percentile(all.late, 99), percentile(all.gaps, 99)
	tokens := v.clients * v.each * length
	if got := int(m.tokens.Load()); got != tokens {
		return s, fmt.Errorf("the clients should get %d tokens and got %d", tokens, got)
	}
	if sent, err := l.tell("/bench/sent"); err != nil || sent != fmt.Sprint(tokens) {
		return s, errors.Join(err, fmt.Errorf("the engine should send %d tokens and sent %s", tokens, sent))
	}
	return s, nil
}

// shots prints the medians over the rounds. Gaps and lateness only mean something if the engine keeps a pace, and tasks a second only if it does not.
func (l *lab) shots(ways []*way, results [][]shot, paced bool) {
	if paced {
		fmt.Fprintln(l.out, "| | first token p50, ms | p99, ms | a token late p99, ms | gap p99, ms | CPU a task, ms | ratio | commits a task |")
		fmt.Fprintln(l.out, "|---|---:|---:|---:|---:|---:|---:|---:|")
	} else {
		fmt.Fprintln(l.out, "| | first token p50, ms | p99, ms | tasks/s | of the proxy's | CPU a task, ms | ratio | commits a task |")
		fmt.Fprintln(l.out, "|---|---:|---:|---:|---:|---:|---:|---:|")
	}
	for i, w := range ways {
		column := func(f func(round int, s shot) float64) float64 {
			var values []float64
			for round, s := range results[i] {
				values = append(values, f(round, s))
			}
			return median(values)
		}
		milli := func(f func(shot) time.Duration) float64 {
			return column(func(_ int, s shot) float64 { return f(s).Seconds() * 1e3 })
		}
		fmt.Fprintf(l.out, "| %s | %.1f | %.1f |", w.name, milli(func(s shot) time.Duration { return s.first50 }), milli(func(s shot) time.Duration { return s.first99 }))
		if paced {
			fmt.Fprintf(l.out, " %.1f | %.1f |", milli(func(s shot) time.Duration { return s.late99 }), milli(func(s shot) time.Duration { return s.gap99 }))
		} else {
			fmt.Fprintf(l.out, " %.0f | %.2f |", column(func(_ int, s shot) float64 { return s.rate }),
				column(func(round int, s shot) float64 { return s.rate / results[1][round].rate }))
		}
		if w.proc == nil {
			fmt.Fprintln(l.out, " | | |")
			continue
		}
		fmt.Fprintf(l.out, " %.2f | %.2f |", milli(func(s shot) time.Duration { return s.cpu }),
			column(func(round int, s shot) float64 { return float64(s.cpu) / float64(results[1][round].cpu) }))
		if w.proc.daemon != nil {
			fmt.Fprintf(l.out, " %.2f", column(func(_ int, s shot) float64 { return s.commits }))
		}
		fmt.Fprintln(l.out, " |")
	}
}
