// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/task"
)

var limits = Limits{PromptBytes: 100, Inputs: 3}

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func request() task.Request {
	return task.Request{ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, Prompt: "frogs", Placement: task.Placement{Mode: task.Auto}}
}

func facts() Facts {
	return Facts{
		ID: "t1", Seed: 5, Prompt: "frogs", PromptTokens: 10,
		Pool: Pool{
			Pool:          placement.Pool{ID: "default", Engine: "llamacpp", ModelID: "haiku", Workload: task.Completion, Ctx: 256, Strict: true, Profile: "v1", Ready: true},
			EngineVersion: "b1", Faces: engine.Faces{CountsTokens: true, CountsChats: true, Templates: true, Embeds: true, Reranks: true}, Sampling: task.Sampling{Profile: "v1", Temperature: 0.8, TopP: 0.95, TopK: 40, MinP: 0.05, RepeatPenalty: 1},
		},
	}
}

// LO-102
func TestCheckWantsOneKindOfInput(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*task.Request)
		ok     bool
	}{
		"prompt":                   {func(*task.Request) {}, true},
		"messages":                 {func(r *task.Request) { r.Prompt, r.Messages = "", []task.Message{{Role: "user", Content: "x"}} }, true},
		"neither":                  {func(r *task.Request) { r.Prompt = "" }, false},
		"both":                     {func(r *task.Request) { r.Messages = []task.Message{{}} }, false},
		"completion with inputs":   {func(r *task.Request) { r.Inputs = []string{"x"} }, false},
		"embedding of a prompt":    {func(r *task.Request) { r.Workload = task.Embedding }, true},
		"embedding of inputs":      {func(r *task.Request) { r.Workload, r.Prompt, r.Inputs = task.Embedding, "", []string{"x"} }, true},
		"embedding of both":        {func(r *task.Request) { r.Workload, r.Inputs = task.Embedding, []string{"x"} }, false},
		"rerank":                   {func(r *task.Request) { r.Workload, r.Inputs = task.Rerank, []string{"x"} }, true},
		"rerank without documents": {func(r *task.Request) { r.Workload = task.Rerank }, false},
		"pin without a pool":       {func(r *task.Request) { r.Placement.Mode = task.Pin }, false},
	} {
		t.Run(name, func(t *testing.T) {
			req := request()
			c.change(&req)
			err := Check(req, limits)
			require.Equal(t, c.ok, err == nil, "%v", err)
			require.Equal(t, !c.ok, task.HasCode(err, task.InvalidParams))
		})
	}
}

func TestCheckBoundsTheInput(t *testing.T) {
	req := request()
	req.Prompt = strings.Repeat("x", 101)
	require.True(t, task.HasCode(Check(req, limits), task.TooLarge))
	req = request()
	req.Workload, req.Prompt, req.Inputs = task.Embedding, "", []string{"1", "2", "3", "4"}
	require.True(t, task.HasCode(Check(req, limits), task.TooLarge))
}

// ORCH-3014, OC-CORE-1020
func TestDecideRefusesWhatDoesNotFit(t *testing.T) {
	req, f := request(), facts()
	f.PromptTokens = 300
	_, err := Decide(now, req, f)
	require.True(t, task.HasCode(err, task.InvalidParams))
	require.ErrorContains(t, err, "45 tokens too long")

	f.PromptTokens, req.MaxTokens = 200, 100
	_, err = Decide(now, req, f)
	require.ErrorContains(t, err, "44 tokens too long")
	require.ErrorContains(t, err, "lower `max_tokens` to 56")

	req.MaxTokens = 56
	_, err = Decide(now, req, f)
	require.NoError(t, err)
}

func TestDecideRefusesAHopelessDeadline(t *testing.T) {
	req, f := request(), facts()
	req.Deadline, f.Pool.Wait = time.Second, 2*time.Second
	_, err := Decide(now, req, f)
	require.True(t, task.HasCode(err, task.DeadlineUnmet))
	f.Pool.Wait = 500 * time.Millisecond
	_, err = Decide(now, req, f)
	require.NoError(t, err)
}

