// SPDX-License-Identifier: GPL-3.0-or-later

package placement

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

func pools() []Pool {
	return []Pool{
		{ID: "big", Engine: "llamacpp", ModelID: "poet", Ref: "file:/m/poet.gguf", Workload: task.Completion, Profile: "v1", Ctx: 4096, Ready: true, Wait: time.Second},
		{ID: "small", Engine: "llamacpp", ModelID: "poet", Ref: "file:/m/poet.gguf", Workload: task.Completion, Profile: "v1", Ctx: 1024, Strict: true, Ready: true, Wait: 2 * time.Second},
		{ID: "vec", Engine: "llamacpp", ModelID: "embedder", Ref: "file:/m/e.gguf", Workload: task.Embedding, Ctx: 512, Strict: true},
	}
}

func request() task.Request {
	return task.Request{ModelRef: "poet", Workload: task.Completion, Placement: task.Placement{Mode: task.Auto}}
}

// ORCH-3010, OC-CTRL-2013, OC-CORE-1016
func TestRoute(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*task.Request, []Pool)
		want   Routing
		code   task.Code
		says   string
	}{
		"shortest wait":               {func(*task.Request, []Pool) {}, Routing{PoolID: "big"}, "", ""},
		"equal wait goes by id":       {func(_ *task.Request, p []Pool) { p[0].Wait = p[1].Wait }, Routing{PoolID: "big"}, "", ""},
		"ready before short wait":     {func(_ *task.Request, p []Pool) { p[0].Ready = false }, Routing{PoolID: "small"}, "", ""},
		"by normalised ref":           {func(r *task.Request, _ []Pool) { r.ModelRef = "file:/m/poet.gguf" }, Routing{PoolID: "big"}, "", ""},
		"strict needs one slot":       {func(r *task.Request, _ []Pool) { r.Determinism = task.Strict }, Routing{PoolID: "small"}, "", ""},
		"context":                     {func(r *task.Request, _ []Pool) { r.Ctx = 2000 }, Routing{PoolID: "big"}, "", ""},
		"avoid":                       {func(r *task.Request, _ []Pool) { r.Placement.Avoid = []string{"big"} }, Routing{PoolID: "small"}, "", ""},
		"prefer":                      {prefer("small"), Routing{PoolID: "small"}, "", ""},
		"prefer an unready one":       {func(r *task.Request, p []Pool) { prefer("small")(r, p); p[1].Ready = false }, Routing{PoolID: "big", Fallback: true}, "", ""},
		"pin":                         {pinTo("small"), Routing{PoolID: "small", Pinned: true}, "", ""},
		"pin to an unknown pool":      {pinTo("gone"), Routing{}, task.NotFound, "big, small, vec"},
		"pin to an unready pool":      {func(r *task.Request, p []Pool) { pinTo("small")(r, p); p[1].Ready = false }, Routing{}, task.PoolUnready, "no Ready replica"},
		"pin to another model":        {pinTo("vec"), Routing{}, task.InvalidParams, "serves 'embedder'"},
		"unknown model":               {func(r *task.Request, _ []Pool) { r.ModelRef = "gpt" }, Routing{}, task.ModelNotFound, "use one of embedder, poet"},
		"wrong workload":              {func(r *task.Request, _ []Pool) { r.ModelRef = "embedder" }, Routing{}, task.InvalidParams, "serves embedding tasks"},
		"wrong engine":                {func(r *task.Request, _ []Pool) { r.Engine = "vllm" }, Routing{}, task.InvalidParams, "runs the engine llamacpp"},
		"other sampler profile":       {func(r *task.Request, _ []Pool) { r.SamplerProfile = "v2" }, Routing{}, task.InvalidParams, "uses the sampler profile v1"},
		"context larger than any":     {func(r *task.Request, _ []Pool) { r.Ctx = 9000 }, Routing{}, task.InvalidParams, "fewer than the 9000"},
		"a context that is not told":  {func(r *task.Request, p []Pool) { r.Ctx, p[0].Ctx, p[1].Ctx = 100, 0, 0 }, Routing{}, task.InvalidParams, "set `ctx`"},
		"strict, no one-slot pool":    {func(r *task.Request, p []Pool) { r.Determinism = task.Strict; p[1].Strict = false }, Routing{}, task.InvalidParams, "needs one slot of an engine that does"},
		"everything is to be avoided": {func(r *task.Request, _ []Pool) { r.Placement.Avoid = []string{"big", "small"} }, Routing{}, task.InvalidParams, "is to be avoided"},
	} {
		t.Run(name, func(t *testing.T) {
			req, p := request(), pools()
			c.change(&req, p)
			got, err := Route(p, req)
			if c.code == "" {
				require.NoError(t, err)
				require.Equal(t, c.want, got)
				return
			}
			require.True(t, task.HasCode(err, c.code), "%v", err)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func prefer(id string) func(*task.Request, []Pool) {
	return func(r *task.Request, _ []Pool) { r.Placement = task.Placement{Mode: task.Prefer, PoolID: id} }
}

func pinTo(id string) func(*task.Request, []Pool) {
	return func(r *task.Request, _ []Pool) { r.Placement = task.Placement{Mode: task.Pin, PoolID: id} }
}

// ORCH-3012, OC-CORE-1012
func TestPlaceOrder(t *testing.T) {
	replicas := []Replica{
		{ID: "d", Ready: true, Slots: 2, Active: 1, FreeVRAM: 8},
		{ID: "c", Ready: true, Slots: 2, Active: 0, FreeVRAM: 8},
		{ID: "b", Ready: true, Slots: 2, Active: 0, FreeVRAM: 8},
		{ID: "a", Ready: true, Slots: 2, Active: 0, FreeVRAM: 4},
		{ID: "down", Ready: false, Slots: 2, FreeVRAM: 99},
		{ID: "full", Ready: true, Slots: 1, Active: 1, FreeVRAM: 99},
	}
	at, considered := Place(replicas, Need{})
	require.Equal(t, "b", replicas[at].ID)
	require.Equal(t, 4, considered)
	replicas[3].Fingerprint = "fp"
	at, considered = Place(replicas, Need{Fingerprint: "fp"})
	require.Equal(t, "a", replicas[at].ID)
	require.Equal(t, 1, considered)
	at, considered = Place(replicas, Need{Strict: true})
	require.Equal(t, -1, at)
	require.Zero(t, considered)
	replicas[0].Strict = true
	at, _ = Place(replicas, Need{Strict: true})
	require.Equal(t, "d", replicas[at].ID)
}

// LO-454: what others ask of an engine counts as much as what this system does.
func TestAnEngineThatOthersUseComesLater(t *testing.T) {
	replicas := []Replica{
		{ID: "a", Ready: true, Slots: 4, Active: 0, Others: 3},
		{ID: "b", Ready: true, Slots: 4, Active: 2, Others: 0},
		{ID: "c", Ready: true, Slots: 4, Active: 1, Others: 2},
	}
	at, considered := Place(replicas, Need{})
	require.Equal(t, "b", replicas[at].ID)
	require.Equal(t, 3, considered, "their slots are free all the same")
	replicas[0].FreeVRAM = 1
	at, _ = Place(replicas, Need{})
	require.Equal(t, "a", replicas[at].ID, "memory comes first")
}

// ORCH-3010, OC-CORE-1017: never an unready or full replica, and the order of the snapshot doesn't matter.
func TestPlaceIsAFunctionOfTheSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "n")
		replicas := make([]Replica, n)
		for i := range replicas {
			replicas[i] = Replica{
				ID: fmt.Sprintf("r%02d", i), Ready: rapid.Bool().Draw(t, "ready"), Slots: rapid.IntRange(1, 3).Draw(t, "slots"),
				Strict: rapid.Bool().Draw(t, "strict"), Active: rapid.IntRange(0, 3).Draw(t, "active"), FreeVRAM: rapid.Int64Range(0, 2).Draw(t, "vram"),
			}
		}
		need := Need{Strict: rapid.Bool().Draw(t, "need strict")}
		at, considered := Place(replicas, need)
		require.Equal(t, considered == 0, at < 0)
		if at < 0 {
			return
		}
		chosen := replicas[at]
		require.True(t, chosen.Ready && chosen.Active < chosen.Slots && (!need.Strict || chosen.Strict))
		rand.Shuffle(n, func(i, j int) { replicas[i], replicas[j] = replicas[j], replicas[i] })
		again, _ := Place(replicas, need)
		require.Equal(t, chosen.ID, replicas[again].ID)
	})
}

