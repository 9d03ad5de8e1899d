// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llama-orch/llama-orch/harness/client"
	"github.com/llama-orch/llama-orch/harness/daemon"
)

// result is the result of a run.
type result struct {
	*history
	plan          schedule
	full          int // submits refused for a full disk
	refusedStarts int
	took          time.Duration
}

// settleWithin bounds the time from the end of a schedule until every accepted task has ended.
const settleWithin = 2 * time.Minute

// perform runs a schedule. When it returns, everything that it started has ended.
func perform(ctx context.Context, l *daemon.Lab, p schedule, say func(string, ...any)) (r *result, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.scale.span+settleWithin+3*time.Minute)
	defer cancel()
	dir := filepath.Join(l.Dir, "field")
	drive, err := newDisk(filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drive.close()) }()
	f := &field{lab: l, disk: drive, h: &history{}, changed: make(chan struct{})}
	f.driver = &driver{field: f, live: map[*taskRecord]map[*view]bool{}}
	f.fronts, f.engines = newFrontDriver(f), startEngines()
	defer f.engines.close()
	defer f.fronts.close()
	if f.config, err = configure(l, dir, drive.path, pace, pools, f.engines); err != nil {
		return nil, err
	}
	defer func() { // on any way out
		f.end(true)
		for _, w := range l.Workers() {
			w.Kill()
		}
	}()
	r = &result{history: f.h, plan: p}
	stalled, endWatch := watchStalls()
	defer endWatch()

	if err := f.start(ctx); err != nil {
		return nil, err
	}
	if err := f.daemon.ready(ctx, append(pools, loose)...); err != nil {
		return nil, err
	}
	f.h.after.idleFDs, f.h.after.idleGoroutines = f.idle(ctx)
	say("the daemon is ready; %d tasks, %d chats, %d responses, %d batches and %d faults in %s", len(p.tasks), len(p.chats), len(p.responses), len(p.batches),
		len(p.faults), p.scale.span)
	if err := f.storm(ctx, p); err != nil {
		return nil, errors.Join(err, f.tail())
	}
	say("settling")
	if err := f.settle(ctx); err != nil {
		return nil, errors.Join(err, f.tail())
	}
	f.aftermath(ctx, dir)
	f.h.stall = time.Duration(stalled.Load())
	r.full, r.refusedStarts = f.driver.full, f.refusedStarts
	say("decoding the strict tasks again on a daemon that nobody disturbs")
	if err := calmly(ctx, l, f.fronts, f.h); err != nil {
		return nil, err
	}
	r.took = time.Since(began)
	return r, nil
}

func (f *field) tail() error {
	if f.daemon == nil {
		return nil
	}
	return errors.New(f.daemon.Tail(logLines))
}

// watchStalls measures how late a timer of this process fires at worst.
func watchStalls() (worst *atomic.Int64, end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	worst = &atomic.Int64{}
	var watch sync.WaitGroup
	watch.Go(func() {
		const every = 20 * time.Millisecond
		for before := time.Now(); pause(ctx, every); before = time.Now() {
			if late := int64(time.Since(before) - every); late > worst.Load() {
				worst.Store(late)
			}
		}
	})
	return worst, func() { cancel(); watch.Wait() }
}

// storm starts the tasks' clients and the faults. It returns when the clients have the ends of their streams.
func (f *field) storm(ctx context.Context, p schedule) error {
	ctx, cancel := context.WithTimeout(ctx, p.scale.span+settleWithin)
	defer cancel()
	began := time.Now()
	var clients sync.WaitGroup
	for _, plan := range p.tasks {
		t := &taskRecord{plan: plan}
		f.h.tasks = append(f.h.tasks, t)
		clients.Go(func() {
			if pause(ctx, time.Until(began.Add(plan.at))) {
				f.driver.drive(ctx, t)
			}
		})
	}
	f.stormFronts(ctx, began, p, &clients)
	err := f.faults(ctx, began, p.faults)
	if err != nil {
		cancel()
	}
	clients.Wait()
	return err
}

// settle asks for every task until the task has ended, and reads its whole stream. A task that does not end in time is a finding.
func (f *field) settle(ctx context.Context) error {
	for _, t := range f.h.tasks {
		if err := f.last(ctx, t); err != nil {
			return fmt.Errorf("ask for %s at the end: %w", t.plan.id, err)
		}
	}
	return f.settleFronts(ctx)
}

