// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/flow/queue"
	"github.com/llama-orch/llama-orch/service/flow/scheduler"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/record/ledger/sqlite"
	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3054
func TestStubSpeaksToTheAdapter(t *testing.T) {
	server := httptest.NewServer((&stub{slots: 2, shared: &shared{over: make(chan struct{})}}).handler())
	defer server.Close()
	e := llamacpp.New(engine.Endpoint{URL: server.URL})
	defer e.Close()
	props, err := e.Props(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, props.Slots)
	before, tokens := time.Now(), 0
	result, err := e.Generate(t.Context(), engine.Job{Prompt: "rate=0 tokens=3"}, func(p task.Piece) error {
		tokens++
		at, err := strconv.ParseInt(strings.TrimPrefix(p.Text, " @"), 10, 64)
		require.NoError(t, err)
		require.WithinRange(t, time.Unix(0, at), before, time.Now())
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, tokens)
	require.Equal(t, 3, result.TokensOut)
	result, err = e.Generate(t.Context(), engine.Job{Prompt: "rate=1000 tokens=5"}, func(task.Piece) error { return nil })
	require.NoError(t, err)
	require.Equal(t, 5, result.TokensOut)
}

// LO-411: the stub is a llama-server whose model cannot think, or can: a front's chat comes from the native endpoint, or from that of chats.
func TestStubSpeaksChats(t *testing.T) {
	for _, thinks := range []bool{false, true} {
		s := &stub{slots: 2, thinks: thinks, shared: &shared{over: make(chan struct{})}}
		var paths sync.Map
		handler := s.handler()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			paths.Store(r.URL.Path, true)
			handler.ServeHTTP(w, r)
		}))
		e := llamacpp.New(engine.Endpoint{URL: server.URL})
		messages := []task.Message{{Role: "user", Content: "rate=0 tokens=3"}}
		prompt, err := e.ApplyTemplate(t.Context(), messages, nil)
		require.NoError(t, err)
		tokens := 0
		result, err := e.Generate(t.Context(), engine.Job{
			Prompt: prompt, Messages: messages, Chat: &task.Chat{Reasoning: task.Reasoning{Split: true}},
		}, func(p task.Piece) error {
			tokens++
			require.Len(t, p.Text, len(" @")+digits)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 3, tokens)
		require.Equal(t, engine.Result{TokensIn: 3, TokensOut: 3, Cells: result.Cells, Decode: time.Millisecond, Finish: task.FinishStop}, result)
		_, chats := paths.Load("/v1/chat/completions")
		require.Equal(t, thinks, chats)
		e.Close()
		server.Close()
	}
}

// However a stream is cut into reads, each token is counted once, with its own time.
//
// ORCH-2002
func TestFollowFindsTokensAcrossReads(t *testing.T) {
	var stream bytes.Buffer
	for i := range 300 {
		fmt.Fprintf(&stream, "id: %d-0a1b2c3d\nevent: token\ndata: {\"t\":\" @%d\",\"i\":%d}\n\n", i, time.Now().Add(-time.Hour).UnixNano(), i)
	}
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader, "end with data": iotest.DataErrReader,
	} {
		m := meter{gaps: true}
		m.open.Store(true)
		began := 0
		got, err := follow(cut(bytes.NewReader(stream.Bytes())), &m, func() { began++ })
		require.NoError(t, err, name)
		require.Equal(t, int64(300), m.tokens.Load(), name)
		require.Equal(t, 1, began, name)
		require.Len(t, got.late, 300, name)
		require.Len(t, got.gaps, 299, name)
		for _, l := range got.late {
			require.InDelta(t, time.Hour, l, float64(time.Minute), name)
		}
	}
	_, err := follow(iotest.TimeoutReader(iotest.HalfReader(&stream)), &meter{}, func() {})
	require.ErrorIs(t, err, iotest.ErrTimeout)
}

// perTask is how many tokens a task has below.
const perTask = 1000

// BenchmarkToken is a token's way from the engine's adapter to a subscriber, the scheduler between, with the ledger and with
// none: the difference is what durability costs for each token of tasks of 1000 tokens, the records of the task included.
func BenchmarkToken(b *testing.B) {
	b.Run("ledger=none", func(b *testing.B) { benchmarkToken(b, nothing{}) })
	b.Run("ledger=disk", func(b *testing.B) {
		l, err := sqlite.Open(sqlite.Options{Path: filepath.Join(b.TempDir(), sqlite.FileName)})
		require.NoError(b, err)
		defer func() { require.NoError(b, l.Close()) }()
		benchmarkToken(b, l)
	})
}

