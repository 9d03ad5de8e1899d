// SPDX-License-Identifier: GPL-3.0-or-later

package batch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/service/front/anthropic"
	"github.com/llama-orch/llama-orch/service/front/batch"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/openai"
	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
	"github.com/llama-orch/llama-orch/service/task"
)

// What any test gets is held against the dialects' documents (LO-419).
func TestMain(m *testing.M) {
	one, err := dialect.LoadOpenAI()
	if err != nil {
		panic(err)
	}
	other, err := dialect.LoadAnthropic()
	if err != nil {
		panic(err)
	}
	dialect.Run(m, func(path string, status int, contentType string, body []byte) error {
		if strings.HasPrefix(path, "/v1/messages") {
			return other.Check(path, status, contentType, body)
		}
		return one.Check(path, status, contentType, body)
	})
}

// rig is a feeder on a ledger in memory and a line of tasks that a test scripts.
type rig struct {
	t     *testing.T
	book  *ledgertest.Store
	l     *ledgertest.Memory
	store *store
	full  atomic.Bool // see records
	keeps atomic.Pointer[func()]
	line  *line
	f     *batch.Feeder
	o     batch.Options
	chat  *openai.Front
	says  *anthropic.Front
}

func newRig(t *testing.T, change ...func(*batch.Options)) *rig {
	r := &rig{t: t, book: ledgertest.NewStore(), store: &store{files: map[string][]byte{}}}
	r.l = r.book.Open()
	r.line = newLine(r.l)
	r.open(change...)
	return r
}

// open makes a feeder on what is recorded.
func (r *rig) open(change ...func(*batch.Options)) {
	ids := 0
	r.chat, r.says = openai.New(exchange.Options{}), anthropic.New(exchange.Options{})
	r.o = batch.Options{
		Tasks: r.line, Records: records{r.l, &r.full, &r.keeps}, Store: r.store, Dialects: map[string]batch.Dialect{"openai": r.chat, "anthropic": r.says},
		NewID: func() string { ids++; return fmt.Sprint("n", ids) }, Feed: 3, LineBytes: 2000, FileBytes: 100_000,
	}
	for _, c := range change {
		c(&r.o)
	}
	var err error
	r.f, err = batch.New(r.o)
	require.NoError(r.t, err)
}

func (r *rig) start() { require.NoError(r.t, r.f.Start(r.t.Context())) }

func (r *rig) stop() { require.NoError(r.t, r.f.Stop(context.Background())) }

// create accepts a batch of a file with this content.
func (r *rig) create(content string, change ...func(*task.BatchRecord)) task.BatchRecord {
	r.t.Helper()
	id, _, err := r.store.Put(r.t.Context(), "x", strings.NewReader(content), 1<<20)
	require.NoError(r.t, err)
	file := task.File{ID: "file-" + id[:8], Artifact: id, Name: "x", Bytes: int64(len(content)), CreatedAt: time.Now().UTC()}
	require.NoError(r.t, r.l.KeepFile(r.t.Context(), file))
	b := task.BatchRecord{
		ID: "batch_" + id[:8], Dialect: "openai", Endpoint: "/v1/completions", FileID: file.ID, Artifact: id, Window: "24h",
		CreatedAt: time.Now().UTC(), ExpiresAt: time.Now().UTC().Add(24 * time.Hour), Actor: "token:abcdef",
	}
	for _, c := range change {
		c(&b)
	}
	b, err = r.f.Create(r.t.Context(), b)
	require.NoError(r.t, err)
	return b
}

func (r *rig) batch(id string) task.BatchRecord {
	r.t.Helper()
	b, ok, err := r.l.Batch(r.t.Context(), id)
	require.NoError(r.t, err)
	require.True(r.t, ok, id)
	return b
}

func (r *rig) lines(id string) []task.Line {
	r.t.Helper()
	lines, err := r.l.Lines(r.t.Context(), id, task.LineFilter{})
	require.NoError(r.t, err)
	return lines
}

// completion is a line of a file that asks for the completion of a prompt.
func completion(customID, prompt string) string {
	return fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/completions","body":{"model":"m","prompt":%q,"max_tokens":4}}`, customID, prompt) + "\n"
}

