// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"net/http"

	"github.com/pact-foundation/pact-go/v2/matchers"
	"github.com/pact-foundation/pact-go/v2/models"

	"github.com/llama-orch/llama-orch/service/task"
)

// get is an exchange without a request body.
func get(name string, state models.ProviderState, path string, answer any) exchange {
	return exchange{
		name: name, state: state, method: http.MethodGet, path: path, token: token, status: http.StatusOK, headers: plain(), answer: answer,
	}
}

// refused turns an exchange into one that the daemon refuses.
func (e exchange) refused(name string, status int, answer object) exchange {
	e.name, e.status, e.headers, e.answer, e.stream, e.streamIs = name, status, plain(), answer, "", ""
	if status == http.StatusTooManyRequests {
		e.headers = backOff()
	}
	return e
}

// in puts an exchange into another provider state.
func (e exchange) in(s models.ProviderState) exchange {
	e.state = s
	return e
}

func submit(name string, body object) exchange {
	id := body["task_id"].(string)
	return exchange{
		name: name, state: state(stateReady), method: http.MethodPost, path: "/v1/tasks", token: token, body: body,
		status: http.StatusAccepted, headers: accepted(id), answer: admission(id),
	}
}

func showTask(name, given, id string, is task.State) exchange {
	return get(name, stateOf(given, id), "/v1/tasks/"+id, status(id, is))
}

func listTasks(name string, is task.State, query map[string]string) exchange {
	one := status(like("listed"), is)
	for _, gone := range []string{"end", "last_event_id"} {
		delete(one, gone) // a deleted task, which may be in the list, has lost them (LO-832)
	}
	e := get(name, stateOf(stateCompleted, "listed"), "/v1/tasks", object{"tasks": matchers.EachLike(one, 1)})
	e.query = query
	return e
}

func cancel(name, given, id string, outcome task.State) exchange {
	e := get(name, stateOf(given, id), "/v1/tasks/"+id+"/cancel", canceled(id, outcome))
	e.method = http.MethodPost
	return e
}

func deleteTask(name, given, id string) exchange {
	e := get(name, stateOf(given, id), "/v1/tasks/"+id, nil)
	e.method, e.status, e.headers = http.MethodDelete, http.StatusNoContent, map[string]matchers.Matcher{"X-Correlation-Id": correlation}
	return e
}

// follow streams a completed task.
func follow(name, id string) exchange {
	e := get(name, stateOf(stateCompleted, id), "/v1/tasks/"+id+"/stream", nil)
	e.headers = streaming()
	e.stream, _, _ = example(id, false)
	e.streamIs = startedIs(id) + tokensAre + "+" + endIs
	return e
}

// resume streams a completed task from after its first event, whose id only the provider knows.
func resume(name, id string) exchange {
	e := follow(name, id)
	_, rest, first := example(id, false)
	e.header = map[string]matchers.Matcher{"Last-Event-ID": matchers.FromProviderState("${first_event_id}", first)}
	e.stream, e.streamIs = rest, "^"+tokensAre+"+"+endIs
	return e
}

// after sets the event after which an exchange streams.
func (e exchange) after(id string) exchange {
	e.header = map[string]matchers.Matcher{"Last-Event-ID": matchers.S(id)}
	return e
}

func listPools(name string) exchange {
	return get(name, state(stateReady), "/v1/pools", object{"pools": matchers.EachLike(pool(), 1)})
}

func showPool(name, id string) exchange {
	return get(name, state(stateReady), "/v1/pools/"+id+"/health", poolHealth(id))
}

func showCapabilities(name string) exchange {
	return get(name, state(stateReady), "/v1/capabilities", capabilities())
}

func post(name string, given models.ProviderState, path string, body object, status int, answer any) exchange {
	e := get(name, given, path, answer)
	e.method, e.body, e.status = http.MethodPost, body, status
	return e
}

func drain(name, id string, deadlineMS int) exchange {
	return post(name, state(stateSpare), "/v1/pools/"+id+"/drain", object{"deadline_ms": deadlineMS}, http.StatusAccepted, draining(id, deadlineMS))
}

// operate asks a pool to resume, load or unload.
func operate(name, what, id string) exchange {
	return post(name, state(stateSpare), "/v1/pools/"+id+"/"+what, nil, http.StatusAccepted, standing(id))
}

// spareModel is a model beside the daemon's configuration.
const spareModel = "file:haiku.gguf"

func reload(name, id, ref string) exchange {
	return post(name, state(stateSpare), "/v1/pools/"+id+"/reload", object{"new_model_ref": ref}, http.StatusOK, reloaded(id, ref))
}

func listHosts(name string) exchange {
	return get(name, state(stateReady), "/v1/hosts", object{"hosts": matchers.EachLike(object{
		"id": matchers.Like("9f86d081884c7d65"), "name": matchers.Like("attic"), "version": matchers.Like("1.0.0"), "here": true, "up": true,
		"since": matchers.Like("2026-12-01T08:00:00.000Z"), "seen_at": matchers.Like("2026-12-01T08:00:00.000Z"),
		"pools": matchers.EachLike(object{"pool_id": matchers.Like("default"), "engine": matchers.Like("llamacpp"), "model_id": matchers.Like("haiku"), "holds": true}, 1),
	}, 1)})
}

func listGPUs(name string) exchange { return get(name, state(stateNoGPU), "/v1/gpus", noGPUs()) }

func explain(name string, body object) exchange {
	return post(name, state(stateReady), "/v1/placement/explain", body, http.StatusOK, explanation())
}

func reloadConfig(name string) exchange {
	return post(name, state(stateReady), "/v1/config/reload", nil, http.StatusOK, object{"changed": like([]any{}), "restart_required": like([]any{})})
}

// askReady needs no token, so none is sent.
func askReady(name string) exchange {
	e := get(name, state(stateReady), "/readyz", object{"status": "ready"})
	e.token = ""
	return e
}

// aSession is the id of the session that the interactions are about.
func aSession(last string) string { return "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e1" + last }

func createSession(name, id string, body object) exchange {
	e := post(name, state(stateReady), "/v1/sessions", body, http.StatusCreated, session(id, 4))
	e.headers["Location"] = matchers.S("/v1/sessions/" + id)
	e.headers["X-Budget-Tokens-Remaining"] = matchers.S("2000")
	return e
}

func showSession(name, id string) exchange {
	return get(name, stateOf(stateSession, id), "/v1/sessions/"+id, session(id, 4))
}

func deleteSession(name, id string) exchange {
	e := get(name, stateOf(stateSession, id), "/v1/sessions/"+id, nil)
	e.method, e.status, e.headers = http.MethodDelete, http.StatusNoContent, map[string]matchers.Matcher{"X-Correlation-Id": correlation}
	return e
}

func haiku(id string) object { return object{"task_id": id, "model_ref": "haiku", "prompt": prompt} }

// with returns a copy of a body with additional or replaced fields. A nil value removes the field.
func with(body, more object) object {
	all := object{}
	for _, from := range []object{body, more} {
		for name, value := range from {
			all[name] = value
			if value == nil {
				delete(all, name)
			}
		}
	}
	return all
}
