// SPDX-License-Identifier: GPL-3.0-or-later

package openai_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	conformance "github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/fleet/engine/openai"
	"github.com/llama-orch/llama-orch/service/task"
)

// server is a conformance server that plays a script.
func server(t testing.TB, o conformance.Options, script string) *conformance.Server {
	t.Helper()
	if script != "" {
		s, err := scripted.Parse([]byte(script))
		require.NoError(t, err)
		o.Script = s
	}
	s, err := conformance.New(o)
	require.NoError(t, err)
	return s
}

// serve has one at an address.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	return enginetest.Serve(t, h).URL
}

// connect makes the adapter of an `openai` pool.
func connect(t testing.TB, at engine.Endpoint) engine.Engine {
	t.Helper()
	e := openai.Kind().New(at)
	if c, ok := e.(engine.Closer); ok {
		t.Cleanup(c.Close)
	}
	return e
}

// OC-ADAPT-OAI-6000
func TestEachServerKeepsTheEnginesPromises(t *testing.T) {
	for _, name := range conformance.Names() {
		if name == "bare" { // its tokens cannot be counted
			continue
		}
		t.Run(name, func(t *testing.T) {
			enginetest.Run(t, enginetest.Options{
				Launch: func(t testing.TB, _ task.Workload, slow bool) enginetest.Replica {
					o := conformance.Options{As: name, Ctx: 256}
					if slow {
						o.Pace = 10 * time.Millisecond
					}
					at := enginetest.Serve(t, server(t, o, ""))
					return enginetest.Behind(connect(t, engine.Endpoint{URL: at.URL + "/v1"}), at)
				},
				Ctx: 256, Rerank: name == "vllm" || name == "llama-server", Rough: name != "vllm" && name != "sglang",
			})
		})
	}
}

// obeys is the script of a model that does what a message asks for.
const obeys = `{"rules": [
	{"tools": true, "play": [{"reasoning": "hm"}, {"text": "Well."},
		{"call": {"n": 0, "name": "note", "arguments": "{\"about\":"}}, {"call": {"n": 0, "arguments": "\"rain\"}"}},
		{"call": {"n": 1, "name": "note", "arguments": "{\"about\":\"snow\"}"}}]},
	{"match": "JSON", "play": [{"text": "{\"mood\":\"calm\"}", "cut": 3}]},
	{"match": "picture", "play": [{"text": "A frog 🐸.", "cut": 1}]},
	{"match": "think", "play": [{"reasoning": "hm, rain 蛙", "cut": 2}, {"text": "Rain."}]},
	{"play": [{"text": "Something."}]}]}`

// What each server can do of what only some can: with a model that can everything, and with one that knows neither tools nor images, where it tells.
//
// LO-410, OC-ADAPT-OAI-6000
func TestChatsOfEachServer(t *testing.T) {
	chats := []task.Feature{task.FeatureTools, task.FeatureFormats, task.FeatureImages, task.FeatureReasoning}
	all := append(chats[:4:4], task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs)
	little := []task.Feature{task.FeatureFormats, task.FeatureReasoning}
	for name, c := range map[string]struct {
		of       conformance.Options
		features []task.Feature
	}{
		"vllm":                {conformance.Options{As: "vllm"}, all},
		"sglang":              {conformance.Options{As: "sglang"}, all},
		"ollama":              {conformance.Options{As: "ollama"}, chats},
		"ollama, little":      {conformance.Options{As: "ollama", NoTools: true, Blind: true}, little},
		"lmstudio":            {conformance.Options{As: "lmstudio"}, append(chats[:4:4], task.FeatureBias)},
		"lmstudio, little":    {conformance.Options{As: "lmstudio", NoTools: true, Blind: true}, append(little[:2:2], task.FeatureBias)},
		"llama-server":        {conformance.Options{As: "llama-server"}, all},
		"llama-server, blind": {conformance.Options{As: "llama-server", NoTools: true, Blind: true}, append(little[:2:2], all[4:]...)},
		"unknown":             {conformance.Options{}, append(chats[:4:4], task.FeatureBias, task.FeatureLogprobs)},
	} {
		t.Run(name, func(t *testing.T) {
			enginetest.RunChats(t, enginetest.ChatOptions{
				Features: c.features, Obeys: true,
				Launch: func(t testing.TB) engine.Engine {
					return connect(t, engine.Endpoint{URL: serve(t, server(t, c.of, obeys))})
				},
			})
		})
	}
}

// LO-458
func TestServersThatMisbehave(t *testing.T) {
	const script = `{"rules": [{"play": [{"reasoning": "Hm."}, {"text": "The frog 蛙 sits, 👩‍👩‍👧 watch it.", "cut": 1}]}]}`
	for _, name := range conformance.Names() {
		t.Run(name, func(t *testing.T) {
			enginetest.RunFaults(t, enginetest.FaultOptions{
				Serve:   func(t testing.TB) http.Handler { return server(t, conformance.Options{As: name}, script) },
				Connect: func(t testing.TB, url string) engine.Engine { return connect(t, engine.Endpoint{URL: url}) },
				Job:     engine.Job{Messages: []task.Message{{Role: task.RoleUser, Content: "Say something."}}, MaxTokens: 100, Sampling: task.Sampling{TopP: 1, RepeatPenalty: 1}},
				Shape:   conformance.Shape, Retries: true,
			})
		})
	}
}
