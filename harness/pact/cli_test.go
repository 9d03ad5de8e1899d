// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// cliCall runs the program, and checks its exit code and its output.
func cliCall(args string, code int, says string, exchanges ...exchange) call {
	return call{name: exchanges[0].name, exchanges: exchanges, do: func(t *testing.T, addr string) {
		// No argument holds a space, since prompts come from stdin.
		cmd := exec.CommandContext(t.Context(), program("llama-orch"), strings.Fields(args)...)
		cmd.Env = []string{"LLORCH_ADDR=" + addr}
		if exchanges[0].token != "" {
			cmd.Env = append(cmd.Env, "LLORCH_API_TOKEN="+exchanges[0].token)
		}
		cmd.Stdin = strings.NewReader(prompt)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil {
			require.ErrorAs(t, err, &exit, string(out))
		}
		require.Equal(t, code, cmd.ProcessState.ExitCode(), string(out))
		require.Contains(t, string(out), says)
	}}
}

func cliCalls() []call { return append(cliTaskCalls(), cliCatalogCalls()...) }

func cliTaskCalls() []call {
	const (
		failed  = 1
		refused = 4
		unknown = "no-such-task"
	)
	answer := strings.Join(transcript, "")
	missing := refusal(task.NotFound, false)
	_, _, first := example("cli-resumed", false)
	// The program sends even what is the default.
	ask := func(id string, more object) object {
		return with(with(haiku(id), object{"priority": "interactive"}), more)
	}
	withoutToken, withBadToken := listPools("").refused("pools without a token", 401, refusal(task.MissingToken, false)),
		listPools("").refused("pools with a wrong token", 401, refusal(task.BadToken, false))
	withoutToken.token, withBadToken.token = "", "not-the-token"

	// Interactions are verified in the order of their names, so a task is submitted before its stream is asked for.
	return []call{
		cliCall("run - -m haiku --task-id cli-run --seed 42", 0, answer,
			submit("run 1, the submit", ask("cli-run", object{"seed": seed})), follow("run 2, the stream", "cli-run")),
		cliCall("run - --task-id cli-alone --seed 42", 0, answer,
			listPools("run without a model 1, the pools"),
			submit("run without a model 2, the submit", ask("cli-alone", object{"seed": seed})), follow("run without a model 3, the stream", "cli-alone")),
		cliCall("run - --task-id cli-all -m haiku --chat --system short --priority batch --seed 42 --max-tokens 24 --temperature 0.5 --stop X"+
			" --determinism strict --pool default", 0, answer,
			submit("run with every option 1, the submit", with(haiku("cli-all"), object{
				"prompt": nil, "messages": []object{{"role": "system", "content": "short"}, {"role": "user", "content": prompt}}, "priority": "batch",
				"seed": seed, "max_tokens": 24, "params": object{"temperature": 0.5, "stop": []string{"X"}}, "determinism": "strict",
				"placement": object{"mode": "pin", "pool_id": "default"},
			})), follow("run with every option 2, the stream", "cli-all")),
		cliCall("run - --task-id cli-chat -m haiku --reasoning --tool-choice fly --tools testdata/tools.json", failed, "INVALID_PARAMS",
			submit("", with(haiku("cli-chat"), object{
				"prompt": nil, "messages": []object{{"role": "user", "content": prompt}}, "priority": "interactive", "reasoning": object{"split": true},
				"tool_choice": "fly", "tools": []object{{"name": "weather", "parameters": object{"type": "object"}}},
			})).refused("run with a choice of a tool that is none", 400, refusal(task.InvalidParams, false))),
		cliCall("run - -m haiku --task-id cli-long --max-tokens 9999", failed, "INVALID_PARAMS",
			submit("", ask("cli-long", object{"max_tokens": 9999})).refused("run with an answer that is too long", 400, refusal(task.InvalidParams, false))),
		cliCall("run - -m no-such-model --task-id cli-model", failed, "MODEL_NOT_FOUND",
			submit("", ask("cli-model", object{"model_ref": "no-such-model"})).refused("run with an unknown model", 404, refusal(task.ModelNotFound, false))),
		cliCall("run - -m haiku --task-id cli-taken --seed 1", failed, "CONFLICT",
			submit("", ask("cli-taken", object{"seed": 1})).in(stateOf(stateCompleted, "cli-taken")).refused("run with a taken id", 409, refusal(task.Conflict, false))),
		cliCall("run - -m slow --task-id cli-full", refused, "ADMISSION_REJECT",
			submit("", ask("cli-full", object{"model_ref": "slow"})).in(state(stateFull)).refused("run with a full queue", 429, queueFull())),
		cliCall("run - -m down --task-id cli-unready", refused, "POOL_UNREADY",
			submit("", ask("cli-unready", object{"model_ref": "down"})).in(state(stateUnready)).refused("run without replicas", 503, refusal(task.PoolUnready, true))),

		cliCall("stream cli-stream", 0, answer, follow("stream", "cli-stream")),
		cliCall("stream cli-resumed --after "+first, 0, answer, resume("stream from behind the first event", "cli-resumed")),
		cliCall("stream "+unknown, failed, "NOT_FOUND", follow("", unknown).in(state(stateReady)).refused("stream of an unknown task", 404, missing)),
		cliCall("stream cli-ahead --after 9999-00000000", failed, "INVALID_PARAMS",
			follow("", "cli-ahead").after("9999-00000000").refused("stream behind an event that never was", 400, refusal(task.InvalidParams, false))),

		cliCall("cancel cli-cancel", 0, "canceled", cancel("cancel of a running task", stateRunning, "cli-cancel", task.StateCanceled)),
		cliCall("cancel cli-late", 0, "completed", cancel("cancel of a completed task", stateCompleted, "cli-late", task.Completed)),
		cliCall("cancel "+unknown, failed, "NOT_FOUND", cancel("", stateReady, unknown, "").in(state(stateReady)).refused("cancel of an unknown task", 404, missing)),
		cliCall("rm cli-rm", 0, "deleted task cli-rm", deleteTask("rm of a completed task", stateCompleted, "cli-rm")),
		cliCall("rm cli-rm-early", failed, "CONFLICT", deleteTask("", stateRunning, "cli-rm-early").refused("rm of a running task", 409, refusal(task.Conflict, false))),
		cliCall("rm "+unknown, failed, "NOT_FOUND", deleteTask("", stateReady, unknown).in(state(stateReady)).refused("rm of an unknown task", 404, missing)),
		cliCall("task cli-gone", failed, "DELETED", get("", stateOf(stateDeleted, "cli-gone"), "/v1/tasks/cli-gone", nil).
			refused("task that was deleted", 410, refusal(task.Deleted, false))),
		cliCall("task cli-running", 0, "running", showTask("task that runs", stateRunning, "cli-running", task.Running)),
		cliCall("task cli-completed", 0, "transcript", showTask("task that has completed", stateCompleted, "cli-completed", task.Completed)),
		cliCall("task "+unknown, failed, "NOT_FOUND", get("", state(stateReady), "/v1/tasks/"+unknown, nil).refused("task that is unknown", 404, missing)),
		cliCall("tasks --state completed --limit 1", 0, "listed", listTasks("tasks", task.Completed, map[string]string{"state": "completed", "limit": "1"})),
		cliCall("session create --id "+aSession("3")+" --max-turns 4 --tokens 2000", 0, "tokens left  2000", createSession("session create", aSession("3"),
			object{"session_id": aSession("3"), "max_turns": 4, "budget": object{"tokens": 2000}})),
		cliCall("session show "+aSession("4"), 0, "0 of 4", showSession("session show", aSession("4"))),
		cliCall("session delete "+aSession("4"), 0, "deleted session", deleteSession("session delete", aSession("4"))),
		cliCall("session delete "+aSession("9"), failed, "NOT_FOUND", deleteSession("", aSession("9")).in(state(stateReady)).
			refused("session delete of an unknown one", 404, missing)),
		cliCall("run - -m slow --task-id cli-over --max-tokens 200 --session "+aSession("5"), refused, "BUDGET_EXCEEDED",
			submit("", ask("cli-over", object{"model_ref": "slow", "max_tokens": 200, "session_id": aSession("5")})).
				in(stateOf(stateSpent, aSession("5"))).refused("run over its session's budget", 429, overBudget())),
		cliCall("pools", 0, "REPLICAS", listPools("pools")),
		cliCall("pools default", 0, "default-0", showPool("pools with a pool's name", "default")),
		cliCall("pools no-such-pool", failed, "NOT_FOUND", showPool("", "no-such-pool").refused("pools with an unknown pool's name", 404, missing)),
		cliCall("pools", failed, "MISSING_TOKEN", withoutToken),
		cliCall("pools", failed, "BAD_TOKEN", withBadToken),
		cliCall("capabilities", 0, "createTask", showCapabilities("capabilities")),

		cliCall("pool health default", 0, "default-0", showPool("pool health", "default")),
		cliCall("pool drain spare --deadline 1s", 0, "in 1.0 s", drain("pool drain", "spare", 1000)),
		cliCall("pool drain no-such-pool", failed, "NOT_FOUND", drain("", "no-such-pool", 30000).refused("pool drain of an unknown pool", 404, missing)),
		cliCall("pool resume spare", 0, "STATE", operate("pool resume", "resume", "spare")),
		cliCall("pool resume no-such-pool", failed, "NOT_FOUND", operate("", "resume", "no-such-pool").refused("pool resume of an unknown pool", 404, missing)),
		cliCall("pool load spare", 0, "STATE", operate("pool load", "load", "spare")),
		cliCall("pool unload spare", failed, "CONFLICT", operate("", "unload", "spare").refused("pool unload of a pinned pool", 409, refusal(task.Conflict, false))),
		cliCall("pool reload spare "+spareModel, 0, spareModel, reload("pool reload", "spare", spareModel)),
		cliCall("pool reload no-such-pool "+spareModel, failed, "NOT_FOUND",
			reload("", "no-such-pool", spareModel).refused("pool reload of an unknown pool", 404, missing)),
		cliCall("pool reload spare file:no-such-model.gguf", failed, "MODEL_NOT_FOUND",
			reload("", "spare", "file:no-such-model.gguf").refused("pool reload to a missing model", 404, refusal(task.ModelNotFound, false))),
		cliCall("pool reload spare "+spareModel, failed, "CONFLICT",
			reload("", "spare", spareModel).in(state(stateReloading)).refused("pool reload during another", 409, refusal(task.Conflict, true))),
		cliCall("gpus", 0, "no GPU can be used", listGPUs("gpus")),
		cliCall("hosts", 0, "holds", listHosts("hosts")),
		cliCall("explain -m haiku --pool default --determinism strict", 0, "would run on default-0", explain("explain", object{
			"model_ref": "haiku", "workload": "completion", "determinism": "strict", "placement": object{"mode": "pin", "pool_id": "default"},
		})),
		cliCall("config reload", 0, "nothing has changed", reloadConfig("config reload")),
		cliCall("top --once", 0, "default-0", listPools("top 1, the pools"), showPool("top 2, each pool", "default"), listGPUs("top 3, the GPUs")),
		// It fails because it has no home folder, not because of the server.
		cliCall("doctor", failed, "tasks are taken", showCapabilities("doctor 1, the capabilities"), askReady("doctor 2, the readiness"),
			listPools("doctor 3, the pools"), showPool("doctor 4, each pool", "default"), listGPUs("doctor 5, the GPUs")),
	}
}