func BenchmarkPlace(b *testing.B) {
	for _, n := range []int{8, 64, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			replicas := make([]Replica, n)
			for i := range replicas {
				replicas[i] = Replica{ID: fmt.Sprintf("r%04d", i), Ready: true, Slots: 1, Strict: true, FreeVRAM: int64(i % 7)}
			}
			b.ReportAllocs()
			for b.Loop() {
				Place(replicas, Need{Strict: true})
			}
		})
	}
}

// LO-503, ORCH-3053: an on-demand pool whose workers were given up takes no task that another can serve.
func TestAGivenUpPoolOnDemandServesNothing(t *testing.T) {
	broken := Pool{ID: "a", ModelID: "m", Workload: task.Completion, OnDemand: true, Standing: task.Standing{State: task.PoolFailed, Retry: time.Minute}}
	sound := Pool{ID: "b", ModelID: "m", Workload: task.Completion, OnDemand: true}
	request := task.Request{ModelRef: "m", Workload: task.Completion}
	routing, err := Route([]Pool{broken, sound}, request)
	require.NoError(t, err)
	require.Equal(t, "b", routing.PoolID)
	request.Placement = task.Placement{Mode: task.Pin, PoolID: "a"}
	_, err = Route([]Pool{broken, sound}, request)
	require.True(t, task.HasCode(err, task.PoolUnavailable))
}

