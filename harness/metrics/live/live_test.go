// SPDX-License-Identifier: GPL-3.0-or-later

package live

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/metrics"
	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/harness/watch"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// action does something to the daemon, and says how that moves the series.
type action struct {
	name string
	do   func(*testing.T, *bench) []metrics.Move
}

func by(figure float64, format string, args ...any) metrics.Move {
	return metrics.Move{Series: fmt.Sprintf(format, args...), Kind: metrics.By, Figure: figure}
}

func is(figure float64, series string) metrics.Move {
	return metrics.Move{Series: series, Kind: metrics.Is, Figure: figure}
}

// looks are the decisions that found no replica: the scheduler looks again whenever something has changed.
var looks = metrics.Move{Series: `placement_decisions_total{outcome="no_replica"}`, Kind: metrics.AtLeast, Figure: 1}

// queued returns the moves when a task is accepted.
func queued(pool, priority string) []metrics.Move {
	return []metrics.Move{by(1, `tasks_enqueued_total{pool_id=%q,priority=%q,replica_id=""}`, pool, priority), by(1, `llorch_ledger_ops_total{op="accept"}`)}
}

// started returns the moves of a dispatch.
func started(pool, priority string) []metrics.Move {
	return []metrics.Move{
		by(1, `tasks_started_total{pool_id=%q,priority=%q}`, pool, priority),
		by(1, `placement_decisions_total{outcome="placed"}`),
		by(1, `placement_candidates_considered`),
		by(1, `llorch_prediction_error_ms{pool_id=%q}`, pool),
	}
}

// ended returns the moves when somebody ends a task.
func ended(pool, replica, reason, outcome string) []metrics.Move {
	return []metrics.Move{
		by(1, `tasks_canceled_total{pool_id=%q,replica_id=%q,reason=%q}`, pool, replica, reason),
		by(1, `llorch_tasks_finished_total{pool_id=%q,outcome=%q}`, pool, outcome),
		by(1, `llorch_ledger_ops_total{op="finish"}`),
	}
}

// both joins moves. If both name a counter, the larger move counts.
func both(moves ...[]metrics.Move) (all []metrics.Move) {
	for _, m := range slices.Concat(moves...) {
		if i := slices.IndexFunc(all, func(o metrics.Move) bool { return o.Series == m.Series && o.Kind == m.Kind }); i >= 0 {
			all[i].Figure = max(all[i].Figure, m.Figure)
			continue
		}
		all = append(all, m)
	}
	return all
}

func refusal(code, model string, more request, moves ...metrics.Move) func(*testing.T, *bench) []metrics.Move {
	return func(t *testing.T, b *bench) []metrics.Move {
		b.refused(t, code, model, more)
		return moves
	}
}

func completion(priority, decision string, more request) func(*testing.T, *bench) []metrics.Move {
	return func(t *testing.T, b *bench) []metrics.Move {
		more["priority"] = priority
		s := b.follow(t, b.submit(t, "haiku", more))
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
		replica := s.End.Receipt.ReplicaID
		var reuse []metrics.Move
		if n := s.End.Receipt.TokensCached; n > 0 { // all of these prompts are one, so all but the first find it
			saved := by(0, `llorch_prefill_saved_ms_total{pool_id="haiku"}`)
			saved.Kind = metrics.AtLeast
			reuse = []metrics.Move{by(float64(n), `llorch_prompt_tokens_reused_total{pool_id="haiku",determinism="strict"}`), saved}
		}
		return both(queued("haiku", priority), started("haiku", priority), reuse, []metrics.Move{
			by(1, `tasks_started_total{pool_id="haiku",replica_id=%q}`, replica),
			by(1, `placement_decisions_total{%s}`, decision),
			by(1, `latency_first_token_ms{pool_id="haiku",priority=%q}`, priority),
			by(1, `latency_decode_ms{pool_id="haiku",priority=%q}`, priority),
			by(float64(s.End.TokensIn), `tokens_in_total{pool_id="haiku",replica_id=%q}`, replica),
			by(float64(len(s.Tokens)), `tokens_out_total{pool_id="haiku",replica_id=%q}`, replica),
			by(1, `llorch_tasks_finished_total{pool_id="haiku",outcome="completed"}`), by(1, `llorch_ledger_ops_total{op="finish"}`),
			is(0, `llorch_streams_open`),
		})
	}
}

const stepped = 200 // tokens of an engine that sends each token when it is told to