func completions(n int) string {
	var all strings.Builder
	for i := range n {
		all.WriteString(completion(fmt.Sprint("c", i+1), fmt.Sprint("p", i+1)))
	}
	return all.String()
}

// records are a ledger's, with errors as app words them.
type records struct {
	*ledgertest.Memory
	full    *atomic.Bool            // what clients send cannot be recorded
	keeping *atomic.Pointer[func()] // is called once, before a file is recorded, or when the end of a batch is
}

var errFull = errors.New("the disk is full")

func (r records) KeepFile(ctx context.Context, f task.File) error {
	if r.full.Load() {
		return errFull
	}
	if do := r.keeping.Swap(nil); do != nil {
		(*do)()
	}
	return r.Memory.KeepFile(ctx, f)
}

func worded(err error) error {
	switch {
	case errors.Is(err, ledger.ErrUnknown):
		return task.Errorf(task.NotFound, "it is not there")
	case errors.Is(err, ledger.ErrLive):
		return task.Errorf(task.Conflict, "it has not ended")
	}
	return err
}

func (r records) KeepBatch(ctx context.Context, b task.BatchRecord, lines []task.Line) error {
	if r.full.Load() {
		return errFull
	}
	err := r.Memory.KeepBatch(ctx, b, lines)
	if !b.EndedAt.IsZero() {
		if do := r.keeping.Swap(nil); do != nil {
			(*do)()
		}
	}
	return worded(err)
}

func (r records) DropFile(ctx context.Context, id string) error {
	return worded(r.Memory.DropFile(ctx, id))
}

func (r records) Files(ctx context.Context, f task.FileFilter) ([]task.Listed, error) {
	found, err := r.Memory.Files(ctx, f)
	return found, worded(err)
}

func (r records) Batches(ctx context.Context, f task.BatchFilter) ([]task.BatchRecord, error) {
	found, err := r.Memory.Batches(ctx, f)
	return found, worded(err)
}

func (r records) DropBatch(ctx context.Context, id string, at time.Time) error {
	return worded(r.Memory.DropBatch(ctx, id, at))
}

// store keeps files in memory.
type store struct {
	mu     sync.Mutex
	files  map[string][]byte
	needed func(string) bool
	put    func() // is called at the end of a Put
}

func (s *store) Put(_ context.Context, _ string, r io.Reader, most int64) (string, int64, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", 0, fmt.Errorf("read the artifact to store: %w", err)
	}
	if int64(len(b)) > most {
		return "", 0, task.Errorf(task.TooLarge, "an artifact may have at most %d bytes", most)
	}
	sum := sha256.Sum256(b)
	id := hex.EncodeToString(sum[:])
	s.mu.Lock()
	s.files[id] = b
	put := s.put
	s.mu.Unlock()
	if put != nil {
		put()
	}
	return id, int64(len(b)), nil
}

func (s *store) Open(id string) (io.ReadSeekCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.files[id]
	if !ok {
		return nil, task.Errorf(task.NotFound, "there is no artifact %s", id)
	}
	return file{bytes.NewReader(b)}, nil
}

type file struct{ *bytes.Reader }

func (file) Close() error { return nil }

func (s *store) Has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.files[id]
	return ok
}

func (s *store) Remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, id)
	return nil
}

func (s *store) Keep(needed func(string) bool) { s.needed = needed }

// line is a line of tasks with two slots. Each task takes a while, and answers "re: " and its prompt.
type line struct {
	l     ledger.Ledger
	slots chan struct{}

	mu     sync.Mutex
	tasks  map[string]*running
	order  []string                         // prompts, as they were accepted
	refuse func(q task.Request) error       // nil: nothing
	ends   func(q task.Request) *task.Error // nil: all complete
	most   int                              // of tasks that were open at a time
	takes  time.Duration
	seq    uint64
}

type running struct {
	q      task.Request
	cancel context.CancelFunc
	began  bool
	over   chan struct{}
}

func newLine(l ledger.Ledger) *line {
	return &line{l: l, slots: make(chan struct{}, 2), tasks: map[string]*running{}, takes: time.Second}
}