// ORCH-3072, OC-CORE-1016
func TestRouteLeavesOutWhatAModelCannotOrMayNotServe(t *testing.T) {
	old := Pool{ID: "old", ModelID: "m", Workload: task.Completion, Ctx: 256, Strict: true, Ready: true, Retired: true}
	plain := Pool{ID: "plain", ModelID: "m", Workload: task.Completion, Ctx: 256, Strict: true, Ready: true, NoTemplate: true}
	req := task.Request{ModelRef: "m", Workload: task.Completion, Prompt: "x"}
	_, err := Route([]Pool{old}, req)
	require.True(t, task.HasCode(err, task.ModelDeprecated), "%v", err)
	require.ErrorContains(t, err, "there is no other")
	r, err := Route([]Pool{old, plain}, req)
	require.NoError(t, err)
	require.Equal(t, "plain", r.PoolID, "the other pool with the model takes its tasks")

	pinned := req
	pinned.Placement = task.Placement{Mode: task.Pin, PoolID: "old"}
	_, err = Route([]Pool{old, plain}, pinned)
	require.True(t, task.HasCode(err, task.ModelDeprecated), "%v", err)

	chat := task.Request{ModelRef: "m", Workload: task.Completion, Messages: []task.Message{{Role: "user", Content: "x"}}}
	_, err = Route([]Pool{plain}, chat)
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "without a chat template")
}

// LO-501, OC-CORE-1016: a task goes to a replica whose context holds it, and waits for one even where another is free; one that no
// replica holds waits for none.
func TestTheContextOfEachReplicaCounts(t *testing.T) {
	small := Replica{ID: "small", Ready: true, Slots: 1, Ctx: 4096, FreeVRAM: 9}
	large := Replica{ID: "large", Ready: true, Slots: 1, Ctx: 8192}
	at := func(need int, list ...Replica) string {
		i, _ := Place(list, Need{Ctx: need})
		if i < 0 {
			return ""
		}
		return list[i].ID
	}
	require.Equal(t, "small", at(4096, small, large))
	require.Equal(t, "large", at(4097, small, large))
	require.Equal(t, "large", at(9000, small, large), "its engine says that it is too long")
	busy, away, parked, unknown := large, large, large, large
	busy.Active, away.Ready, unknown.Ctx = 1, false, 0
	parked.Ready, parked.Parked = false, true
	require.Empty(t, at(4097, small, busy))
	require.Empty(t, at(4097, small, away), "it comes back")
	require.Equal(t, "small", at(4097, small, parked), "it does not")
	require.Equal(t, "large", at(4097, small, unknown))
}