// LO-205: strict where the pool's replicas have one slot, unless asked otherwise.
func TestDecideResolves(t *testing.T) {
	req, f := request(), facts()
	got, err := Decide(now, req, f)
	require.NoError(t, err)
	require.Equal(t, task.Strict, got.Determinism)
	require.Equal(t, uint32(5), got.Seed)
	require.Equal(t, 0.8, got.Sampling.Temperature)
	require.Equal(t, now, got.AcceptedAt)

	seed, cold := uint32(9), 0.0
	req.Seed, req.Params.Temperature, req.Determinism = &seed, &cold, task.BestEffort
	got, err = Decide(now, req, f)
	require.NoError(t, err)
	require.Equal(t, task.BestEffort, got.Determinism)
	require.Equal(t, uint32(9), got.Seed)
	require.Zero(t, got.Sampling.Temperature)
	require.Equal(t, 0.95, got.Sampling.TopP)

	req.Determinism, f.Pool.Strict = task.Unset, false
	got, err = Decide(now, req, f)
	require.NoError(t, err)
	require.Equal(t, task.BestEffort, got.Determinism)
}

// ORCH-3045: the digest covers what the bytes depend on, and nothing else.
func TestRequestDigest(t *testing.T) {
	of := func(change func(*task.Request, *Facts)) string {
		req, f := request(), facts()
		change(&req, &f)
		got, err := Decide(now, req, f)
		require.NoError(t, err)
		return got.RequestDigest
	}
	base := of(func(*task.Request, *Facts) {})
	require.Len(t, base, 64)
	hot := 1.2
	for name, change := range map[string]func(*task.Request, *Facts){
		"prompt":     func(_ *task.Request, f *Facts) { f.Prompt = "toads" },
		"seed":       func(_ *task.Request, f *Facts) { f.Seed = 6 },
		"params":     func(r *task.Request, _ *Facts) { r.Params.Temperature = &hot },
		"stop":       func(r *task.Request, _ *Facts) { r.Params.Stop = []string{"\n"} },
		"profile":    func(_ *task.Request, f *Facts) { f.Pool.Sampling.Profile = "v2" },
		"max_tokens": func(r *task.Request, _ *Facts) { r.MaxTokens = 7 },
	} {
		require.NotEqual(t, base, of(change), name)
	}
	require.Equal(t, base, of(func(r *task.Request, f *Facts) {
		r.Priority, r.SessionID, f.ID, f.Pool.Pool.ID = task.Batch, "s", "t2", "other"
	}))
}

// desk is the world around a Desk.
type desk struct {
	pools    []Pool
	ready    bool
	count    error
	counted  int // calls
	enqueued []task.Task
	known    map[string]task.Admission
	ended    map[string]task.Request
}

func (d *desk) Snapshot(task.Priority) []Pool                { return d.pools }
func (d *desk) Resolve(q task.Request) (task.Request, error) { return q, nil }
func (d *desk) Tokenizer(string) (Tokenizer, bool)           { return d, d.ready }
func (d *desk) ApplyTemplate(_ context.Context, m []task.Message, _ *task.Chat) (string, error) {
	return "<user>" + m[0].Content, d.count
}

func (d *desk) CountTokens(_ context.Context, p string) (int, error) {
	d.counted++
	return len(strings.Fields(p)), d.count
}

func (d *desk) CountChat(_ context.Context, m []task.Message, _ *task.Chat) (int, error) {
	d.counted++
	return 100 * len(m[0].Parts), d.count
}

func (d *desk) Known(_ context.Context, id string, _ [32]byte) (task.Admission, bool, error) {
	a, ok := d.known[id]
	return a, ok, nil
}

func (d *desk) Enqueue(_ context.Context, t task.Task) (task.Admission, error) {
	d.enqueued = append(d.enqueued, t)
	return t.Admission(), nil
}

func (d *desk) Ended(_ context.Context, id string) (task.Record, error) {
	q, ok := d.ended[id]
	if !ok {
		return task.Record{}, task.Errorf(task.NotFound, "there is no task %s", id)
	}
	return task.Record{Task: task.Task{Request: q}}, nil
}

func open(d *desk) (*Desk, *Metrics) {
	m := NewMetrics(prometheus.NewRegistry())
	return NewDesk(Options{
		Pools: d, Scheduler: d, Now: func() time.Time { return now }, NewID: func() string { return "made" },
		NewSeed: func() uint32 { return 77 }, Metrics: m, Narrator: observe.NewNarrator(zap.NewNop()), Limits: limits,
	}), m
}