func (l *line) Submit(ctx context.Context, q task.Request) (task.Admission, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		if err := l.refuse(q); err != nil {
			return task.Admission{}, err
		}
	}
	l.seq++
	t := task.Task{ID: q.ID, Seq: l.seq, Request: q, PoolID: "p", AcceptedAt: time.Now().UTC()}
	if err := l.l.Accept(ctx, t); err != nil {
		return task.Admission{}, task.Errorf(task.LedgerUnavailable, "not recorded").Retry(time.Second).Because(err)
	}
	run, cancel := context.WithCancel(context.Background())
	one := &running{q: q, cancel: cancel, over: make(chan struct{})}
	l.tasks[q.ID] = one
	l.order = append(l.order, q.Prompt)
	go l.run(run, t, one)
	open := 0
	for _, o := range l.tasks {
		select {
		case <-o.over:
		default:
			open++
		}
	}
	l.most = max(l.most, open)
	return task.Admission{TaskID: q.ID}, nil
}

func (l *line) run(ctx context.Context, t task.Task, one *running) {
	defer close(one.over)
	state := task.Completed
	select {
	case l.slots <- struct{}{}:
		l.mu.Lock()
		one.began = true
		takes := l.takes
		l.mu.Unlock()
		timer := time.NewTimer(takes)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			state = task.StateCanceled
		}
		<-l.slots
	case <-ctx.Done():
		state = task.StateCanceled
	}
	l.mu.Lock()
	ends := l.ends
	l.mu.Unlock()
	r := ledgertest.Ended(t, state, "re: ", t.Request.Prompt)
	r.FinishedAt = time.Now().UTC()
	if ends != nil && state == task.Completed {
		if e := ends(t.Request); e != nil {
			r = ledgertest.Ended(t, task.Failed)
			r.Err = e
		}
	}
	if err := l.l.Finish(context.Background(), r); err != nil {
		panic(err)
	}
}

func (l *line) one(id string) *running {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tasks[id]
}

func (l *line) Await(ctx context.Context, id string) error {
	one := l.one(id)
	if one == nil {
		return task.Errorf(task.NotFound, "there is no task %s", id)
	}
	select {
	case <-one.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *line) Get(_ context.Context, id string) (task.Status, error) {
	one := l.one(id)
	if one == nil {
		return task.Status{}, task.Errorf(task.NotFound, "there is no task %s", id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if one.began {
		return task.Status{State: task.Running}, nil
	}
	return task.Status{State: task.Queued}, nil
}

func (l *line) Cancel(_ context.Context, id string) (task.CancelResult, error) {
	one := l.one(id)
	if one == nil {
		return task.CancelResult{}, task.Errorf(task.NotFound, "there is no task %s", id)
	}
	one.cancel()
	<-one.over
	return task.CancelResult{}, nil
}

func (l *line) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *line) accepted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order)
}

// serve serves the rig's fronts, and returns their URL.
func (r *rig) serve() string {
	return exchangetest.Serve(r.t, exchangetest.New(), func(o exchange.Options) gate.Front {
		one := batch.NewOpenAI(r.f, o, openai.Endpoints, r.chat.Refuse)
		other := batch.NewAnthropic(r.f, o, anthropic.MessagesPath, r.says.Refuse)
		return both{one, other}
	})
}

// both are two fronts, by their paths.
type both struct {
	chat *batch.OpenAI
	says *batch.Anthropic
}

func (b both) of(r *http.Request) gate.Front {
	if strings.HasPrefix(r.URL.Path, "/v1/messages") {
		return b.says
	}
	return b.chat
}

func (b both) Route(r *http.Request) gate.Route                         { return b.of(r).Route(r) }
func (b both) Refuse(w http.ResponseWriter, r *http.Request, err error) { b.of(r).Refuse(w, r, err) }
func (b both) ServeHTTP(w http.ResponseWriter, r *http.Request)         { b.of(r).ServeHTTP(w, r) }

// object is a JSON object that was answered.
type object map[string]any

// call sends a request, and returns what came.
func call(t *testing.T, method, url, body string) (int, object) {
	t.Helper()
	res := exchangetest.Do(t, method, url, body)
	text := exchangetest.Read(t, res.Body)
	var out object
	require.NoError(t, json.Unmarshal([]byte(text), &out), text)
	return res.StatusCode, out
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
