// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/service/task"
)

// sdkCall is a call of one exchange.
func sdkCall(e exchange, do func(t *testing.T, c *sdk.Client)) call {
	return call{name: e.name, exchanges: []exchange{e}, do: func(t *testing.T, addr string) {
		c, err := sdk.New(sdk.Options{Addr: addr, Token: e.token, Reconnects: -1})
		require.NoError(t, err)
		defer c.Close()
		do(t, c)
	}}
}

// sdkRefused is a call that ends in the exchange's error.
func sdkRefused(e exchange, do func(t *testing.T, c *sdk.Client) error) call {
	return sdkCall(e, func(t *testing.T, c *sdk.Client) {
		var got *sdk.Error
		require.ErrorAs(t, do(t, c), &got)
		want := e.answer.(object)
		require.Equal(t, e.status, got.Status)
		require.Equal(t, want["code"], string(got.Code))
		require.Equal(t, want["retriable"], got.Retriable)
		require.NotEmpty(t, got.Message)
		require.NotEmpty(t, got.CorrelationID)
		if e.status == http.StatusTooManyRequests {
			require.Positive(t, got.RetryAfter)
			require.Equal(t, "slow", got.PoolID)
		}
	})
}

func sdkSubmit(id string, change func(*sdk.TaskRequest)) func(*testing.T, *sdk.Client) error {
	return func(t *testing.T, c *sdk.Client) error {
		r := &sdk.TaskRequest{TaskID: id, ModelRef: "haiku", Prompt: prompt}
		if change != nil {
			change(r)
		}
		_, err := c.Submit(t.Context(), r)
		return err
	}
}

// read collects a stream: its text, its last event and its error.
func readAll(t *testing.T, c *sdk.Client, id, after string) (text string, last sdk.Event, err error) {
	var b strings.Builder
	for event, err := range c.Stream(t.Context(), id, after) {
		if err != nil {
			return "", nil, err
		}
		if token, ok := event.(sdk.Token); ok {
			b.WriteString(token.Text)
		}
		last = event
	}
	return b.String(), last, nil
}

func sdkCalls() []call { return append(sdkTaskCalls(), sdkCatalogCalls()...) }