// A task goes where its session's KV is while that replica has a free slot; then the usual order counts.
// ORCH-3009, ORCH-3012
func TestPlaceGoesWhereTheKVIs(t *testing.T) {
	list := []Replica{
		{ID: "a", Ready: true, Slots: 1, FreeVRAM: 20},
		{ID: "b", Ready: true, Slots: 2, Active: 1, FreeVRAM: 10},
		{ID: "c", Ready: true, Slots: 1, FreeVRAM: 30},
	}
	at := func(need Need) string {
		i, considered := Place(list, need)
		require.Positive(t, considered)
		return list[i].ID
	}
	require.Equal(t, "c", at(Need{}))
	require.Equal(t, "b", at(Need{Warm: "b"}))
	require.Equal(t, "c", at(Need{Warm: "gone"}))
	list[1].Active = 2
	require.Equal(t, "c", at(Need{Warm: "b"}), "it does not wait while another is free")
	list[1].Active, list[1].Ready = 0, false
	require.Equal(t, "c", at(Need{Warm: "b"}))
}

// A task goes where the longest beginning of its prompt is, behind its session's KV; one that must get the bytes of a cold start only where it can use it.
// LO-442, LO-441
func TestPlaceGoesWhereThePrefixIs(t *testing.T) {
	list := []Replica{
		{ID: "a", Ready: true, Slots: 1, Strict: true, Pieces: true, FreeVRAM: 20},
		{ID: "b", Ready: true, Slots: 1, Strict: true, FreeVRAM: 10},
		{ID: "c", Ready: true, Slots: 1, Strict: true, Pieces: true, FreeVRAM: 30},
	}
	at := func(need Need) string {
		i, _ := Place(list, need)
		return list[i].ID
	}
	held := map[string]int{"a": 100, "b": 200, "gone": 300}
	require.Equal(t, "b", at(Need{Held: held}))
	require.Equal(t, "a", at(Need{Held: held, Warm: "a"}))
	require.Equal(t, "a", at(Need{Held: held, Strict: true}), "b lets strict tasks reuse nothing")
	require.Equal(t, "c", at(Need{Held: held, Warm: "c", Strict: true}))
	require.Equal(t, "a", at(Need{Held: held, Warm: "b", Strict: true}))
	list[0].Active = 1
	require.Equal(t, "c", at(Need{Held: held, Strict: true}), "it does not wait while another is free")
}

// Of pools with the same wait the session's own is taken, and a shorter wait is worth more.
// ORCH-3009
func TestRoutePrefersTheSessionsPool(t *testing.T) {
	pool := func(id string) Pool {
		return Pool{ID: id, ModelID: "haiku", Workload: task.Completion, Ctx: 256, Strict: true, Ready: true}
	}
	two := []Pool{pool("a"), pool("b")}
	two[1].Home, two[1].Backlog = true, 3
	req := task.Request{ModelRef: "haiku", Workload: task.Completion, Placement: task.Placement{Mode: task.Auto}}
	got, err := Route(two, req)
	require.NoError(t, err)
	require.Equal(t, "b", got.PoolID)
	two[1].Wait = 1
	got, err = Route(two, req)
	require.NoError(t, err)
	require.Equal(t, "a", got.PoolID)
}

// Where all else is equal the finer quantisation is taken, and explain says so.
// ORCH-3060, OC-CTRL-2013, LO-502
func TestRouteTakesTheFinerQuantisation(t *testing.T) {
	pool := func(id, quantisation string, bits float64) Pool {
		return Pool{ID: id, ModelID: "m", Workload: task.Completion, Ctx: 256, Strict: true, Ready: true, Quantisation: quantisation, Bits: bits}
	}
	two := []Pool{pool("a", "Q4_K_M", 4.8), pool("b", "Q8_0", 8.5)}
	req := task.Request{ModelRef: "m", Workload: task.Completion, Placement: task.Placement{Mode: task.Auto}}
	got, err := Route(two, req)
	require.NoError(t, err)
	require.Equal(t, "b", got.PoolID)
	e, err := Explain(two, func(string) []Replica { return nil }, req, "")
	require.NoError(t, err)
	require.Equal(t, []string{"its model is in Q4_K_M, and that of pool 'b' in Q8_0, which has more bits a weight"}, e.Verdicts[0].Reasons)
	two[1].Backlog = 1
	got, err = Route(two, req)
	require.NoError(t, err)
	require.Equal(t, "a", got.PoolID, "a shorter line is worth more")
}