// The table: action, series, delta. An action builds on those before it.
var table = []action{
	{"an interactive task completes", completion("interactive", `outcome="placed",pinned="false",fallback="false"`, request{})},
	{"a batch task completes", completion("batch", `outcome="placed",pinned="false",fallback="false"`, request{})},
	{"a pinned task completes", completion("interactive", `outcome="placed",pinned="true",fallback="false"`,
		request{"placement": request{"mode": "pin", "pool_id": "haiku"}})},
	{"a task falls back from the pool it prefers", completion("batch", `outcome="placed",pinned="false",fallback="true"`,
		request{"placement": request{"mode": "prefer", "pool_id": "gone"}})},

	{"an unknown model is refused", refusal("MODEL_NOT_FOUND", "other", nil, by(1, `tasks_rejected_total{engine="none",reason="model_not_found"}`))},
	{"a request that makes no sense is refused", refusal("INVALID_PARAMS", "haiku", request{"inputs": []string{"x"}},
		by(1, `tasks_rejected_total{engine="none",reason="invalid_params"}`))},
	{"a context that is too long is refused", refusal("INVALID_PARAMS", "haiku", request{"max_tokens": 1000},
		by(1, `tasks_rejected_total{engine="llamacpp",reason="invalid_params"}`))},
	{"a pin to a pool that is not ready is refused", refusal("POOL_UNREADY", "haiku", request{"placement": request{"mode": "pin", "pool_id": "gone"}},
		by(1, `tasks_rejected_total{engine="llamacpp",reason="pool_unready"}`))},
	{"a body outside of the contract is refused", refusal("INVALID_PARAMS", "haiku", request{"colour": "red"},
		by(1, `tasks_rejected_total{engine="none",reason="invalid_params"}`))},
	{"a number of the wrong kind is refused", refusal("INVALID_PARAMS", "haiku", request{"seed": 1.5},
		by(1, `tasks_rejected_total{engine="none",reason="invalid_params"}`))},
	{"a task_id with another body is a conflict", func(t *testing.T, b *bench) []metrics.Move {
		named := completion("interactive", `outcome="placed"`, request{"task_id": "first"})(t, b)
		b.refused(t, "CONFLICT", "haiku", request{"task_id": "first", "seed": 1})
		return both(named, []metrics.Move{by(1, `tasks_rejected_total{engine="none",reason="conflict"}`)})
	}},
	{"the same submit again counts nowhere", func(t *testing.T, b *bench) []metrics.Move {
		require.Equal(t, "first", b.submit(t, "haiku", request{"task_id": "first", "priority": "interactive"}))
		return nil
	}},

	{"a slot is taken", func(t *testing.T, b *bench) []metrics.Move {
		b.held.SetScript(fakeengine.Script{Stepped: true, Tokens: stepped})
		b.submit(t, "held", request{"task_id": "running"})
		busy(t, b.held, 1)
		return both(queued("held", "interactive"), started("held", "interactive"), []metrics.Move{is(0, `queue_depth{pool_id="held"}`)})
	}},
	{"a task waits", func(t *testing.T, b *bench) []metrics.Move {
		b.submit(t, "held", request{"task_id": "waiting"})
		return both(queued("held", "interactive"), []metrics.Move{
			looks,
			is(1, `queue_depth{pool_id="held",priority="interactive"}`), is(0, `queue_depth{pool_id="held",priority="batch"}`),
		})
	}},
	{"a full queue refuses", refusal("ADMISSION_REJECT", "held", nil,
		by(1, `tasks_rejected_total{engine="llamacpp",reason="admission_reject"}`), by(1, `admission_backpressure_events_total{engine="llamacpp",policy="reject"}`))},
	{"a queued task is canceled", func(t *testing.T, b *bench) []metrics.Move {
		b.cancel(t, "waiting")
		return both(ended("held", "", "client", "canceled"), []metrics.Move{is(0, `queue_depth{pool_id="held"}`)})
	}},
	{"a running task is canceled", func(t *testing.T, b *bench) []metrics.Move {
		s := b.follow(t, "running")
		b.held.Release(3)
		read(t, s, 3)
		b.cancel(t, "running")
		fails(t, s, "CANCELED")
		busy(t, b.held, 0)
		return both(ended("held", "held-0", "client", "canceled"), []metrics.Move{
			by(3, `tokens_out_total{pool_id="held",replica_id="held-0"}`), by(1, `latency_first_token_ms{pool_id="held"}`),
		})
	}},
	{"a second cancel counts nowhere", func(t *testing.T, b *bench) []metrics.Move {
		b.cancel(t, "running")
		return nil
	}},
	{"a deadline passes", func(t *testing.T, b *bench) []metrics.Move {
		s := b.follow(t, b.submit(t, "held", request{"deadline_ms": 300}))
		fails(t, s, "DEADLINE_UNMET")
		busy(t, b.held, 0)
		return both(queued("held", "interactive"), started("held", "interactive"), ended("held", "held-0", "deadline", "failed"))
	}},
	{"a full queue drops the oldest", func(t *testing.T, b *bench) []metrics.Move {
		b.drop.SetScript(fakeengine.Script{Stepped: true, Tokens: stepped})
		b.submit(t, "drop", request{"task_id": "kept"})
		busy(t, b.drop, 1)
		s := b.follow(t, b.submit(t, "drop", request{"task_id": "old", "priority": "batch"}))
		b.submit(t, "drop", request{"task_id": "young"})
		fails(t, s, "QUEUE_FULL_DROP_LRU")
		return both(started("drop", "interactive"), ended("drop", "", "drop_lru", "failed"), []metrics.Move{
			looks,
			by(3, `llorch_ledger_ops_total{op="accept"}`), by(2, `tasks_enqueued_total{pool_id="drop",priority="interactive"}`), by(1, `tasks_enqueued_total{pool_id="drop",priority="batch"}`),
			by(1, `admission_backpressure_events_total{engine="llamacpp",policy="drop-lru"}`),
		})
	}},
	{"a task runs longer than its pool allows", func(t *testing.T, b *bench) []metrics.Move {
		b.short.SetScript(fakeengine.Script{Stepped: true})
		fails(t, b.follow(t, b.submit(t, "short", nil)), "DECODE_TIMEOUT")
		busy(t, b.short, 0)
		return both(queued("short", "interactive"), started("short", "interactive"), ended("short", "short-0", "timeout", "failed"))
	}},
	{"an engine breaks off, and the task goes on", func(t *testing.T, b *bench) []metrics.Move {
		b.short.SetScript(fakeengine.Script{Fault: fakeengine.Die, After: 2, Tokens: 9, Times: 1})
		s := b.follow(t, b.submit(t, "short", request{"max_tokens": 9}))
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
		return both(queued("short", "interactive"), []metrics.Move{
			{Series: looks.Series, Kind: metrics.AtLeast},
			by(2, `tasks_started_total{pool_id="short"}`), by(2, `placement_decisions_total{outcome="placed"}`), by(2, `placement_candidates_considered`),
			by(1, `llorch_ledger_ops_total{op="finish"}`),
			by(1, `llorch_prediction_error_ms{pool_id="short"}`), by(1, `llorch_failovers_total{pool_id="short",outcome="resumed"}`),
			by(1, `llorch_tasks_finished_total{pool_id="short",outcome="completed"}`), by(1, `latency_first_token_ms{pool_id="short"}`),
			by(1, `latency_decode_ms{pool_id="short"}`), by(float64(s.End.TokensIn), `tokens_in_total{pool_id="short"}`),
			by(float64(len(s.Tokens)), `tokens_out_total{pool_id="short",replica_id="short-0"}`),
		})
	}},

	{"streams are opened", func(t *testing.T, b *bench) []metrics.Move {
		for range 3 {
			s, err := b.daemon.Client.Open(t.Context(), "kept")
			require.NoError(t, err)
			openStreams = append(openStreams, s.Close)
		}
		return []metrics.Move{is(3, `llorch_streams_open`)}
	}},
	{"streams are closed", func(*testing.T, *bench) []metrics.Move {
		for _, hangUp := range openStreams {
			hangUp()
		}
		return []metrics.Move{is(0, `llorch_streams_open`)}
	}},
	{"a client that does not read is cut off", func(t *testing.T, b *bench) []metrics.Move {
		text := slices.Repeat([]string{strings.Repeat("x", 60_000)}, stepped)
		b.held.SetScript(fakeengine.Script{Stepped: true, Tokens: stepped + 1, Text: slices.Concat(text, []string{"y"})})
		id := b.submit(t, "held", nil)
		hangUp := b.neverRead(t, id)
		s := b.follow(t, id)
		b.held.Release(stepped)
		read(t, s, stepped)
		b.cancel(t, id)
		fails(t, s, "CANCELED")
		require.NoError(t, hangUp()) // otherwise the daemon would wait until it takes one more write
		busy(t, b.held, 0)
		return both(queued("held", "interactive"), started("held", "interactive"), ended("held", "held-0", "client", "canceled"), []metrics.Move{
			by(stepped, `tokens_out_total{pool_id="held"}`), by(1, `latency_first_token_ms{pool_id="held"}`),
			by(1, `llorch_stream_cutoffs_total`), is(0, `llorch_streams_open`),
		})
	}},

	{"a worker dies", func(t *testing.T, b *bench) []metrics.Move {
		require.NoError(t, syscall.Kill(b.worker(t, "haiku-1"), syscall.SIGKILL))
		return []metrics.Move{
			by(1, `llorch_worker_restarts_total{pool_id="haiku",replica_id="haiku-1",reason="exited"}`),
			is(1, `llorch_replica_state{replica_id="haiku-1",state="ready"}`), is(1, `llorch_replica_state{replica_id="haiku-1"}`),
		}
	}},
	{"somebody else asks an engine", func(t *testing.T, b *bench) []metrics.Move {
		ctx, hangUp := context.WithCancel(bounded(t))
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.elsewhere+"/v1/completions", strings.NewReader(`{"model":"m","prompt":"wait","stream":true}`))
		require.NoError(t, err)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		openStreams = []func(){func() { hangUp(); _ = answer.Body.Close() }}
		return []metrics.Move{
			is(1, `llorch_engine_requests_running{pool_id="served"}`), is(0, `llorch_engine_requests_waiting{pool_id="served"}`),
			is(0.1, `kv_cache_usage_ratio{pool_id="served"}`),
			{Series: `llorch_engine_prefix_cache_queries_total{pool_id="served"}`, Kind: metrics.AtLeast, Figure: 2},
			{Series: `llorch_engine_prefix_cache_hits_total{pool_id="served"}`, Kind: metrics.AtLeast, Figure: 1},
		}
	}},
	{"and goes", func(*testing.T, *bench) []metrics.Move {
		openStreams[0]()
		return []metrics.Move{is(0, `llorch_engine_requests_running{pool_id="served"}`), is(0, `kv_cache_usage_ratio{pool_id="served"}`)}
	}},
	{"what stands still stands still", func(t *testing.T, b *bench) []metrics.Move {
		_, size, err := fetch.Disk(b.Dir)
		require.NoError(t, err)
		return []metrics.Move{
			is(1, `llorch_build_info`), is(0, `llorch_queue_stuck`), is(4+2, `llorch_replica_state{state="ready"}`), is(0, `llorch_replica_state{replica_id="gone-0",state="ready"}`),
			is(1, `llorch_pool_info{pool_id="haiku",model_id="haiku",engine="llamacpp"}`), is(1, `llorch_config_last_reload_successful`), is(0, `llorch_tls_not_after_seconds`), is(1, `llorch_hosts{state="up"}`), is(0, `llorch_hosts{state="gone"}`),
			is(degrees, `llorch_gpu_temperature_celsius{device="0"}`), is(joules, `llorch_gpu_energy_joules_total`), is(2, `llorch_gpu_healthy`), is(0, `llorch_gpu_memory_bytes{device="1",kind="promised"}`),
			is(float64(size), `llorch_data_folder_bytes{kind="size"}`), // others write to the disk meanwhile, so nobody can say what is free
			is(1, `model_state{model_id="haiku",state="Active"}`), is(0, `model_state{model_id="haiku",state="Retired"}`),
		}
	}},

	{"a path that nobody serves", func(t *testing.T, b *bench) []metrics.Move {
		_, err := b.daemon.Client.Get(bounded(t), "/v1/nothing")
		require.Error(t, err)
		return []metrics.Move{by(1, `llorch_http_responses_total{route="none",code="404"}`)}
	}},
	{"a broken configuration is refused", func(t *testing.T, b *bench) []metrics.Move {
		b.reload(t, "nonsense: 1\n")
		return []metrics.Move{is(0, `llorch_config_last_reload_successful`)}
	}},
	{"and comes into force when it is mended", func(t *testing.T, b *bench) []metrics.Move {
		b.reload(t, b.text)
		return []metrics.Move{is(1, `llorch_config_last_reload_successful`)}
	}},

	{"a message batch of one request comes, is run, and is deleted", func(t *testing.T, b *bench) []metrics.Move {
		b.messageBatch(t, "haiku", func() {})
		return both(queued("haiku", "batch"), started("haiku", "batch"), []metrics.Move{
			by(1, `llorch_batch_lines_ended_total{front="anthropic",outcome="completed"}`),
			is(0, `llorch_batch_lines{state="waiting"}`), is(0, `llorch_batch_lines{state="fed"}`),
			{Series: `llorch_ledger_ops_total{op="batch"}`, Kind: metrics.AtLeast, Figure: 4},
			by(1, `latency_first_token_ms{pool_id="haiku",priority="batch"}`), by(1, `latency_decode_ms{pool_id="haiku",priority="batch"}`),
			{Series: `tokens_in_total{pool_id="haiku"}`, Kind: metrics.AtLeast, Figure: 1},
			{Series: `tokens_out_total{pool_id="haiku"}`, Kind: metrics.AtLeast, Figure: 1},
			by(1, `llorch_tasks_finished_total{pool_id="haiku",outcome="completed"}`), by(1, `llorch_ledger_ops_total{op="finish"}`),
			by(1, `llorch_artifacts_stored_total{kind="other"}`), by(1, `llorch_artifacts_removed_total{reason="deleted"}`),
		})
	}},
	{"a batch's line makes way", func(t *testing.T, b *bench) []metrics.Move {
		b.held.SetScript(fakeengine.Script{Stepped: true, Tokens: 2})
		b.messageBatch(t, "held", func() {
			busy(t, b.held, 1)
			line := b.held.State().Generations
			s := b.follow(t, b.submit(t, "held", nil))
			_, err := b.held.Wait(bounded(t), func(s fakeengine.State) bool { return s.Generations > line }) // else the line might take what is released
			require.NoError(t, err)
			b.held.Release(2)
			require.NoError(t, s.Rest())
			b.held.Release(10)
		})
		return both(queued("held", "batch"), queued("held", "interactive"), started("held", "interactive"), []metrics.Move{
			by(1, `llorch_batch_lines_interrupted_total{pool_id="held"}`),
			by(2, `llorch_ledger_ops_total{op="accept"}`), by(2, `tasks_started_total{pool_id="held",priority="batch"}`), by(3, `placement_decisions_total{outcome="placed"}`),
			by(3, `placement_candidates_considered`), by(2, `llorch_prediction_error_ms{pool_id="held"}`),
			{Series: `placement_decisions_total{outcome="no_replica"}`, Kind: metrics.AtLeast, Figure: 1},
			by(1, `llorch_batch_lines_ended_total{front="anthropic",outcome="completed"}`),
			{Series: `llorch_ledger_ops_total{op="batch"}`, Kind: metrics.AtLeast, Figure: 4},
			by(2, `latency_first_token_ms{pool_id="held"}`), by(2, `latency_decode_ms{pool_id="held"}`),
			{Series: `tokens_in_total{pool_id="held"}`, Kind: metrics.AtLeast, Figure: 2},
			by(4, `tokens_out_total{pool_id="held"}`),
			by(2, `llorch_tasks_finished_total{pool_id="held",outcome="completed"}`), by(2, `llorch_ledger_ops_total{op="finish"}`),
			by(1, `llorch_artifacts_stored_total{kind="other"}`), by(1, `llorch_artifacts_removed_total{reason="deleted"}`),
		})
	}},
	{"a model is added, and retired", func(t *testing.T, b *bench) []metrics.Move {
		b.post(t, "/v1/catalog/models", request{"ref": "file:" + b.Model, "wait_ms": watch.Patience.Milliseconds()}, http.StatusCreated)
		b.post(t, "/v1/catalog/models/haiku/state", request{"state": "Retired", "deadline_ms": time.Hour.Milliseconds()}, http.StatusOK)
		return []metrics.Move{
			by(1, `catalog_verifications_total{result="warn",reason="signature_missing",engine="llamacpp"}`),
			is(0, `model_state{model_id="haiku",state="Active"}`), is(1, `model_state{model_id="haiku",state="Retired"}`),
		}
	}},
	{"nothing may be called", func(t *testing.T, b *bench) []metrics.Move {
		b.post(t, "/v1/catalog/models", request{"ref": "https://10.0.0.1/m.gguf", "wait_ms": watch.Patience.Milliseconds()}, http.StatusForbidden)
		return []metrics.Move{by(1, `llorch_policy_decisions_total{action="download",decision="deny"}`)}
	}},
	{"artifacts are too many", func(t *testing.T, b *bench) []metrics.Move {
		for _, text := range []string{"x", "y"} {
			b.post(t, "/v1/artifacts", request{"kind": "other", "content": strings.Repeat(text, 700<<10)}, http.StatusCreated)
		}
		return []metrics.Move{
			by(2, `llorch_artifacts_stored_total{kind="other"}`),
			{Series: `llorch_artifacts_removed_total{reason="bytes"}`, Kind: metrics.AtLeast, Figure: 1},
			is(1, `llorch_artifacts`),
			{Series: `llorch_artifact_bytes`, Kind: metrics.AtLeast},
			by(0, `llorch_artifacts_damaged_total`),
		}
	}},

	{"a task loads its model", swapped("day", is(1, `llorch_replica_state{replica_id="day-0",state="ready"}`))},
	{"a task's model makes another go", swapped("night", by(1, `llorch_swaps_total{pool_id="day",direction="out"}`),
		is(1, `llorch_replica_state{replica_id="night-0",state="ready"}`), is(1, `llorch_replica_state{replica_id="day-0",state="stopped"}`))},
	{"a card takes energy, and a task on it", func(t *testing.T, b *bench) []metrics.Move {
		b.state.Cards[0].Flow = 200_000
		b.write(t)
		eventually(t, func() []string { // else the task would be told of the jump
			if strings.Contains(string(b.exposition(t)), `llorch_gpu_idle_energy_joules_total{device="0"} 0`+"\n") {
				return []string{"the card's counter does not grow"}
			}
			return nil
		})
		s := b.follow(t, b.submit(t, "night", nil))
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
		require.NotNil(t, s.End.EnergyJ)
		return both(queued("night", "interactive"), started("night", "interactive"), []metrics.Move{
			{Series: `llorch_gpu_energy_joules_total`, Kind: metrics.AtLeast, Figure: 1},
			{Series: `llorch_gpu_idle_energy_joules_total{device="0"}`, Kind: metrics.AtLeast, Figure: 1},
			by(*s.End.EnergyJ, `llorch_task_energy_joules_total{pool_id="night"}`),
			by(1, `latency_first_token_ms{pool_id="night"}`), by(1, `latency_decode_ms{pool_id="night"}`),
			by(float64(s.End.TokensIn), `tokens_in_total{pool_id="night"}`), by(float64(len(s.Tokens)), `tokens_out_total{pool_id="night"}`),
			by(1, `llorch_tasks_finished_total{pool_id="night",outcome="completed"}`), by(1, `llorch_ledger_ops_total{op="finish"}`),
		})
	}},
}