func sdkTaskCalls() []call {
	const unknown = "no-such-task"
	answer := strings.Join(transcript, "")
	missing := refusal(task.NotFound, false)
	model := func(ref string) func(*sdk.TaskRequest) { return func(r *sdk.TaskRequest) { r.ModelRef = ref } }
	stream := func(id, after string) func(*testing.T, *sdk.Client) error {
		return func(t *testing.T, c *sdk.Client) error {
			_, _, err := readAll(t, c, id, after)
			return err
		}
	}
	pools := func(t *testing.T, c *sdk.Client) error {
		_, err := c.Pools(t.Context())
		return err
	}
	shown := func(e exchange, id string, check func(*testing.T, *sdk.TaskStatus)) call {
		return sdkCall(e, func(t *testing.T, c *sdk.Client) {
			s, err := c.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, id, s.TaskID)
			check(t, s)
		})
	}
	listed := func(e exchange, state sdk.TaskState, limit int) call {
		return sdkCall(e, func(t *testing.T, c *sdk.Client) {
			tasks, err := c.List(t.Context(), state, limit)
			require.NoError(t, err)
			require.Len(t, tasks, 1)
		})
	}
	ended := func(e exchange, id string, outcome sdk.Outcome) call {
		return sdkCall(e, func(t *testing.T, c *sdk.Client) {
			result, err := c.Cancel(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, outcome, result.Outcome)
			require.NotEmpty(t, result.LastEventID)
		})
	}
	_, _, first := example("resumed", false)
	withoutToken, withBadToken := listPools("").refused("a request without a token", 401, refusal(task.MissingToken, false)),
		listPools("").refused("a request with a wrong token", 401, refusal(task.BadToken, false))
	withoutToken.token, withBadToken.token = "", "not-the-token"

	canceledStream := follow("a stream of a canceled task", "sdk-canceled").in(stateOf(stateCanceled, "sdk-canceled"))
	canceledStream.stream, _, _ = example("sdk-canceled", true)
	canceledStream.streamIs = startedIs("sdk-canceled") + tokensAre + "*" + canceledIs
	otherBytes := follow("a stream behind an event with another hash", "sdk-other").after("0-00000000")
	otherBytes.stream, otherBytes.streamIs = resetExample, resetIs

	return []call{
		sdkCall(submit("a submit", with(haiku("sdk-submit"), object{"seed": 7, "max_tokens": 32, "priority": "batch", "determinism": "strict"})),
			func(t *testing.T, c *sdk.Client) {
				a, err := c.Submit(t.Context(), &sdk.TaskRequest{
					TaskID: "sdk-submit", ModelRef: "haiku", Prompt: prompt, Seed: new(int64(7)),
					MaxTokens: 32, Priority: sdk.PriorityBatch,
					Determinism: sdk.DeterminismStrict,
				})
				require.NoError(t, err)
				require.Equal(t, "sdk-submit", a.TaskID)
			}),
		sdkRefused(submit("", with(haiku("sdk-both"), object{"messages": []object{{"role": "user", "content": "hello"}}})).
			refused("a submit that contradicts itself", 400, refusal(task.InvalidParams, false)),
			sdkSubmit("sdk-both", func(r *sdk.TaskRequest) {
				r.Messages = []sdk.Message{sdk.Say(sdk.RoleUser, "hello")}
			})),
		sdkCall(submit("a submit of a chat", with(haiku("sdk-chat"), object{
			"prompt": nil, "messages": []object{{"role": "user", "content": []object{{"type": "text", "text": "hello"}}}}, "max_tokens": 4,
			"reasoning": object{"split": true, "effort": "low"}, "tool_choice": "none", "tools": []object{{"name": "weather", "parameters": object{"type": "object"}}},
			"logprobs": true, "top_logprobs": 2,
		})), func(t *testing.T, c *sdk.Client) {
			said, err := sdk.Show(sdk.RoleUser, "hello")
			require.NoError(t, err)
			_, err = c.Submit(t.Context(), &sdk.TaskRequest{
				TaskID: "sdk-chat", ModelRef: "haiku", Messages: []sdk.Message{said}, MaxTokens: 4,
				Reasoning:  &sdk.ReasoningWish{Split: true, Effort: "low"},
				ToolChoice: "none", Tools: []sdk.Tool{{Name: "weather", Parameters: json.RawMessage(`{"type":"object"}`)}},
				Logprobs: true, TopLogprobs: 2,
			})
			require.NoError(t, err)
		}),
		sdkCall(submit("a submit that replays a task", with(haiku("sdk-replay"), object{"prompt": nil, "replay_of": "sdk-said"})).in(stateOf(stateCompleted, "sdk-said")),
			func(t *testing.T, c *sdk.Client) {
				_, err := c.Submit(t.Context(), &sdk.TaskRequest{TaskID: "sdk-replay", ModelRef: "haiku", ReplayOf: "sdk-said"})
				require.NoError(t, err)
			}),
		sdkRefused(submit("", with(haiku("sdk-answer"), object{
			"prompt": nil, "messages": []object{{"role": "tool", "tool_call_id": "c", "content": "rain"}},
		})).refused("a submit whose result answers no call", 400, refusal(task.InvalidParams, false)),
			sdkSubmit("sdk-answer", func(r *sdk.TaskRequest) {
				r.Prompt, r.Messages = "", []sdk.Message{sdk.Result("c", "rain")}
			})),
		sdkRefused(submit("", with(haiku("sdk-model"), object{"model_ref": "no-such-model"})).
			refused("a submit for an unknown model", 404, refusal(task.ModelNotFound, false)), sdkSubmit("sdk-model", model("no-such-model"))),
		sdkRefused(submit("", with(haiku("sdk-taken"), object{"prompt": "another"})).in(stateOf(stateCompleted, "sdk-taken")).
			refused("a submit with a taken id", 409, refusal(task.Conflict, false)),
			sdkSubmit("sdk-taken", func(r *sdk.TaskRequest) { r.Prompt = "another" })),
		sdkRefused(submit("", with(haiku("sdk-full"), object{"model_ref": "slow"})).in(state(stateFull)).
			refused("a submit to a full queue", 429, queueFull()), sdkSubmit("sdk-full", model("slow"))),
		sdkRefused(submit("", with(haiku("sdk-unready"), object{"model_ref": "down"})).in(state(stateUnready)).
			refused("a submit to a pool without replicas", 503, refusal(task.PoolUnready, true)), sdkSubmit("sdk-unready", model("down"))),
		sdkRefused(withoutToken, pools),
		sdkRefused(withBadToken, pools),

		shown(showTask("a look at a running task", stateRunning, "sdk-running", task.Running), "sdk-running",
			func(t *testing.T, s *sdk.TaskStatus) { require.Equal(t, sdk.TaskStateRunning, s.State) }),
		shown(showTask("a look at a completed task", stateCompleted, "sdk-completed", task.Completed), "sdk-completed",
			func(t *testing.T, s *sdk.TaskStatus) { require.NotEmpty(t, s.End.Receipt.TranscriptSHA256) }),
		shown(showTask("a look at a canceled task", stateCanceled, "sdk-canceled", task.StateCanceled), "sdk-canceled",
			func(t *testing.T, s *sdk.TaskStatus) { require.Equal(t, sdk.ErrorCodeCanceled, s.Error.Code) }),
		sdkRefused(get("", state(stateReady), "/v1/tasks/"+unknown, nil).refused("a look at an unknown task", 404, missing),
			func(t *testing.T, c *sdk.Client) error {
				_, err := c.Get(t.Context(), unknown)
				return err
			}),
		listed(listTasks("a list of the completed tasks", task.Completed, map[string]string{"state": "completed"}), sdk.TaskStateCompleted, 0),
		listed(listTasks("a list of one completed task", task.Completed, map[string]string{"state": "completed", "limit": "1"}), sdk.TaskStateCompleted, 1),

		sdkCall(deleteTask("a deletion of a completed task", stateCompleted, "sdk-delete"), func(t *testing.T, c *sdk.Client) {
			require.NoError(t, c.Delete(t.Context(), "sdk-delete"))
		}),
		sdkRefused(deleteTask("", stateRunning, "sdk-delete-early").refused("a deletion of a running task", 409, refusal(task.Conflict, false)),
			func(t *testing.T, c *sdk.Client) error { return c.Delete(t.Context(), "sdk-delete-early") }),
		sdkRefused(deleteTask("", stateReady, unknown).in(state(stateReady)).refused("a deletion of an unknown task", 404, missing),
			func(t *testing.T, c *sdk.Client) error { return c.Delete(t.Context(), unknown) }),
		sdkRefused(get("", stateOf(stateDeleted, "sdk-gone"), "/v1/tasks/sdk-gone", nil).refused("a look at a deleted task", 410, refusal(task.Deleted, false)),
			func(t *testing.T, c *sdk.Client) error {
				_, err := c.Get(t.Context(), "sdk-gone")
				return err
			}),
		ended(cancel("a cancel of a running task", stateRunning, "sdk-cancel", task.StateCanceled), "sdk-cancel", sdk.OutcomeCanceled),
		ended(cancel("a cancel of a completed task", stateCompleted, "sdk-late", task.Completed), "sdk-late", sdk.OutcomeCompleted),
		sdkRefused(cancel("", stateReady, unknown, "").in(state(stateReady)).refused("a cancel of an unknown task", 404, missing),
			func(t *testing.T, c *sdk.Client) error {
				_, err := c.Cancel(t.Context(), unknown)
				return err
			}),

		sdkCall(follow("a stream from the start", "sdk-stream"), func(t *testing.T, c *sdk.Client) {
			text, last, err := readAll(t, c, "sdk-stream", "")
			require.NoError(t, err)
			require.Equal(t, answer, text)
			require.IsType(t, sdk.End{}, last)
		}),
		sdkCall(resume("a stream from behind the first event", "resumed"), func(t *testing.T, c *sdk.Client) {
			text, last, err := readAll(t, c, "resumed", first)
			require.NoError(t, err)
			require.Equal(t, answer, text)
			require.IsType(t, sdk.End{}, last)
		}),
		sdkCall(canceledStream, func(t *testing.T, c *sdk.Client) {
			_, last, err := readAll(t, c, "sdk-canceled", "")
			require.NoError(t, err)
			require.Equal(t, sdk.ErrorCodeCanceled, last.(sdk.ErrorEvent).Err.Code)
		}),
		sdkCall(otherBytes, func(t *testing.T, c *sdk.Client) {
			_, last, err := readAll(t, c, "sdk-other", "0-00000000")
			require.NoError(t, err)
			require.Equal(t, sdk.ErrorCodeWorkerReset, last.(sdk.ErrorEvent).Err.Code)
		}),
		sdkRefused(follow("", "sdk-ahead").after("9999-00000000").refused("a stream behind an event that never was", 400, refusal(task.InvalidParams, false)),
			stream("sdk-ahead", "9999-00000000")),
		sdkRefused(follow("", unknown).in(state(stateReady)).refused("a stream of an unknown task", 404, missing), stream(unknown, "")),

		sdkCall(listPools("a list of the pools"), func(t *testing.T, c *sdk.Client) {
			pools, err := c.Pools(t.Context())
			require.NoError(t, err)
			require.Len(t, pools, 1)
		}),
		sdkCall(showPool("a look at a pool", "default"), func(t *testing.T, c *sdk.Client) {
			health, err := c.PoolHealth(t.Context(), "default")
			require.NoError(t, err)
			require.Len(t, health.Replicas, 1)
		}),
		sdkRefused(showPool("", "no-such-pool").refused("a look at an unknown pool", 404, missing), func(t *testing.T, c *sdk.Client) error {
			_, err := c.PoolHealth(t.Context(), "no-such-pool")
			return err
		}),
		sdkRefused(get("", state(stateReady), "/v1/fingerprints/fp-0123456789abcdef", nil).refused("a look at a fingerprint that nobody had", 404, missing), func(t *testing.T, c *sdk.Client) error {
			_, err := c.Fingerprint(t.Context(), "fp-0123456789abcdef")
			return err
		}),
		sdkCall(showCapabilities("a question for the capabilities"), func(t *testing.T, c *sdk.Client) {
			answer, err := c.Capabilities(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, answer.Operations)
		}),

		sdkCall(drain("a drain", "spare", 1500), func(t *testing.T, c *sdk.Client) {
			status, err := c.Drain(t.Context(), "spare", 1500*time.Millisecond)
			require.NoError(t, err)
			require.True(t, status.Draining)
		}),
		sdkCall(operate("a resume", "resume", "spare"), func(t *testing.T, c *sdk.Client) {
			stands, err := c.Resume(t.Context(), "spare")
			require.NoError(t, err)
			require.Equal(t, "spare", stands.PoolID)
		}),
		sdkCall(operate("a load", "load", "spare"), func(t *testing.T, c *sdk.Client) {
			stands, err := c.Load(t.Context(), "spare")
			require.NoError(t, err)
			require.Equal(t, "spare", stands.PoolID)
		}),
		sdkRefused(operate("", "load", "no-such-pool").refused("a load of an unknown pool", 404, missing), func(t *testing.T, c *sdk.Client) error {
			_, err := c.Load(t.Context(), "no-such-pool")
			return err
		}),
		sdkRefused(operate("", "unload", "spare").refused("an unload of a pinned pool", 409, refusal(task.Conflict, false)), func(t *testing.T, c *sdk.Client) error {
			_, err := c.Unload(t.Context(), "spare")
			return err
		}),
		sdkRefused(drain("", "no-such-pool", 0).refused("a drain of an unknown pool", 404, missing), func(t *testing.T, c *sdk.Client) error {
			_, err := c.Drain(t.Context(), "no-such-pool", 0)
			return err
		}),
		sdkCall(reload("a reload", "spare", spareModel), func(t *testing.T, c *sdk.Client) {
			result, err := c.Reload(t.Context(), "spare", spareModel)
			require.NoError(t, err)
			require.Equal(t, spareModel, result.Model.Ref)
		}),
		sdkRefused(reload("", "no-such-pool", spareModel).refused("a reload of an unknown pool", 404, missing), reloadTo("no-such-pool", spareModel)),
		sdkRefused(reload("", "spare", "file:no-such-model.gguf").refused("a reload to a missing model", 404, refusal(task.ModelNotFound, false)),
			reloadTo("spare", "file:no-such-model.gguf")),
		sdkRefused(reload("", "spare", spareModel).in(state(stateReloading)).refused("a reload during another", 409, refusal(task.Conflict, true)),
			reloadTo("spare", spareModel)),
		sdkCall(listGPUs("a look at the GPUs"), func(t *testing.T, c *sdk.Client) {
			list, err := c.GPUs(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, list.Problem)
		}),
		sdkCall(listHosts("a look at the hosts"), func(t *testing.T, c *sdk.Client) {
			hosts, err := c.Hosts(t.Context())
			require.NoError(t, err)
			require.True(t, hosts[0].Here && hosts[0].Up && hosts[0].Pools[0].Holds)
		}),
		sdkCall(explain("a dry run", object{"model_ref": "haiku"}), func(t *testing.T, c *sdk.Client) {
			e, err := c.Explain(t.Context(), &sdk.ExplainRequest{ModelRef: "haiku"})
			require.NoError(t, err)
			require.Equal(t, "default", e.PoolID)
		}),
		sdkCall(createSession("a session that is begun", aSession("0"), object{"session_id": aSession("0"), "max_turns": 4, "budget": object{"tokens": 2000}}),
			func(t *testing.T, c *sdk.Client) {
				s, err := c.CreateSession(t.Context(), &sdk.SessionRequest{
					SessionID: aSession("0"), MaxTurns: 4, Budget: &sdk.Budget{Tokens: 2000},
				})
				require.NoError(t, err)
				require.Equal(t, int64(2000), *s.BudgetTokensRemaining)
			}),
		sdkRefused(createSession("", aSession("1"), object{"session_id": aSession("1")}).in(stateOf(stateSession, aSession("1"))).
			refused("a session whose id is in use", 409, refusal(task.Conflict, false)), func(t *testing.T, c *sdk.Client) error {
			_, err := c.CreateSession(t.Context(), &sdk.SessionRequest{SessionID: aSession("1")})
			return err
		}),
		sdkCall(showSession("a look at a session", aSession("1")), func(t *testing.T, c *sdk.Client) {
			s, err := c.Session(t.Context(), aSession("1"))
			require.NoError(t, err)
			require.Equal(t, 4, s.MaxTurns)
		}),
		sdkRefused(get("", state(stateReady), "/v1/sessions/"+aSession("9"), nil).refused("a look at an unknown session", 404, missing),
			func(t *testing.T, c *sdk.Client) error {
				_, err := c.Session(t.Context(), aSession("9"))
				return err
			}),
		sdkCall(deleteSession("a session that is deleted", aSession("1")), func(t *testing.T, c *sdk.Client) {
			require.NoError(t, c.DeleteSession(t.Context(), aSession("1")))
		}),
		sdkRefused(submit("", with(haiku("sdk-over"), object{"max_tokens": 200, "session_id": aSession("2"), "model_ref": "slow"})).
			in(stateOf(stateSpent, aSession("2"))).refused("a submit over its session's budget", 429, overBudget()),
			sdkSubmit("sdk-over", func(r *sdk.TaskRequest) {
				r.ModelRef, r.SessionID, r.MaxTokens = "slow", aSession("2"), 200
			})),
		sdkCall(reloadConfig("a reload of the configuration"), func(t *testing.T, c *sdk.Client) {
			_, err := c.ReloadConfig(t.Context())
			require.NoError(t, err)
		}),
		sdkCall(askReady("a question for the health"), func(t *testing.T, c *sdk.Client) {
			health, err := c.Health(t.Context())
			require.NoError(t, err)
			require.Equal(t, sdk.HealthStatusReady, health.Status)
		}),
	}
}

func reloadTo(pool, ref string) func(*testing.T, *sdk.Client) error {
	return func(t *testing.T, c *sdk.Client) error {
		_, err := c.Reload(t.Context(), pool, ref)
		return err
	}
}
