// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"context"
	"fmt"
	"slices"

	bundles "github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/determinism"
	"github.com/llama-orch/llama-orch/utils/model"
	"github.com/llama-orch/llama-orch/utils/params"
	"github.com/llama-orch/llama-orch/utils/proof"
)

// The inputs and results of model.*, params.*, determinism.* and proof.*.
type (
	// Model is a model in short. Go programs have all of model.Model.
	Model struct {
		ID       string   `json:"id"`
		Workload string   `json:"workload"`
		Ctx      int      `json:"ctx"`
		Features []string `json:"features,omitempty"`
		Pools    []string `json:"pools"`
	}
	Models struct {
		Models []Model `json:"models"`
	}
	RepeatIn struct {
		Request Ask `json:"request"`
		Times   int `json:"times" jsonschema:"minimum=2,maximum=1000"`
	}
	TaskIn struct {
		TaskID string `json:"task_id"`
	}
	Bundle struct {
		Text string `json:"text" jsonschema:"description=a proof bundle\\, byte for byte"`
	}
	TwoBundles struct {
		A string `json:"a" jsonschema:"description=a proof bundle"`
		B string `json:"b" jsonschema:"description=another one"`
	}
	Differences struct {
		Same        bool               `json:"same"` // in all that decides
		Differences []proof.Difference `json:"differences"`
	}
)

// server returns the server by what an applet asks of it.
func server[T any](e *Env, applet string) (T, error) {
	s, ok := e.Caller.(T)
	if !ok {
		return s, &NeedError{Applet: applet, What: "a server: give its address"}
	}
	return s, nil
}

func short(m *model.Model) Model {
	out := Model{ID: m.ID, Workload: string(m.Wish.Workload), Ctx: m.Ctx, Pools: []string{}}
	for _, f := range m.Features {
		out.Features = append(out.Features, string(f))
	}
	for _, p := range m.Pools {
		out.Pools = append(out.Pools, p.ID)
	}
	return out
}

func servers() Catalog {
	return Catalog{
		acting(New("model.list", "Lists the models that the server serves.", func(ctx context.Context, env *Env, _ Nothing) (Models, error) {
			s, err := server[model.Server](env, "model.list")
			if err != nil {
				return Models{}, err
			}
			c, err := s.Capabilities(ctx)
			if err != nil {
				return Models{}, err
			}
			out := Models{Models: []Model{}}
			for _, m := range model.List(c) {
				out.Models = append(out.Models, short(&m))
			}
			return out, nil
		})),
		acting(New("model.define", "Says what the server has for a model, or which one may have been meant.", func(ctx context.Context, env *Env, in model.Wish) (Model, error) {
			s, err := server[model.Server](env, "model.define")
			if err != nil {
				return Model{}, err
			}
			m, err := model.Define(ctx, s, in)
			if err != nil {
				return Model{}, err
			}
			return short(m), nil
		})),
		acting(New("params.check", "Holds a request to what the pools of its model can do, without sending it.", func(ctx context.Context, env *Env, in Ask) (Nothing, error) {
			s, err := server[model.Server](env, "params.check")
			if err != nil {
				return Nothing{}, err
			}
			m, err := model.Define(ctx, s, model.Wish{Ref: in.Model})
			if err != nil {
				return Nothing{}, err
			}
			return Nothing{}, params.Check(m, in.request())
		})),
	}
}

func replays() Catalog {
	const folder = "a folder of golden transcripts"
	return Catalog{
		acting(New("determinism.repeat", "Asks the same several times and compares the answers by the token.", func(ctx context.Context, env *Env, in RepeatIn) (determinism.Report, error) {
			caller, err := env.caller("determinism.repeat")
			if err != nil {
				return determinism.Report{}, err
			}
			report, err := determinism.Repeat(ctx, caller, in.Times, in.Request.request())
			if err != nil {
				return determinism.Report{}, err
			}
			return *report, nil
		})),
		acting(New("determinism.record", "Asks a model and keeps the transcript, to be replayed without a server.", func(ctx context.Context, env *Env, in Ask) (Answer, error) {
			caller, err := env.caller("determinism.record")
			if err == nil && env.Golden == "" {
				err = &NeedError{Applet: "determinism.record", What: folder}
			}
			if err != nil {
				return Answer{}, err
			}
			return invoke(ctx, determinism.Record(env.Golden, caller), in)
		})),
		acting(New("determinism.replay", "Gives the answer that was recorded for the same question.", func(ctx context.Context, env *Env, in Ask) (Answer, error) {
			if env.Golden == "" {
				return Answer{}, &NeedError{Applet: "determinism.replay", What: folder}
			}
			return invoke(ctx, determinism.Golden{Folder: env.Golden}, in)
		})),
	}
}

func proofs() Catalog {
	return Catalog{
		acting(New("proof.get", "Fetches the proof bundle of a task that has ended.", func(ctx context.Context, env *Env, in TaskIn) (Bundle, error) {
			s, err := server[proof.Source](env, "proof.get")
			if err != nil {
				return Bundle{}, err
			}
			_, text, err := s.Proof(ctx, in.TaskID)
			return Bundle{Text: string(text)}, err
		})),
		New("proof.verify", "Checks a proof bundle without a server.", func(_ context.Context, _ *Env, in Bundle) (proof.Report, error) {
			return proof.Verify([]byte(in.Text)), nil
		}),
		New("proof.compare", "Says in what two proof bundles differ.", func(_ context.Context, _ *Env, in TwoBundles) (Differences, error) {
			var both [2]*bundles.Bundle
			for i, text := range []string{in.A, in.B} {
				b, err := bundles.Decode([]byte(text))
				if err != nil {
					return Differences{}, fmt.Errorf("bundle %c: %w", 'a'+i, err)
				}
				both[i] = b
			}
			all := proof.Compare(both[0], both[1])
			decides := func(d proof.Difference) bool { return d.Kind != proof.Around }
			return Differences{Same: !slices.ContainsFunc(all, decides), Differences: append([]proof.Difference{}, all...)}, nil
		}),
	}
}

// all of sdk.Client is a server.
var (
	_ model.Server = (*sdk.Client)(nil)
	_ proof.Source = (*sdk.Client)(nil)
)