// ORCH-2001, LO-102
func TestSubmitResolvesIDSeedAndTemplate(t *testing.T) {
	d := &desk{pools: []Pool{facts().Pool}, ready: true}
	s, _ := open(d)
	req := request()
	req.Prompt, req.Messages = "", []task.Message{{Role: "user", Content: "two words"}}
	a, err := s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, task.Admission{TaskID: "made", PoolID: "default", Seed: 77, Determinism: task.Strict, PromptTokens: 2, AcceptedAt: d.enqueued[0].AcceptedAt}, a)
	require.Equal(t, "<user>two words", d.enqueued[0].Prompt)
	require.Equal(t, 2, d.enqueued[0].PromptTokens)
}

// ORCH-3014: the engine counts a prompt's tokens only where the number matters: where the answer may not fit, and where a budget pays.
func TestTokensAreCountedWhereThatMatters(t *testing.T) {
	for name, c := range map[string]struct {
		most  int // tokens of the answer
		pays  bool
		count bool
	}{
		"it fits":       {most: 256 - len("frogs") - 8},
		"it may not":    {most: 256 - len("frogs") - 7, count: true},
		"no bound":      {count: true},
		"a budget pays": {most: 10, pays: true, count: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := &desk{pools: []Pool{facts().Pool}, ready: true}
			s, _ := open(d)
			s.o.Pays = func(task.Request) bool { return c.pays }
			req := request()
			req.MaxTokens = c.most
			_, err := s.Submit(t.Context(), req)
			require.NoError(t, err)
			require.Equal(t, c.count, d.counted == 1)
			require.Equal(t, c.count, d.enqueued[0].PromptTokens == 1)
		})
	}
}

// LO-101: a repeated submit needs no pool at all.
func TestSubmitOfAKnownTaskIsItsFirstAdmission(t *testing.T) {
	d := &desk{known: map[string]task.Admission{"x": {TaskID: "x", Seed: 3}}}
	s, _ := open(d)
	req := request()
	req.ID = "x"
	a, err := s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, uint32(3), a.Seed)
	require.Empty(t, d.enqueued)
}

func TestSubmitRefusesTypedAndCounts(t *testing.T) {
	d := &desk{pools: []Pool{facts().Pool}}
	s, m := open(d)
	_, err := s.Submit(t.Context(), request())
	e := task.AsError(err)
	require.Equal(t, task.PoolUnready, e.Code)
	require.True(t, e.Retriable)
	require.Equal(t, "default", e.PoolID)
	require.Equal(t, 1.0, testutil.ToFloat64(m.refusals.WithLabelValues("llamacpp", "pool_unready")))

	req := request()
	req.ModelRef = "gone"
	_, err = s.Submit(t.Context(), req)
	require.True(t, task.HasCode(err, task.ModelNotFound))
	require.Equal(t, 1.0, testutil.ToFloat64(m.refusals.WithLabelValues("none", "model_not_found")))

	d.ready, d.count = true, task.Errorf(task.WorkerReset, "gone")
	_, err = s.Submit(t.Context(), request())
	require.True(t, task.HasCode(err, task.PoolUnready), "before admission, a broken engine is only another try")
}

// LO-503: a task for a model that is not loaded is accepted unread; messages get their digest once they are templated.
func TestSubmitToAModelThatIsNotLoaded(t *testing.T) {
	pool := facts().Pool
	pool.OnDemand, pool.Ready, pool.Ctx = true, false, 0
	d := &desk{pools: []Pool{pool}}
	s, _ := open(d)
	req := request()
	req.Ctx = 4096
	_, err := s.Submit(t.Context(), req)
	require.NoError(t, err, "how large its context is, is not known yet")
	chat := request()
	chat.Prompt, chat.Messages = "", []task.Message{{Role: "user", Content: "hi"}}
	_, err = s.Submit(t.Context(), chat)
	require.NoError(t, err)
	require.Equal(t, req.Prompt, d.enqueued[0].Prompt)
	require.Equal(t, d.enqueued[0].Digest(), d.enqueued[0].RequestDigest)
	require.Zero(t, d.enqueued[0].PromptTokens)
	require.Empty(t, d.enqueued[1].Prompt+d.enqueued[1].RequestDigest)
}

// ORCH-3040: a pool whose replicas were all given up sheds, and says when they are tried again.
func TestSubmitToAPoolThatWasGivenUp(t *testing.T) {
	pool := facts().Pool
	pool.Ready, pool.Standing = false, task.Standing{State: task.PoolFailed, Retry: 90 * time.Second}
	s, m := open(&desk{pools: []Pool{pool}})
	_, err := s.Submit(t.Context(), request())
	e := task.AsError(err)
	require.Equal(t, task.PoolUnavailable, e.Code)
	require.True(t, e.Retriable)
	require.Equal(t, 90*time.Second, e.RetryAfter)
	require.Equal(t, 1.0, testutil.ToFloat64(m.refusals.WithLabelValues("llamacpp", "pool_unavailable")))
}

