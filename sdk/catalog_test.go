// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// catalogFake answers each look at a model with the next state, and notes the requests.
type catalogFake struct {
	fake
	looks  []gen.Model
	at     int
	added  *gen.ModelRequest
	state  *gen.ModelStateRequest
	listed gen.ListModelsParams
	gone   gen.ModelID
}

func model(state gen.ModelState) gen.Model {
	return gen.Model{ID: "m", Ref: "hf:o/m", State: state, Signature: gen.SignatureStateMissing, Warnings: []string{}, CreatedAt: time.Unix(1000, 0).UTC()}
}

func (f *catalogFake) CreateModel(_ context.Context, r *gen.ModelRequest) (*gen.ModelHeaders, error) {
	f.added = r
	return &gen.ModelHeaders{Location: "/v1/catalog/models/m", Response: model(gen.ModelStateFetching)}, nil
}

func (f *catalogFake) GetModel(context.Context, gen.GetModelParams) (*gen.GetModelOKHeaders, error) {
	m := f.looks[f.at]
	f.at = min(f.at+1, len(f.looks)-1)
	return &gen.GetModelOKHeaders{Response: m}, nil
}

func (f *catalogFake) ListModels(_ context.Context, p gen.ListModelsParams) (*gen.ModelListHeaders, error) {
	f.listed = p
	return &gen.ModelListHeaders{Response: gen.ModelList{Models: []gen.Model{model(gen.ModelStateActive)}}}, nil
}

func (f *catalogFake) VerifyModel(_ context.Context, p gen.VerifyModelParams) (*gen.VerificationHeaders, error) {
	return &gen.VerificationHeaders{Response: gen.Verification{ModelID: p.ID, Signature: gen.SignatureStateMissing, Warnings: []string{"w"}}}, nil
}

func (f *catalogFake) SetModelState(_ context.Context, r *gen.ModelStateRequest, _ gen.SetModelStateParams) (*gen.GetModelOKHeaders, error) {
	f.state = r
	return &gen.GetModelOKHeaders{Response: model(gen.ModelState(r.State))}, nil
}

func (f *catalogFake) DeleteModel(_ context.Context, p gen.DeleteModelParams) (*gen.Done, error) {
	f.gone = p.ID
	return &gen.Done{}, nil
}

func (f *catalogFake) ListEngines(context.Context) (*gen.EngineListHeaders, error) {
	return &gen.EngineListHeaders{Response: gen.EngineList{Engines: []gen.PreparedEngine{{Engine: "llamacpp", Mode: gen.PreparedEngineModeBuiltin, Flags: []string{}}}}}, nil
}

// ORCH-3060, OC-CAT-56
func TestTheCatalog(t *testing.T) {
	f := &catalogFake{}
	server, err := gen.NewServer(f, f)
	require.NoError(t, err)
	c, waits := setup(t, server)
	ctx := t.Context()

	m, err := c.AddModel(ctx, &ModelRequest{Ref: "hf:o/m"})
	require.NoError(t, err)
	require.Equal(t, ModelStateFetching, m.State)
	require.Equal(t, "hf:o/m", f.added.Ref)

	half := model(gen.ModelStateFetching)
	half.Progress = gen.NewOptFetchProgress(gen.FetchProgress{DoneBytes: 5, TotalBytes: 10})
	f.looks = []gen.Model{model(gen.ModelStateFetching), half, model(gen.ModelStateActive)}
	var seen []string
	m, err = c.WaitModel(ctx, "m", func(m *Model) {
		at := string(m.State)
		if m.Progress != nil {
			at = fmt.Sprintf("%s %d of %d", at, m.Progress.DoneBytes, m.Progress.TotalBytes)
		}
		seen = append(seen, at)
	})
	require.NoError(t, err)
	require.Equal(t, ModelStateActive, m.State)
	require.Equal(t, []string{"Fetching", "Fetching 5 of 10", "Active"}, seen)
	require.Equal(t, []time.Duration{modelPoll, modelPoll}, *waits)

	failed := model(gen.ModelStateFailed)
	failed.Problem = gen.NewOptModelProblem(gen.ModelProblem{Code: gen.ErrorCodeUNTRUSTEDARTIFACT, Message: "other bytes"})
	f.looks, f.at = []gen.Model{failed}, 0
	_, err = c.WaitModel(ctx, "m", nil)
	require.Equal(t, &Error{Code: ErrorCodeUntrustedArtifact, Message: "other bytes"}, err)
	f.looks = []gen.Model{half}
	stopped, stop := context.WithCancel(ctx)
	_, err = c.WaitModel(stopped, "m", func(*Model) { stop() })
	require.ErrorIs(t, err, context.Canceled)

	models, err := c.Models(ctx, ModelStateActive)
	require.NoError(t, err)
	require.Len(t, models, 1)
	require.Equal(t, gen.ModelStateActive, f.listed.State.Value)
	_, err = c.Models(ctx, "")
	require.NoError(t, err)
	require.False(t, f.listed.State.Set)
	v, err := c.VerifyModel(ctx, "m")
	require.NoError(t, err)
	require.False(t, v.Verified)
	_, err = c.RetireModel(ctx, "m", 1500*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, &gen.ModelStateRequest{State: gen.ModelStateRequestStateRetired, DeadlineMs: gen.NewOptInt64(1500)}, f.state)
	m, err = c.ActivateModel(ctx, "m")
	require.NoError(t, err)
	require.Equal(t, ModelStateActive, m.State)
	require.NoError(t, c.DeleteModel(ctx, "m"))
	require.Equal(t, gen.ModelID("m"), f.gone)
	engines, err := c.Engines(ctx)
	require.NoError(t, err)
	require.Len(t, engines, 1)
}
