// SPDX-License-Identifier: GPL-3.0-or-later

package model_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/model"
)

// server serves these pools, and these aliases for the models of pools.
type server struct {
	pools   []sdk.CapabilityPool
	aliases map[string][]string
	fails   error
}

func (s server) Capabilities(context.Context) (*sdk.Capabilities, error) {
	return &sdk.Capabilities{Pools: s.pools, Limits: sdk.Limits{MaxMessages: 9}}, s.fails
}

func (s server) Explain(_ context.Context, r *sdk.ExplainRequest) (*sdk.Explanation, error) {
	pools, ok := s.aliases[r.ModelRef]
	if !ok {
		return nil, &sdk.Error{Status: 404, Code: sdk.ErrorCodeModelNotFound}
	}
	e := &sdk.Explanation{}
	for _, id := range pools {
		e.Candidates = append(e.Candidates, sdk.Candidate{PoolID: id})
	}
	return e, nil
}

func pool(id, modelID string, engine sdk.EngineName, w sdk.Workload, ctx int, can ...sdk.ChatFeature) sdk.CapabilityPool {
	return sdk.CapabilityPool{ID: id, Engine: string(engine), Model: sdk.PoolModel{ID: modelID, Ref: "file:/m/" + modelID + ".gguf"}, Workload: w, Ctx: ctx, Features: can}
}

func box() server {
	return server{
		pools: []sdk.CapabilityPool{
			pool("big", "coder", sdk.EngineNameLlamacpp, sdk.WorkloadCompletion, 32768, sdk.ChatFeatureTools, sdk.ChatFeatureFormats),
			pool("fast", "coder", sdk.EngineNameVLLM, sdk.WorkloadCompletion, 8192, sdk.ChatFeatureTools, sdk.ChatFeatureLogprobs),
			pool("words", "embedder", sdk.EngineNameLlamacpp, sdk.WorkloadEmbedding, 512),
		},
		aliases: map[string][]string{"gpt-4o": {"big", "fast"}},
	}
}

// LO-913
func TestAModelIsDefined(t *testing.T) {
	t.Parallel()
	m, err := model.Define(t.Context(), box(), model.Wish{Ref: "coder"})
	require.NoError(t, err)
	require.Equal(t, "coder", m.ID)
	require.Equal(t, 32768, m.Ctx)
	require.Len(t, m.Pools, 2)
	require.Equal(t, []sdk.ChatFeature{sdk.ChatFeatureFormats, sdk.ChatFeatureLogprobs, sdk.ChatFeatureTools}, m.Features)
	require.Equal(t, 9, m.Limits.MaxMessages)
	require.Equal(t, &sdk.TaskRequest{ModelRef: "coder", Workload: sdk.WorkloadCompletion}, m.Request())

	m, err = model.Define(t.Context(), box(), model.Wish{Ref: "file:/m/coder.gguf", Engine: sdk.EngineNameVLLM, Pool: "fast"})
	require.NoError(t, err)
	require.Equal(t, 8192, m.Ctx)
	require.Equal(t, &sdk.TaskRequest{
		ModelRef: "file:/m/coder.gguf", Workload: sdk.WorkloadCompletion, Engine: sdk.EngineNameVLLM,
		Placement: &sdk.PlacementWish{Mode: sdk.PlacementWishModePin, PoolID: "fast"},
	}, m.Request())

	m, err = model.Define(t.Context(), box(), model.Wish{Ref: "gpt-4o"})
	require.NoError(t, err)
	require.Equal(t, "coder", m.ID, "what the alias stands for")
	require.Equal(t, "gpt-4o", m.Request().ModelRef)
}

// What is not served is refused with the nearest that is, and what its pools are not with what they are.
//
// LO-913
func TestWhatIsNotServedIsRefused(t *testing.T) {
	t.Parallel()
	for want, w := range map[string]model.Wish{
		`no model "codr": did you mean "coder"?`:                                                  {Ref: "codr"},
		`no model "llama-3-70b": choose one of coder, embedder`:                                   {Ref: "llama-3-70b"},
		`no model "": choose one of coder, embedder`:                                              {},
		`no pool of the model coder "fost": did you mean "fast"?`:                                 {Ref: "coder", Pool: "fost"},
		`the model "embedder" has no pool of the workload completion: its pools are of embedding`: {Ref: "embedder"},
		`the model "coder" has no pool of the engine tgi: its pools are of llamacpp, vllm`:        {Ref: "coder", Engine: sdk.EngineNameTGI},
		`the model "coder" has no pool of the engine vllm: its pools are of llamacpp`:             {Ref: "coder", Pool: "big", Engine: sdk.EngineNameVLLM},
	} {
		_, err := model.Define(t.Context(), box(), w)
		require.ErrorContains(t, err, want)
		_, unknown := errors.AsType[*model.UnknownError](err)
		_, unfit := errors.AsType[*model.UnfitError](err)
		require.True(t, unknown || unfit, want)
	}
	_, err := model.Define(t.Context(), server{}, model.Wish{Ref: "m"})
	require.ErrorContains(t, err, "add a pool to its configuration")
	down := errors.New("down")
	_, err = model.Define(t.Context(), server{fails: down}, model.Wish{Ref: "m"})
	require.ErrorIs(t, err, down)
}

// LO-913
func TestModelsAreListedOnce(t *testing.T) {
	t.Parallel()
	c, err := box().Capabilities(t.Context())
	require.NoError(t, err)
	c.Pools = append(c.Pools, sdk.CapabilityPool{ID: "pictures", Model: sdk.PoolModel{ID: "painter"}, Workload: sdk.WorkloadOpaque, Routes: []string{"/v1/images/*"}})
	list := model.List(c)
	require.Len(t, list, 2)
	require.Equal(t, "coder", list[0].ID)
	require.Len(t, list[0].Pools, 2)
	require.Equal(t, sdk.WorkloadEmbedding, list[1].Wish.Workload)
}
