// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/flow/admission"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/task"
)

// The tasks of a self-test, and how long it waits for a pool and for a task.
const (
	selfTestActor  = "self-test"
	selfTestPrompt = "Hello"
	selfTestTokens = 8
	selfTestWithin = time.Minute
)

// selfTest decodes and cancels a task of each pool once it is Ready, looks whether metrics and log followed, and shows that in a table
// (ORCH-3049).
type selfTest struct {
	fleet
	desk     *admission.Desk
	schedule *scheduler.Scheduler
	gatherer prometheus.Gatherer
	heard    *ear
	log      *zap.Logger
	out      io.Writer // for people

	mu      sync.Mutex
	results map[string]api.SelfTestView
	stop    context.CancelFunc
	running sync.WaitGroup
}

// result is what is known of a pool's test; nothing where none is made. It is safe on a nil selfTest.
func (t *selfTest) result(poolID string) api.SelfTestView {
	if t == nil {
		return api.SelfTestView{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.results[poolID]
}

func (t *selfTest) set(poolID string, v api.SelfTestView) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.results[poolID] = v
}

// selfTestSteps are what each test looks at, in this order.
var selfTestSteps = []string{"preload", "decode", "cancel", "metrics", "log"}

// unmade is a test of which no step was taken.
func unmade(state, detail string) api.SelfTestView {
	v := api.SelfTestView{State: state, Detail: detail}
	for _, step := range selfTestSteps {
		v.Steps = append(v.Steps, api.SelfTestStep{Step: step, State: state})
	}
	return v
}

// start tests each pool beside the others. end joins that.
func (t *selfTest) start() {
	ctx, stop := context.WithCancel(context.Background())
	t.stop, t.results = stop, map[string]api.SelfTestView{}
	var tests sync.WaitGroup
	for _, p := range t.config().Pools {
		if onDemand(p) {
			t.set(p.ID, unmade("skipped", "the pool is loaded when a task needs it"))
			continue
		}
		t.set(p.ID, unmade("pending", "the pool is not Ready yet"))
		tests.Go(func() { t.test(ctx, p) })
	}
	done := make(chan struct{})
	t.running.Go(func() { tests.Wait(); close(done) })
	t.running.Go(func() { t.report(ctx, done) })
}

func (t *selfTest) end() {
	t.stop()
	t.running.Wait()
}

// report shows the results once all are there, and what is there before where that takes long.
func (t *selfTest) report(ctx context.Context, done <-chan struct{}) {
	late := time.NewTimer(selfTestWithin)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		t.show()
		<-done
	}
	if ctx.Err() == nil {
		t.show()
	}
}

// show writes the table of all results, for people.
func (t *selfTest) show() {
	var text strings.Builder
	text.WriteString("\n")
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "SELF-TEST\tMODEL\t%s\tRESULT\n", strings.ToUpper(strings.Join(selfTestSteps, "\t")))
	for _, p := range t.config().Pools {
		v := t.result(p.ID)
		if v.State == "" { // it came after the start
			continue
		}
		_, _ = fmt.Fprintf(w, "%s\t%s", p.ID, p.Model.ID)
		for _, s := range v.Steps {
			_, _ = fmt.Fprintf(w, "\t%s", s.State)
		}
		if why := t.summary(p).lastError; v.State == "pending" && why != "" {
			v.Detail += ": " + why
		}
		_, _ = fmt.Fprintf(w, "\t%s: %s\n", v.State, strings.Join(strings.Fields(v.Detail), " "))
	}
	_ = w.Flush() // into memory
	text.WriteString("\n")
	if _, err := io.WriteString(t.out, text.String()); err != nil {
		t.log.Debug("the table of the self-tests was not shown", zap.Error(err))
	}
}

func (t *selfTest) test(ctx context.Context, p config.Pool) {
	if !t.ready(ctx, p) {
		return // the daemon stops
	}
	bounded, stop := context.WithTimeout(ctx, selfTestWithin)
	defer stop()
	v, err := t.examine(bounded, p)
	if ctx.Err() != nil {
		return
	}
	t.set(p.ID, v)
	if err != nil {
		t.log.Error("self-test failed", zap.String("pool_id", p.ID), zap.Error(err))
	} else {
		t.log.Info("self-test passed", zap.String("pool_id", p.ID), zap.String("detail", v.Detail))
	}
}

// ready waits until the pool can be tested, however long that takes.
func (t *selfTest) ready(ctx context.Context, p config.Pool) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for t.summary(p).ready == 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// examine tests a Ready pool, step by step. The steps behind one that fails are skipped.
func (t *selfTest) examine(ctx context.Context, p config.Pool) (api.SelfTestView, error) {
	var before float64
	var ids, did []string
	done := "decoded"
	steps := map[string]func() error{
		"preload": func() (err error) {
			before, err = t.finished(p.ID)
			return err
		},
		"decode": func() error {
			decoded, err := t.decode(ctx, p)
			if err != nil {
				return fmt.Errorf("one task: %w", err)
			}
			ids = append(ids, decoded.TaskID)
			if p.Workload == task.Completion {
				did = append(did, fmt.Sprintf("%d tokens decoded in %d ms", decoded.tokens, decoded.took.Milliseconds()))
			} else {
				did = append(did, fmt.Sprintf("one %s answered in %d ms", p.Workload, decoded.took.Milliseconds()))
			}
			return nil
		},
		"cancel": func() error {
			canceled, err := t.cancel(ctx, p)
			if err != nil {
				return fmt.Errorf("one cancel: %w", err)
			}
			ids, done = append(ids, canceled.TaskID), "decoded and cancelled"
			did = append(did, fmt.Sprintf("one cancelled at event %s", canceled.LastEventID))
			return nil
		},
		"metrics": func() error {
			after, err := t.finished(p.ID)
			if err == nil && after-before < float64(len(ids)) {
				err = fmt.Errorf("%d tasks were %s, and llorch_tasks_finished_total moved by %g", len(ids), done, after-before)
			}
			return err
		},
		"log": func() error {
			if missing := t.heard.missing(ids); missing != "" {
				return fmt.Errorf("the log has no line %q of a task that was %s", missing, done)
			}
			return nil
		},
	}
	if p.Workload != task.Completion { // there is nothing to seal
		delete(steps, "cancel")
	}
	v := unmade("skipped", "")
	for i := range v.Steps {
		step := steps[v.Steps[i].Step]
		if step == nil {
			continue
		}
		if err := step(); err != nil {
			v.Steps[i].State, v.State, v.Detail = "failed", "failed", err.Error()
			return v, err
		}
		v.Steps[i].State = "passed"
	}
	v.State, v.Detail = "passed", strings.Join(did, ", ")+"; metrics and log followed"
	return v, nil
}

