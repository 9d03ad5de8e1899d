// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"time"

	"github.com/go-faster/jx"
	"github.com/google/uuid"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// CreateTask submits a task (ORCH-2001).
func (h tasks) CreateTask(ctx context.Context, req *gen.TaskRequest) (*gen.AdmissionHeaders, error) {
	in, err := toRequest(req)
	if err != nil {
		h.Tasks.Rejected(err)
		return nil, err
	}
	caller := gate.CallFrom(ctx)
	in.BodySHA256, in.CorrelationID, in.Actor, in.Traceparent = callFrom(ctx).bodySHA256, caller.CorrelationID, caller.Identity, caller.Traceparent
	a, err := h.Tasks.Submit(ctx, in)
	if err != nil {
		return nil, err
	}
	left := h.Sessions.Rests(in.SessionID, in.Actor)
	return &gen.AdmissionHeaders{
		Location:               "/v1/tasks/" + a.TaskID,
		XBudgetTokensRemaining: optInt(left.Tokens), XBudgetTimeRemainingMs: optInt(left.TimeMS), XBudgetCostRemaining: optFloat(left.Cost),
		XBudgetJoulesRemaining: optFloat(left.Joules),
		Response: gen.Admission{
			TaskID:           gen.TaskID(a.TaskID),
			PoolID:           gen.PoolID(a.PoolID),
			QueuePosition:    max(a.QueuePosition, 0),
			PredictedStartMs: millis(a.PredictedStart),
			BackoffMs:        millis(a.Backoff),
			Seed:             gen.Seed(a.Seed),
			Determinism:      gen.Determinism(a.Determinism),
		},
	}, nil
}

// ListTasks lists recent tasks.
func (h tasks) ListTasks(ctx context.Context, p gen.ListTasksParams) (*gen.TaskListHeaders, error) {
	list, err := h.Tasks.List(ctx, task.State(p.State.Or("")), p.Limit.Or(0))
	if err != nil {
		return nil, err
	}
	out := gen.TaskList{Tasks: make([]gen.TaskStatus, len(list))}
	for i, s := range list {
		out.Tasks[i] = toStatus(s)
	}
	return &gen.TaskListHeaders{Response: out}, nil
}

// GetTask shows one task.
func (h tasks) GetTask(ctx context.Context, p gen.GetTaskParams) (*gen.TaskStatusHeaders, error) {
	s, err := h.Tasks.Get(ctx, string(p.ID))
	if err != nil {
		return nil, err
	}
	return &gen.TaskStatusHeaders{Response: toStatus(s)}, nil
}

// CancelTask cancels one task (ORCH-3026).
func (h tasks) CancelTask(ctx context.Context, p gen.CancelTaskParams) (*gen.CancelResultHeaders, error) {
	r, err := h.Tasks.Cancel(ctx, string(p.ID))
	if err != nil {
		return nil, err
	}
	return &gen.CancelResultHeaders{Response: gen.CancelResult{
		TaskID: gen.TaskID(r.TaskID), Outcome: gen.Outcome(r.Outcome), LastEventID: gen.EventID(r.LastEventID),
	}}, nil
}

// DeleteTask deletes an ended task (LO-832).
func (h tasks) DeleteTask(ctx context.Context, p gen.DeleteTaskParams) (*gen.Done, error) {
	if err := h.Tasks.Delete(ctx, string(p.ID), gate.CallFrom(ctx).Identity); err != nil {
		return nil, err
	}
	return &gen.Done{}, nil
}

// toRequest maps a decoded body. gen has filled the documented defaults in, but for an absent `placement`. It refuses what only the native form
// of a chat can have wrong; what a request itself has wrong, admission finds.
func toRequest(r *gen.TaskRequest) (out task.Request, err error) {
	out = task.Request{
		ID:             string(r.TaskID.Or("")),
		ModelRef:       string(r.ModelRef),
		Workload:       task.Workload(r.Workload.Or("")),
		Engine:         string(r.Engine.Or("")),
		Priority:       task.Priority(r.Priority.Or("")),
		Prompt:         r.Prompt.Or(""),
		Inputs:         r.Inputs,
		ReplayOf:       string(r.ReplayOf.Or("")),
		SamplerProfile: r.SamplerProfileVersion.Or(""),
		Determinism:    task.Determinism(r.Determinism.Or("")),
		MaxTokens:      r.MaxTokens.Or(0),
		Deadline:       time.Duration(r.DeadlineMs.Or(0)) * time.Millisecond,
		Ctx:            r.Ctx.Or(0),
		ExpectedTokens: r.ExpectedTokens.Or(0),
		Placement:      toWish(r.Placement),
		KVHint:         string(r.KvHint.Or("")),
		OnDisconnect:   task.OnDisconnect(r.OnDisconnect.Or("")),
		OutputMode:     string(r.OutputMode.Or("")),
	}
	if id, ok := r.SessionID.Get(); ok {
		out.SessionID = uuid.UUID(id).String()
	}
	if out.Messages, err = toMessages(r.Messages); err != nil {
		return out, err
	}
	if out.Chat, err = toChat(r); err != nil {
		return out, err
	}
	if seed, ok := r.Seed.Get(); ok {
		s := uint32(seed) // the contract's maximum is below 2^32
		out.Seed = &s
	}
	if p, ok := r.Params.Get(); ok {
		out.Params = task.Params{
			Temperature: pointer(p.Temperature.Get()), TopP: pointer(p.TopP.Get()), TopK: pointer(p.TopK.Get()),
			MinP: pointer(p.MinP.Get()), RepeatPenalty: pointer(p.RepeatPenalty.Get()), Stop: p.Stop,
		}
	}
	return out, nil
}