// LO-410: what a chat needs is refused by its name, or leads to the pool that has it.
func TestRouteLeadsToAPoolWithTheFeatures(t *testing.T) {
	pools := []Pool{
		{ID: "plain", ModelID: "m", Workload: task.Completion, Ctx: 256, Strict: true, Ready: true, Features: []task.Feature{task.FeatureBias}},
		{ID: "tools", ModelID: "m", Workload: task.Completion, Ctx: 256, Strict: true, Ready: true, Wait: time.Hour, Features: []task.Feature{task.FeatureTools, task.FeatureFormats}},
	}
	ask := func(mode task.PlacementMode, change func(*task.Request)) task.Request {
		r := task.Request{
			ModelRef: "m", Workload: task.Completion, Placement: task.Placement{Mode: mode},
			Messages: []task.Message{{Role: task.RoleUser, Content: "hi"}}, Chat: &task.Chat{},
		}
		change(&r)
		return r
	}
	tools := func(r *task.Request) { r.Chat.Tools = []task.Tool{{Name: "f"}} }
	got, err := Route(pools, ask(task.Auto, func(*task.Request) {}))
	require.NoError(t, err)
	require.Equal(t, "plain", got.PoolID)
	got, err = Route(pools, ask(task.Auto, tools))
	require.NoError(t, err)
	require.Equal(t, "tools", got.PoolID)
	got, err = Route(pools, ask(task.Auto, func(r *task.Request) { tools(r); r.Chat.ToolChoice = task.ChooseNone }))
	require.NoError(t, err)
	require.Equal(t, "plain", got.PoolID, "a tool that may not be called needs nothing")
	for says, change := range map[string]func(*task.Request){
		"pool 'plain' takes no images":             func(r *task.Request) { r.Messages[0].Parts = []task.Part{{Image: &task.Image{}}} },
		"pool 'tools' takes no template arguments": func(r *task.Request) { r.Chat.TemplateArgs = []byte(`{}`) },
		"pool 'plain' takes no tools":              func(r *task.Request) { tools(r); r.Placement.Avoid = []string{"tools"} },
		"pool 'plain' takes no format": func(r *task.Request) {
			r.Chat.Format = &task.Format{Kind: task.FormatJSON}
			r.Placement.Avoid = []string{"tools"}
		},
		"pool 'tools' takes no grammar": func(r *task.Request) {
			r.Chat.Format = &task.Format{Kind: task.FormatGrammar, Grammar: `root ::= "a"`}
			r.Placement.Avoid = []string{"plain"}
		},
		"pool 'tools' takes no logit bias": func(r *task.Request) {
			r.Chat.LogitBias = []task.Bias{{}}
			r.Placement.Avoid = []string{"plain"}
		},
		"takes no tools (its engine, or its model's chat template, knows none), and takes no format": func(r *task.Request) {
			tools(r)
			r.Chat.Format = &task.Format{Kind: task.FormatJSON}
			r.Placement = task.Placement{Mode: task.Pin, PoolID: "plain"}
		},
	} {
		_, err := Route(pools, ask(task.Auto, change))
		require.True(t, task.HasCode(err, task.InvalidParams), "%s: %v", says, err)
		require.ErrorContains(t, err, says)
	}
}

// LO-428: weights that are asked for by what they are in.
func TestQuantisationThatIsAskedFor(t *testing.T) {
	small, large := Pool{ID: "a", ModelID: "m", Workload: task.Completion, Ready: true, Quantisation: "Q4_K_M", Bits: 4.8}, Pool{ID: "b", ModelID: "m", Workload: task.Completion, Ready: true, Quantisation: "Q8_0", Bits: 8.5}
	for asked, pool := range map[string]string{"": "b", "q4": "a", "Q4_K_M": "a", "q8_0": "b"} {
		got, err := Route([]Pool{small, large}, task.Request{ModelRef: "m", Workload: task.Completion, Quantisation: asked})
		require.NoError(t, err)
		require.Equal(t, pool, got.PoolID, asked)
	}
	small.Quantisation = ""
	_, err := Route([]Pool{small, large}, task.Request{ModelRef: "m", Workload: task.Completion, Quantisation: "f16"})
	require.ErrorContains(t, err, "pool 'a' has weights in something unknown, not in f16; pool 'b' has weights in Q8_0, not in f16")
}
