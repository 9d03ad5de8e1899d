// SPDX-License-Identifier: GPL-3.0-or-later

package selftest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/lifecycle"
	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ lifecycle.Service = (*Tests)(nil)

// flow is what takes the tests' tasks: each has one token, and narrates, counts and ends at once.
type flow struct {
	log      *zap.Logger
	finished *prometheus.CounterVec

	mu       sync.Mutex
	sent     []task.Request
	uncount  bool // the metrics do not follow
	silent   bool // the log does not follow
	refuse   error
	panics   string // a task for this pool does
	canceled map[string]bool
}

func (f *flow) Submit(_ context.Context, r task.Request) (task.Admission, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Placement.PoolID == f.panics {
		panic("index out of range")
	}
	if f.refuse != nil {
		return task.Admission{}, f.refuse
	}
	f.sent = append(f.sent, r)
	id := fmt.Sprint("t", len(f.sent))
	if !f.silent {
		for _, line := range []string{"admission", "placement", "stream_start", "stream_end"} {
			f.log.Info(line, zap.String("job_id", id), zap.String("actor", r.Actor))
		}
	}
	if !f.uncount {
		f.finished.WithLabelValues(r.Placement.PoolID).Inc()
	}
	return task.Admission{TaskID: id}, nil
}

func (f *flow) Get(context.Context, string) (task.Status, error) {
	return task.Status{TokensOut: 1}, nil
}

func (f *flow) Cancel(_ context.Context, id string) (task.CancelResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.canceled[id] = true
	return task.CancelResult{TaskID: id, LastEventID: "1-00000000"}, nil
}

func (f *flow) Follow(context.Context, string) (Events, error) { return &oneToken{}, nil }

type oneToken struct{ read bool }

func (s *oneToken) NextEvents(context.Context, <-chan time.Time) (e task.Events, news bool, err error) {
	if s.read {
		return e, false, io.EOF
	}
	s.read = true
	return task.Events{From: 1, To: 2, Text: []byte("x"), Ends: []int{1}}, true, nil
}
func (s *oneToken) Written() {}
func (s *oneToken) Close()   {}

// pools are good where they are named so.
type pools []config.Pool

func (p pools) Configured() []config.Pool { return p }
func (p pools) Standing(one config.Pool) (bool, string) {
	if strings.HasPrefix(one.ID, "good") {
		return true, ""
	}
	return false, "connection\nrefused"
}

func pool(id string) config.Pool {
	return config.Pool{ID: id, Model: config.Model{ID: "m-" + id}, Workload: task.Completion}
}

// quiet is a log that is on, and that nobody reads.
func quiet() *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(io.Discard), zap.InfoLevel))
}

// paper is what the table is shown on, and what a test reads meanwhile.
type paper struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *paper) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// tested makes the tests of these pools. They are not started.
func tested(all ...config.Pool) (*Tests, *flow, *paper) {
	heard, log := Listen(quiet())
	registry := prometheus.NewRegistry()
	f := &flow{
		log: log, canceled: map[string]bool{},
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "llorch_tasks_finished_total"}, []string{"pool_id"}),
	}
	registry.MustRegister(f.finished)
	shown := &paper{}
	return New(Options{Pools: pools(all), Tasks: f, Gatherer: registry, Log: zap.NewNop(), Heard: heard, Out: shown, Now: time.Now, NewID: func() string { return "one" }}), f, shown
}

// Each pool that is Ready is tested, and the table comes by itself once every pool has its result.
// ORCH-3049
func TestTheTableShowsEveryPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		embeds, later := pool("good-embeds"), pool("later")
		embeds.Workload, later.Lifecycle = task.Embedding, config.LifecycleOnDemand
		tests, f, shown := tested(pool("good"), embeds, later)
		require.Empty(t, tests.Result("good"))
		require.NoError(t, tests.Start(t.Context()))
		synctest.Wait()
		table := strings.Split(shown.String(), "\n")
		require.Len(t, table, 7, "an empty line before and one behind")
		require.Regexp(t, `^SELF-TEST +MODEL +PRELOAD +DECODE +CANCEL +METRICS +LOG +RESULT$`, table[1])
		require.Regexp(t, `^good +m-good +passed +passed +passed +passed +passed +passed: 1 tokens decoded in \d+ ms, one canceled at event 1-0{8}; metrics and log followed$`, table[2])
		require.Regexp(t, `^good-embeds +m-good-embeds +passed +passed +skipped +passed +passed +passed: one embedding answered`, table[3])
		require.Regexp(t, `^later +m-later( +skipped){5} +skipped: the pool is loaded when a task needs it$`, table[4])
		require.Equal(t, "passed", tests.Result("good").State)
		require.Len(t, f.sent, 3)
		require.Len(t, f.canceled, 1)
		for _, r := range f.sent {
			require.Equal(t, []any{"self-test", task.Batch, task.Pin}, []any{r.Actor, r.Priority, r.Placement.Mode})
		}
		require.NoError(t, tests.Stop(t.Context()))
	})
}