func toWish(w gen.OptPlacementWish) task.Placement {
	out := task.Placement{Mode: task.Auto}
	if p, ok := w.Get(); ok {
		out.Mode = task.PlacementMode(p.Mode.Or(gen.PlacementWishModeAuto))
		out.PoolID = string(p.PoolID.Or(""))
		for _, id := range p.Avoid {
			out.Avoid = append(out.Avoid, string(id))
		}
	}
	return out
}

func toStatus(s task.Status) gen.TaskStatus {
	out := gen.TaskStatus{
		TaskID:           gen.TaskID(s.ID),
		State:            gen.TaskState(s.State),
		PoolID:           gen.PoolID(s.PoolID),
		Engine:           task.Clip(s.Engine, maxShort),
		Workload:         gen.Workload(s.Workload),
		Priority:         gen.Priority(s.Priority),
		ModelRef:         gen.ModelRef(s.ModelRef),
		Actor:            optString(task.Clip(s.Actor, maxShort)),
		ReplicaID:        optString(task.Clip(s.ReplicaID, maxName)),
		QueuePosition:    max(s.QueuePosition, 0),
		PredictedStartMs: millis(s.PredictedStart),
		Seed:             gen.Seed(s.Seed),
		Determinism:      gen.Determinism(s.Determinism),
		AcceptedAt:       s.AcceptedAt.UTC(),
		StartedAt:        optTime(s.StartedAt),
		FinishedAt:       optTime(s.FinishedAt),
		DeletedAt:        optTime(s.DeletedAt),
		TokensIn:         s.TokensIn,
		TokensOut:        s.TokensOut,
		EnergyJ:          optNumber(s.EnergyJ),
		EnergyCost:       optNumber(s.EnergyCost),
	}
	if s.LastEventID != "" {
		out.LastEventID = gen.NewOptEventID(gen.EventID(s.LastEventID))
	}
	if e := s.End; e != nil {
		out.End = gen.NewOptEndEvent(gen.EndEvent{
			TokensIn:     e.TokensIn,
			TokensOut:    e.TokensOut,
			DecodeTimeMs: e.DecodeTimeMS,
			EnergyJ:      optNumber(e.EnergyJ),
			EnergyCost:   optNumber(e.EnergyCost),
			FinishReason: gen.EndEventFinishReason(e.FinishReason),
			ToolCalls:    toCalls(e.ToolCalls),
			Result:       jx.Raw(e.Result),
			Receipt: gen.Receipt{
				Seed:             gen.Seed(e.Receipt.Seed),
				Determinism:      gen.Determinism(e.Receipt.Determinism),
				Fingerprint:      e.Receipt.Fingerprint,
				RequestDigest:    e.Receipt.RequestDigest,
				TranscriptSHA256: e.Receipt.TranscriptSHA256,
				TranscriptForm:   optForm(e.Receipt.TranscriptForm),
				TokensCached:     gen.OptInt{Value: e.Receipt.TokensCached, Set: e.Receipt.TokensCached > 0},
				ContinuedAt:      e.Receipt.ContinuedAt,
				ReplicaID:        e.Receipt.ReplicaID,
				EngineVersion:    e.Receipt.EngineVersion,
				ModelDigest:      e.Receipt.ModelDigest,
			},
		})
	}
	if s.Err != nil {
		out.Error = gen.NewOptError(toError(s.Err))
	}
	return out
}

func optNumber(v *float64) gen.OptFloat64 {
	if v == nil {
		return gen.OptFloat64{}
	}
	return gen.NewOptFloat64(*v)
}

func pointer[T any](v T, ok bool) *T {
	if !ok {
		return nil
	}
	return &v
}

func optTime(t time.Time) gen.OptDateTime {
	if t.IsZero() {
		return gen.OptDateTime{}
	}
	return gen.NewOptDateTime(t.UTC())
}

// millis is never negative: what was predicted may have passed.
func millis(d time.Duration) int64 { return max(d.Milliseconds(), 0) }