func (f *field) last(ctx context.Context, t *taskRecord) error {
	if len(t.submits) == 0 {
		return nil
	}
	limit := time.Now().Add(settleWithin / 4)
	for {
		s, err := statusOf(ctx, f.daemon, t.plan.id)
		var refused *client.RefusedError
		if errors.As(err, &refused) && refused.Code == "NOT_FOUND" {
			t.unknown = true
			return nil
		}
		if err != nil {
			return err
		}
		t.final = s
		if s.over() {
			break
		}
		if time.Now().After(limit) || !pause(ctx, 50*time.Millisecond) {
			return nil
		}
	}
	frames, err := f.daemon.Client.Follow(ctx, t.plan.id, "", false)
	if err != nil {
		return err
	}
	defer frames.Close()
	for {
		e, err := frames.Next()
		if err != nil {
			return err
		}
		if e.ID != "" || e.Terminal() {
			t.log = append(t.log, e)
		}
		if e.Terminal() {
			return nil
		}
	}
}

// idle counts the descriptors and goroutines of a daemon without tasks. It looks several times and takes the lowest count, since connections take
// a moment to close.
func (f *field) idle(ctx context.Context) (fds, goroutines int) {
	for range 15 {
		f.daemon.Client.Close()
		f.fronts.close()
		pause(ctx, 100*time.Millisecond)
		g, n := f.daemon.goroutines(ctx), f.daemon.fds()
		if fds == 0 || n < fds {
			fds = n
		}
		if goroutines == 0 || g < goroutines {
			goroutines = g
		}
	}
	return fds, goroutines
}

// aftermath looks at what is left behind, and stops the daemon for good.
func (f *field) aftermath(ctx context.Context, dir string) {
	a := &f.h.after
	if f.daemon.ready(ctx, append(pools, loose)...) == nil {
		a.lastFDs, a.lastGoroutines = f.idle(ctx)
	}
	a.stopped = f.end(false)
	for _, w := range f.lab.Workers() {
		f.orphans = append(f.orphans, fmt.Sprintf("worker %d", w.Pid))
		w.Kill()
	}
	a.orphans = f.orphans
	a.files = leftFiles(f.disk.path, filepath.Join(dir, "tmp"))
}

// calmly decodes again, on an undisturbed daemon, every strict task of which a client got a token.
func calmly(ctx context.Context, l *daemon.Lab, fronts *frontDriver, h *history) error {
	dir := filepath.Join(l.Dir, "calm")
	all := slices.Clone(pools)
	for i := range all {
		all[i].capacity = 100_000
	}
	config, err := configure(l, dir, filepath.Join(dir, "data"), 0, all, nil)
	if err != nil {
		return err
	}
	d, err := serve(ctx, l, config)
	if err != nil {
		return err
	}
	defer d.kill()
	if err := d.ready(ctx, all...); err != nil {
		return err
	}
	defer fronts.close()
	if err := fronts.calmFronts(ctx, d, &h.frontHistory); err != nil {
		return err
	}
	for _, t := range h.tasks {
		if !t.plan.strict || !t.sentTokens() {
			continue
		}
		if t.calm, err = calmRun(ctx, d, t); err != nil {
			return fmt.Errorf("the undisturbed run of %s: %w", t.plan.id, err)
		}
	}
	if !d.stop() {
		return fmt.Errorf("the undisturbed daemon did not end well:\n%s", d.Tail(logLines))
	}
	return nil
}

func (t *taskRecord) sentTokens() bool {
	return len(t.log) > 2 || slices.ContainsFunc(t.views, func(v *view) bool { return v.tokens() > 0 }) ||
		t.final != nil && t.final.State == "completed"
}

func calmRun(ctx context.Context, d *server, t *taskRecord) (*calm, error) {
	start := client.NewLog()
	first := t.log
	if len(first) == 0 {
		first = t.views[0].events()
	}
	if err := start.Take(first[0]); err != nil {
		return nil, err
	}
	if _, err := d.Client.Submit(ctx, t.plan.body(true, start.Start.Seed)); err != nil {
		return nil, err
	}
	stream, err := d.Client.Open(ctx, t.plan.id)
	if err != nil {
		return nil, err
	}
	if err := stream.Rest(); err != nil {
		return nil, err
	}
	if stream.End == nil {
		return nil, fmt.Errorf("it ended with %+v", *stream.Fail)
	}
	return &calm{tokens: stream.Tokens, finish: stream.End.FinishReason, receipt: stream.End.Receipt}, nil
}