// A pool that does not get Ready has no result. The table comes in time all the same, and says why.
// ORCH-3049
func TestTheTableDoesNotWaitForAPoolThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tests, _, shown := tested(pool("good"), pool("down"))
		require.NoError(t, tests.Start(t.Context()))
		time.Sleep(time.Minute - time.Millisecond)
		synctest.Wait()
		require.Equal(t, "passed", tests.Result("good").State)
		require.Equal(t, "pending", tests.Result("down").State)
		require.Empty(t, shown.String())
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		require.Contains(t, shown.String(), "pending: the pool is not Ready yet: connection refused\n")
		require.NoError(t, tests.Stop(t.Context()))
		require.Equal(t, 1, strings.Count(shown.String(), "SELF-TEST"), "a stop shows nothing")
	})
}

// ORCH-3049: what does not follow is a failure, and the steps behind one that fails are skipped.
func TestTheStepsBehindAFailureAreSkipped(t *testing.T) {
	for _, c := range []struct {
		breaks func(*flow)
		detail string
		states []string
	}{
		{func(f *flow) { f.refuse = task.Errorf(task.ShuttingDown, "no more") }, "one task: SHUTTING_DOWN: no more", []string{"passed", "failed", "skipped", "skipped", "skipped"}},
		{func(f *flow) { f.uncount = true }, "2 tasks were decoded and canceled, and llorch_tasks_finished_total moved by 0", []string{"passed", "passed", "passed", "failed", "skipped"}},
		{func(f *flow) { f.silent = true }, `the log has no line "admission" of a task that was decoded and canceled`, []string{"passed", "passed", "passed", "passed", "failed"}},
	} {
		tests, f, _ := tested(pool("good"))
		c.breaks(f)
		v, err := tests.examine(t.Context(), pool("good"))
		require.Error(t, err)
		require.Equal(t, []string{"failed", c.detail}, []string{v.State, v.Detail})
		var states []string
		for _, s := range v.Steps {
			states = append(states, s.State)
		}
		require.Equal(t, c.states, states)
	}
}

// LO-466: a server of which nobody knows what it could be asked is sent no task.
func TestAnOpaqueServerIsSentNoTask(t *testing.T) {
	tests, f, _ := tested(pool("good"))
	f.refuse = task.Errorf(task.InvalidParams, "no task")
	p := pool("good")
	p.Workload = task.Opaque
	v, err := tests.examine(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, []string{"passed", "its server answers"}, []string{v.State, v.Detail})
}

// ORCH-3049: lines of other tasks than the test's do not count.
func TestTheListenerHearsTheTestsLines(t *testing.T) {
	l, log := Listen(quiet())
	say := func(line, actor string) { log.Info(line, zap.String("job_id", "a"), zap.String("actor", actor)) }
	require.Equal(t, "admission", l.missing([]string{"a"}))
	for _, line := range []string{"admission", "placement"} {
		say(line, task.SelfTester)
	}
	say("stream_start", "localhost")
	require.Equal(t, "stream_start", l.missing([]string{"a"}))
	say("stream_start", task.SelfTester)
	require.Equal(t, "stream_end", l.missing([]string{"a"}))
	say("cancel", task.SelfTester)
	require.Empty(t, l.missing([]string{"a"}))
	require.Equal(t, "admission", l.missing([]string{"a", "b"}))
	l.stop()
	log.Info("admission", zap.String("job_id", "b"), zap.String("actor", task.SelfTester))
	require.Equal(t, "admission", l.missing([]string{"b"}), "the tests are over")
}

func TestStartsAndStopsInAnyOrder(t *testing.T) {
	tests, f, _ := tested(pool("good"))
	require.NoError(t, tests.Stop(t.Context()))
	require.NoError(t, tests.Start(t.Context()))
	require.NoError(t, tests.Stop(t.Context()))
	require.Empty(t, f.sent, "it was over before it began")
	tests, _, _ = tested(pool("down"))
	for range 2 {
		require.NoError(t, tests.Start(t.Context()))
	}
	var stops sync.WaitGroup
	for range 2 {
		stops.Go(func() { require.NoError(t, tests.Stop(t.Context())) })
	}
	stops.Wait()
}

// LO-803: a test that panics has failed, and the others go on.
func TestAPanicFailsOneTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tests, f, shown := tested(pool("good"), pool("good-too"))
		f.panics = "good"
		require.NoError(t, tests.Start(t.Context()))
		synctest.Wait()
		require.Equal(t, "failed", tests.Result("good").State)
		require.NotContains(t, tests.Result("good").Detail, "index", "that is for the log")
		require.Equal(t, "passed", tests.Result("good-too").State)
		require.Contains(t, shown.String(), "good-too", "the table came")
		require.NoError(t, tests.Stop(t.Context()))
	})
}