// swapped runs a task of an on-demand pool that is not loaded. Its worker then shows the memory that the model takes, and the card's utilisation.
func swapped(pool string, more ...metrics.Move) func(*testing.T, *bench) []metrics.Move {
	return func(t *testing.T, b *bench) []metrics.Move {
		s := b.follow(t, b.submit(t, pool, nil))
		require.NoError(t, s.Rest())
		require.NotNil(t, s.End, "%+v", s.Fail)
		return both(queued(pool, "interactive"), started(pool, "interactive"), more, []metrics.Move{
			{Series: looks.Series, Kind: metrics.AtLeast},
			by(1, `llorch_swaps_total{pool_id=%q,direction="in"}`, pool),
			{Series: fmt.Sprintf(`llorch_swap_lost_ms_total{pool_id=%q}`, pool), Kind: metrics.AtLeast, Figure: 1},
			is(modelBytes+standin.CardContext, fmt.Sprintf(`vram_used_bytes{pool_id=%q,device="0"}`, pool)),
			is(utilization/100.0, fmt.Sprintf(`gpu_utilization{pool_id=%q,device="0"}`, pool)),
			by(1, `latency_first_token_ms{pool_id=%q}`, pool), by(1, `latency_decode_ms{pool_id=%q}`, pool),
			by(float64(s.End.TokensIn), `tokens_in_total{pool_id=%q}`, pool), by(float64(len(s.Tokens)), `tokens_out_total{pool_id=%q}`, pool),
			by(1, `llorch_tasks_finished_total{pool_id=%q,outcome="completed"}`, pool), by(1, `llorch_ledger_ops_total{op="finish"}`),
		})
	}
}

