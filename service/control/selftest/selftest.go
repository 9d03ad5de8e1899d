// SPDX-License-Identifier: GPL-3.0-or-later

// Package selftest tries each pool once it is Ready: it decodes a task and cancels another, looks whether metrics and log followed,
// and shows the results in a table (ORCH-3049).
package selftest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

// Each task of a test has this prompt. The one that is decoded may have so many tokens.
const (
	prompt = "Hello"
	tokens = 8
)

// steps are the steps of each test, in their order.
var steps = []string{"preload", "decode", "cancel", "metrics", "log"}

// panicked is what the log says of a test that did.
const panicked = "a self-test panicked"

// Pools are the pools to be tested.
type Pools interface {
	// Configured are the pools of the configuration in force.
	Configured() []config.Pool
	// Standing says whether a pool has a Ready replica, and, where it has none, what went wrong last.
	Standing(p config.Pool) (ready bool, problem string)
}

// Tasks are what the tests do with tasks. Errors are *task.Error.
type Tasks interface {
	Submit(ctx context.Context, r task.Request) (task.Admission, error)
	Get(ctx context.Context, id string) (task.Status, error)
	Cancel(ctx context.Context, id string) (task.CancelResult, error)
	// Follow reads a task's events from the start.
	Follow(ctx context.Context, id string) (Events, error)
}

// Events are a subscription to a task's events. One goroutine uses it.
type Events interface {
	// NextEvents waits for events. It returns io.EOF after the terminal one.
	NextEvents(ctx context.Context, tick <-chan time.Time) (e task.Events, news bool, err error)
	// Written says that the events of the last NextEvents were taken.
	Written()
	Close()
}

// Options are what Tests are made from.
type Options struct {
	Pools    Pools
	Tasks    Tasks
	Gatherer prometheus.Gatherer // of the metrics that should follow
	Log      *zap.Logger
	Heard    *Listener // to the log that should follow
	Out      io.Writer // takes the table, for people
	Now      func() time.Time
	NewID    func() string
	Within   time.Duration // of each test; 0: a minute. The table is shown by then, whatever is missing.
}

// Tests are the tests of all pools. From Start on they run at the same time.
type Tests struct {
	o    Options
	life lifecycle.Life

	mu      sync.Mutex
	results map[string]api.SelfTestView // by the pool's id
}

// New makes tests; Start begins them.
func New(o Options) *Tests {
	o.Within = cmp.Or(o.Within, time.Minute)
	return &Tests{o: o, results: map[string]api.SelfTestView{}}
}

// Result returns what is known of a pool's test. It is empty for a pool that is not tested, and on a nil Tests.
func (t *Tests) Result(poolID string) api.SelfTestView {
	if t == nil {
		return api.SelfTestView{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.results[poolID]
}

func (t *Tests) set(poolID string, v api.SelfTestView) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.results[poolID] = v
}

// unmade returns the result of a test that has taken no step.
func unmade(state, detail string) api.SelfTestView {
	v := api.SelfTestView{State: state, Detail: detail}
	for _, step := range steps {
		v.Steps = append(v.Steps, api.SelfTestStep{Step: step, State: state})
	}
	return v
}

// Start begins to test the pools. It implements lifecycle.Service.
func (t *Tests) Start(context.Context) error {
	if !t.life.Begin() {
		return nil
	}
	var tested []config.Pool
	for _, p := range t.o.Pools.Configured() {
		if p.Lifecycle == config.LifecycleOnDemand {
			t.set(p.ID, unmade("skipped", "the pool is loaded when a task needs it"))
			continue
		}
		t.set(p.ID, unmade("pending", "the pool is not Ready yet"))
		tested = append(tested, p)
	}
	t.life.Go(func(ctx context.Context) { _ = contain.Do(t.o.Log, panicked, func() { t.run(ctx, tested) }) }) // it has logged all that is known
	return nil
}

// Stop ends the tests. It implements lifecycle.Service.
func (t *Tests) Stop(ctx context.Context) error { return t.life.End(ctx, context.Canceled) }

// run shows the table once all results are there. Where that takes long, it also shows it before.
func (t *Tests) run(ctx context.Context, pools []config.Pool) {
	var tests sync.WaitGroup
	defer func() {
		tests.Wait()
		t.o.Heard.stop()
	}()
	ended := make(chan struct{}, len(pools))
	for _, p := range pools {
		tests.Go(func() {
			_ = contain.Do(t.o.Log, panicked, func() { t.test(ctx, p) }, zap.String("pool_id", p.ID)) // the others go on
			ended <- struct{}{}
		})
	}
	late := time.NewTimer(t.o.Within)
	defer late.Stop()
	for left := len(pools); left > 0; {
		select {
		case <-ended:
			left--
		case <-late.C:
			t.show()
		case <-ctx.Done():
			return
		}
	}
	t.show()
}

// show writes the table of the results, for people.
func (t *Tests) show() {
	var text strings.Builder
	text.WriteString("\n")
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "SELF-TEST\tMODEL\t%s\tRESULT\n", strings.ToUpper(strings.Join(steps, "\t")))
	for _, p := range t.o.Pools.Configured() {
		v := t.Result(p.ID)
		if v.State == "" { // the pool was added after the start
			continue
		}
		_, _ = fmt.Fprintf(w, "%s\t%s", p.ID, p.Model.ID)
		for _, s := range v.Steps {
			_, _ = fmt.Fprintf(w, "\t%s", s.State)
		}
		if _, problem := t.o.Pools.Standing(p); v.State == "pending" && problem != "" {
			v.Detail += ": " + problem
		}
		_, _ = fmt.Fprintf(w, "\t%s: %s\n", v.State, strings.Join(strings.Fields(v.Detail), " "))
	}
	_ = w.Flush() // into memory
	text.WriteString("\n")
	if _, err := io.WriteString(t.o.Out, text.String()); err != nil {
		t.o.Log.Debug("the table of the self-tests was not shown", zap.Error(err))
	}
}