func benchmarkToken(b *testing.B, record scheduler.Ledger) {
	m := &mill{}
	s := scheduler.New(scheduler.Options{
		Pools:    []scheduler.Pool{{ID: "bench", Engine: "llamacpp", Capacity: 1 << 20, Policy: queue.Reject, Wall: time.Hour, Idle: time.Hour}},
		Replicas: m, Ledger: record, Narrator: observe.NewNarrator(zap.NewNop()),
		Metrics: scheduler.NewMetrics(prometheus.NewRegistry()), Log: zap.NewNop(), Now: time.Now,
	})
	m.released = func() { s.Wake("bench") }
	require.NoError(b, s.Start(b.Context()))
	defer func() { require.NoError(b, s.Stop(context.Background())) }()
	tasks := (b.N + perTask - 1) / perTask
	b.ReportAllocs()
	cpu := cpuOf(0)
	b.ResetTimer()
	var readers sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range tasks {
		slots <- struct{}{}
		t := entry(uint64(i+1), time.Now())
		subscribed := make(chan struct{})
		m.gates.Store(strconv.Itoa(i), subscribed)
		t.Prompt = strconv.Itoa(i)
		_, err := s.Enqueue(b.Context(), t)
		require.NoError(b, err)
		readers.Go(func() {
			defer func() { <-slots }()
			stream, err := s.Subscribe(b.Context(), t.ID, "")
			close(subscribed)
			if err != nil {
				panic(err)
			}
			defer stream.Close()
			for {
				if _, err := stream.Next(b.Context(), nil); err != nil {
					return
				}
				stream.Written()
			}
		})
	}
	readers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpuOf(0)-cpu)/float64(tasks*perTask), "cpu-ns/token")
}

// mill is 32 replicas in one, whose engine has every token at once.
type mill struct {
	active   atomic.Int64
	gates    sync.Map // of each prompt: closed once its stream is read
	released func()
}

func (m *mill) Snapshot(_ string, into []placement.Replica) []placement.Replica {
	return append(into, placement.Replica{ID: "r", Ready: true, Slots: 32, Active: int(m.active.Load()), Strict: true, Fingerprint: "f"})
}

func (m *mill) Lease(string) (scheduler.Lease, error) {
	m.active.Add(1)
	return lease{&shift{mill: m}}, nil
}

func (m *mill) EngineVersion(string) string { return "mill" }

type shift struct {
	engine.Engine

	mill *mill
	once sync.Once
}

// lease is a slot of the mill; a shift is its engine.
type lease struct{ *shift }

func (l lease) Engine() engine.Engine      { return l.shift }
func (lease) Replica() scheduler.Replica   { return scheduler.Replica{ID: "r", Fingerprint: "f"} }
func (lease) Lost() <-chan struct{}        { return nil }
func (lease) Others() int                  { return 0 }
func (lease) Intact(context.Context) error { return nil }
func (lease) KeepWarm()                    {}
func (lease) Replace(string)               {}
func (l lease) Release() {
	l.once.Do(func() {
		l.mill.active.Add(-1)
		l.mill.released()
	})
}

func (s *shift) Generate(_ context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	gate, _ := s.mill.gates.LoadAndDelete(job.Prompt)
	<-gate.(chan struct{})
	for range perTask {
		if err := emit(task.TextPiece(" winter")); err != nil {
			return engine.Result{}, err
		}
	}
	return engine.Result{TokensOut: perTask, Finish: task.FinishStop}, nil
}

// nothing is a ledger that records nothing.
type nothing struct{}

func (nothing) Accept(context.Context, task.Task) error                       { return nil }
func (nothing) AcceptRunning(context.Context, task.Task, task.Dispatch) error { return nil }
func (nothing) Dispatch(context.Context, task.Dispatch) error                 { return nil }
func (nothing) Started(task.Dispatch)                                         {}
func (nothing) Checkpoint(string, task.Checkpoint)                            {}
func (nothing) Finish(context.Context, task.Record) error                     { return nil }
func (nothing) Expire(context.Context, time.Time) ([]string, time.Time, error) {
	return nil, time.Time{}, nil
}
func (nothing) Delete(context.Context, string, time.Time) error { return nil }
func (nothing) Get(context.Context, string) (task.Record, bool, error) {
	return task.Record{}, false, nil
}
func (nothing) List(context.Context, task.State, int) ([]task.Record, error) { return nil, nil }
func (nothing) NextSeq() (uint64, error)                                     { return 1, nil }