type decoded struct {
	task.Admission
	tokens int
	took   time.Duration
}

// submit sends a task of the test to the pool.
func (t *selfTest) submit(ctx context.Context, p config.Pool, tokens int) (task.Admission, error) {
	r := task.Request{
		ModelRef: p.Model.ID, Workload: p.Workload, Priority: task.Batch, Prompt: selfTestPrompt, Actor: selfTestActor,
		CorrelationID: uuid.NewString(), Placement: task.Placement{Mode: task.Pin, PoolID: p.ID},
	}
	switch p.Workload {
	case task.Completion:
		r.MaxTokens = tokens
	case task.Rerank:
		r.Inputs = []string{selfTestPrompt}
	case task.Embedding:
	}
	return t.desk.Submit(ctx, r)
}

func (t *selfTest) decode(ctx context.Context, p config.Pool) (d decoded, err error) {
	began := time.Now()
	if d.Admission, err = t.submit(ctx, p, selfTestTokens); err != nil {
		return d, err
	}
	if err := t.follow(ctx, d.TaskID, func() bool { return true }); err != nil {
		return d, err
	}
	s, err := t.schedule.Get(ctx, d.TaskID)
	switch {
	case err != nil:
		return d, err
	case s.Err != nil:
		return d, s.Err
	}
	d.tokens, d.took = s.TokensOut, time.Since(began)
	return d, nil
}

// cancel ends a task at its first token, if it does not end by itself before, and sees that no token follows.
func (t *selfTest) cancel(ctx context.Context, p config.Pool) (task.CancelResult, error) {
	a, err := t.submit(ctx, p, 0)
	if err != nil {
		return task.CancelResult{}, err
	}
	if err := t.follow(ctx, a.TaskID, func() bool { return false }); err != nil {
		return task.CancelResult{}, err
	}
	result, err := t.schedule.Cancel(ctx, a.TaskID)
	if err != nil {
		return result, err
	}
	return result, t.follow(ctx, a.TaskID, func() bool { return true })
}

// follow reads a task's stream to its end, or to its first token where on says so.
func (t *selfTest) follow(ctx context.Context, id string, on func() bool) error {
	s, err := t.schedule.Subscribe(ctx, id, "")
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		frames, err := s.Next(ctx, nil)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		s.Written()
		if strings.Contains(string(frames), "event: token") && !on() {
			return nil
		}
	}
}

// finished is how many tasks of a pool the metrics say have ended.
func (t *selfTest) finished(poolID string) (sum float64, err error) {
	families, err := t.gatherer.Gather()
	if err != nil {
		return 0, fmt.Errorf("read the metrics: %w", err)
	}
	for _, f := range families {
		if f.GetName() != "llorch_tasks_finished_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "pool_id" && l.GetValue() == poolID {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum, nil
}

// ear is beside the log and remembers which narrated lines there were of the self-test's tasks.
type ear struct {
	zapcore.Core // the log's own

	mu    sync.Mutex
	lines map[string]map[string]bool // by job_id
}

// newEar returns the log with an ear to it.
func newEar(log *zap.Logger) (*ear, *zap.Logger) {
	e := &ear{Core: log.Core(), lines: map[string]map[string]bool{}}
	return e, log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return zapcore.NewTee(core, e) }))
}

// With forgets fields that a logger always has: none of them is looked for.
func (e *ear) With([]zapcore.Field) zapcore.Core { return e }

// Check is zapcore.Core's.
func (e *ear) Check(entry zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Enabled(entry.Level) {
		return to.AddCore(entry, e)
	}
	return to
}

// Write is zapcore.Core's.
func (e *ear) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	id, ours := "", false
	for _, f := range fields {
		switch f.Key {
		case "job_id":
			id = f.String
		case "actor":
			ours = f.String == selfTestActor
		}
	}
	if !ours {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lines[id] == nil {
		e.lines[id] = map[string]bool{}
	}
	e.lines[id][entry.Message] = true
	return nil
}

// Sync is zapcore.Core's: nothing waits here.
func (e *ear) Sync() error { return nil }

// missing is a narrated line that each of the tasks should have and one has not; empty: all are there, or the log's level keeps
// them out.
func (e *ear) missing(ids []string) string {
	if !e.Enabled(zapcore.InfoLevel) {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		for _, line := range []string{"admission", "placement", "stream_start"} {
			if !e.lines[id][line] {
				return line
			}
		}
		if !e.lines[id]["stream_end"] && !e.lines[id]["cancel"] {
			return "stream_end"
		}
	}
	return ""
}