// ORCH-3054, LO-102, OC-CORE-1016: a task that the pool's engine has no face for is refused before anything is done for it; what an engine does
// without is left to it.
func TestATaskNeedsWhatThePoolsEngineHas(t *testing.T) {
	chat := []task.Message{{Role: "user", Content: "two words"}}
	with := func(f engine.Faces) (*desk, *Desk) {
		p := facts().Pool
		p.Faces = f
		d := &desk{pools: []Pool{p}, ready: true}
		s, _ := open(d)
		return d, s
	}
	d, s := with(engine.Faces{CountsTokens: true})
	req := request()
	req.Prompt, req.Messages = "", chat
	_, err := s.Submit(t.Context(), req)
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "takes no messages")
	require.Equal(t, "default", task.AsError(err).PoolID)
	require.Empty(t, d.enqueued)

	d, s = with(engine.Faces{Chats: true})
	_, err = s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, d.enqueued[0].Prompt, "the engine templates it")
	require.Zero(t, d.enqueued[0].PromptTokens)
	first := d.enqueued[0].RequestDigest
	req.Messages = []task.Message{{Role: "user", Content: "other words"}}
	_, err = s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.NotEqual(t, first, d.enqueued[1].RequestDigest)

	for workload, says := range map[task.Workload]string{task.Embedding: "makes no embeddings", task.Rerank: "does not rerank"} {
		p := facts().Pool
		p.Faces, p.Workload = engine.Faces{Chats: true}, workload
		d := &desk{pools: []Pool{p}, ready: true}
		s, _ := open(d)
		req := request()
		req.Workload = workload
		if workload == task.Rerank {
			req.Inputs = []string{"x"}
		}
		_, err := s.Submit(t.Context(), req)
		require.ErrorContains(t, err, says)
		require.Empty(t, d.enqueued)
	}
}

// LO-410: the tokens of an image are counted by the engine, since no prompt shows them.
func TestImagesAreCounted(t *testing.T) {
	p := facts().Pool
	p.Features = []task.Feature{task.FeatureImages}
	d := &desk{pools: []Pool{p}, ready: true}
	s, _ := open(d)
	req := request()
	req.Prompt, req.MaxTokens = "", 1
	req.Messages = []task.Message{{Role: task.RoleUser, Parts: []task.Part{{Image: &task.Image{MIME: "image/png", Data: []byte("\x89PNG\r\n\x1a\n")}}}}}
	_, err := s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, 100, d.enqueued[0].PromptTokens)
	p.Faces.CountsChats = false // then the engine itself has to
	d.pools = []Pool{p}
	_, err = s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Zero(t, d.enqueued[1].PromptTokens)
	p.Features = nil
	d.pools = []Pool{p}
	_, err = s.Submit(t.Context(), req)
	require.ErrorContains(t, err, "takes no images")
}

// OC-ADAPT-OAI-6000: a context that is not told refuses nothing.
func TestAContextThatIsNotToldRefusesNothing(t *testing.T) {
	p := facts().Pool
	p.Ctx, p.Faces = 0, engine.Faces{Chats: true}
	d := &desk{pools: []Pool{p}, ready: true}
	s, _ := open(d)
	req := request()
	req.MaxTokens, req.AtMost = 32000, true
	_, err := s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, 32000, d.enqueued[0].Request.MaxTokens)
}

// ORCH-3055: messages that the engine takes as they are, are counted by it where their number may matter.
func TestAChatWithoutATemplateIsCounted(t *testing.T) {
	p := facts().Pool
	p.Faces = engine.Faces{Chats: true, CountsTokens: true, CountsChats: true}
	d := &desk{pools: []Pool{p}, ready: true}
	s, _ := open(d)
	req := request()
	req.Prompt, req.MaxTokens = "", 1
	req.Messages = []task.Message{{Role: task.RoleUser, Content: "two words"}}
	_, err := s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Zero(t, d.counted, "they fit, however many tokens they have")
	req.MaxTokens = p.Ctx - 1
	_, err = s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, 1, d.counted)
}