func (t *Tests) test(ctx context.Context, p config.Pool) {
	if !t.ready(ctx, p) {
		return // the daemon is stopping
	}
	bounded, stop := awake.WithTimeout(ctx, t.o.Within)
	defer stop()
	var v api.SelfTestView
	var err error
	if stumbled := contain.Do(t.o.Log, panicked, func() { v, err = t.examine(bounded, p) }, zap.String("pool_id", p.ID)); stumbled != nil {
		v, err = unmade("failed", task.AsError(stumbled).Message), stumbled
	}
	if ctx.Err() != nil {
		return
	}
	t.set(p.ID, v)
	if err != nil {
		t.o.Log.Error("self-test failed", zap.String("pool_id", p.ID), zap.Error(err))
	} else {
		t.o.Log.Info("self-test passed", zap.String("pool_id", p.ID), zap.String("detail", v.Detail))
	}
}

// ready waits until the pool is Ready, however long that takes. It returns false where the tests end before.
func (t *Tests) ready(ctx context.Context, p config.Pool) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if ready, _ := t.o.Pools.Standing(p); ready {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// examine takes the steps of a test in a Ready pool. It skips those behind one that fails.
func (t *Tests) examine(ctx context.Context, p config.Pool) (api.SelfTestView, error) {
	var before float64
	var ids, did []string
	done := "decoded"
	take := map[string]func() error{
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
			ids, done = append(ids, canceled.TaskID), "decoded and canceled"
			did = append(did, fmt.Sprintf("one canceled at event %s", canceled.LastEventID))
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
			if missing := t.o.Heard.missing(ids); missing != "" {
				return fmt.Errorf("the log has no line %q of a task that was %s", missing, done)
			}
			return nil
		},
	}
	if p.Workload != task.Completion { // an answer that comes whole cannot be canceled half-way
		delete(take, "cancel")
	}
	if p.Workload == task.Opaque { // nobody knows what its server could be asked; that it is well is its probe
		clear(take)
		did = append(did, "its server answers")
	}
	v := unmade("skipped", "")
	for i := range v.Steps {
		step := take[v.Steps[i].Step]
		if step == nil {
			continue
		}
		if err := step(); err != nil {
			v.Steps[i].State, v.State, v.Detail = "failed", "failed", err.Error()
			return v, err
		}
		v.Steps[i].State = "passed"
	}
	v.State, v.Detail = "passed", strings.Join(did, ", ")
	if len(take) > 0 {
		v.Detail += "; metrics and log followed"
	}
	return v, nil
}

type decoded struct {
	task.Admission
	tokens int
	took   time.Duration
}

// submit sends a task of the test to the pool.
func (t *Tests) submit(ctx context.Context, p config.Pool, most int) (task.Admission, error) {
	r := task.Request{
		ModelRef: p.Model.ID, Workload: p.Workload, Priority: task.Batch, Prompt: prompt, Actor: task.SelfTester,
		CorrelationID: t.o.NewID(), Placement: task.Placement{Mode: task.Pin, PoolID: p.ID},
	}
	switch p.Workload {
	case task.Completion:
		r.MaxTokens = most
	case task.Rerank:
		r.Inputs = []string{prompt}
	case task.Embedding, task.Opaque: // no pool of opaque requests is tested by a task
	}
	return t.o.Tasks.Submit(ctx, r)
}

func (t *Tests) decode(ctx context.Context, p config.Pool) (d decoded, err error) {
	began := t.o.Now()
	if d.Admission, err = t.submit(ctx, p, tokens); err != nil {
		return d, err
	}
	if err := t.follow(ctx, d.TaskID, true); err != nil {
		return d, err
	}
	s, err := t.o.Tasks.Get(ctx, d.TaskID)
	switch {
	case err != nil:
		return d, err
	case s.Err != nil:
		return d, s.Err
	}
	d.tokens, d.took = s.TokensOut, t.o.Now().Sub(began)
	return d, nil
}

// cancel cancels a task at its first token, unless the task ends before, and reads on to see that its stream ends.
func (t *Tests) cancel(ctx context.Context, p config.Pool) (task.CancelResult, error) {
	a, err := t.submit(ctx, p, 0)
	if err != nil {
		return task.CancelResult{}, err
	}
	if err := t.follow(ctx, a.TaskID, false); err != nil {
		return task.CancelResult{}, err
	}
	result, err := t.o.Tasks.Cancel(ctx, a.TaskID)
	if err != nil {
		return result, err
	}
	return result, t.follow(ctx, a.TaskID, true)
}

// follow reads a task's stream to its first token, or whole.
func (t *Tests) follow(ctx context.Context, id string, whole bool) error {
	s, err := t.o.Tasks.Follow(ctx, id)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		events, _, err := s.NextEvents(ctx, nil)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		s.Written()
		for e := range events.All() {
			if e.Kind == task.EventText && !whole {
				return nil
			}
		}
	}
}

// finished returns how many tasks of a pool have ended, as the metrics say.
func (t *Tests) finished(poolID string) (sum float64, err error) {
	families, err := t.o.Gatherer.Gather()
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