// openStreams are closed one action after they were opened.
var openStreams []func()

// LO-504, LO-602, LO-613, LO-625, ORCH-3028, ORCH-3072, ORCH-3080, ORCH-3097, OC-METRICS-7101, OC-METRICS-7102, LO-103, LO-437, LO-503, ORCH-1103, LO-454
func TestSeriesMoveWhenTheyShould(t *testing.T) {
	runtime.LockOSThread() // the daemon ends with this thread, however the test does
	promtool, err := metrics.FindPromtool()
	require.NoError(t, err)
	b := newBench(t)
	// The daemon keeps trying to reach the engine that is nowhere.
	loose := []metrics.Move{
		{Series: `llorch_worker_restarts_total{pool_id="gone"}`},
		{Series: `llorch_ledger_ops_total{op="checkpoint"}`},
		// Each look of this test is a request.
		{Series: `llorch_http_responses_total`},
		// A strict task that ends soon needs no write for its dispatch.
		{Series: `llorch_ledger_ops_total{op="dispatch"}`},
		// How many operations share a commit is a matter of timing.
		{Series: `llorch_ledger_commits_total`},
		{Series: `llorch_ledger_commit_ms`},
		{Series: `llorch_ledger_batch_size`},
		// An idle engine is probed now and then.
		{Series: `llorch_engine_prefix_cache_queries_total`},
		{Series: `llorch_engine_prefix_cache_hits_total`},
		{Series: `llorch_engine_requests_running`},
		{Series: `kv_cache_usage_ratio{pool_id="served"}`},
		// The built-in workers and the engines are called again and again.
		{Series: `llorch_policy_decisions_total{action="adapter",decision="allow"}`},
	}
	eventually(t, func() []string {
		return b.contract.Unmoved(metrics.Scrape{}, b.scrape(t), []metrics.Move{is(6, `llorch_replica_state{state="ready"}`), is(1, `llorch_ledger_ops_total{op="claim"}`), is(joules, `llorch_gpu_energy_joules_total`)}, loose)
	})
	prometheus := scrapes(t, b)
	var last []byte
	for i, a := range table {
		if !t.Run(a.name, func(t *testing.T) {
			before := b.scrape(t)
			moves := withClients(a.do(t, b))
			eventually(t, func() []string { return b.contract.Unmoved(before, b.scrape(t), moves, loose) })
			last = b.exposition(t)
			keep(t, i+1, a.name, last)
		}) {
			t.Fatalf("%d actions behind %q were not tried: they build on it", len(table)-i-1, a.name)
		}
	}

	seen, err := metrics.Parse(last)
	require.NoError(t, err)
	require.Empty(t, b.contract.Missing(seen))
	wrong, err := b.contract.Promtool(t.Context(), promtool, last)
	require.NoError(t, err)
	require.Empty(t, wrong)
	t.Run("every panel has data", prometheus.answersEveryPanel)
	t.Run("every rule is evaluated", prometheus.evaluatesEveryRule)
	t.Run("a broken copy of the scrape fails", func(t *testing.T) { aBrokenCopyFails(t, b, promtool, last) })

	require.NoError(t, b.daemon.Signal(syscall.SIGTERM))
	b.drop.Release(stepped) // lets the running task end, so that the daemon can end
	code, err := b.daemon.Exit()
	require.NoError(t, err)
	require.Zero(t, code)
}

// breakers change a scrape in one place each, so that the gate must find something.
var breakers = map[string]string{
	`pool_id="haiku"`: `pool="haiku"`, `le="150"`: `le="151"`, "TYPE queue_depth gauge": "TYPE queue_depth counter",
	`priority="batch"`: `priority="low"`, "llorch_streams_open": "llorch_streams_opened",
	`replica_id="held-0"`: `replica_id="3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10"`,
}

// aBrokenCopyFails makes sure that the gate looks at the real scrape.
func aBrokenCopyFails(t *testing.T, b *bench, promtool string, text []byte) {
	for from, to := range breakers {
		require.Contains(t, string(text), from)
		broken, err := metrics.Parse(bytes.ReplaceAll(text, []byte(from), []byte(to)))
		require.NoError(t, err)
		require.NotEmpty(t, b.contract.Lint(broken, b.configured), "%s instead of %s", to, from)
	}
	wrong, err := b.contract.Promtool(t.Context(), promtool, bytes.ReplaceAll(text, []byte("tasks_started_total"), []byte("tasks_started")))
	require.NoError(t, err)
	require.NotEmpty(t, wrong)
}
