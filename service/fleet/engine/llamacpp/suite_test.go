// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/conformance/fault"
	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/enginetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// The engine that the tests of this build run on: the built-in worker, or a real llama-server.
//
// ORCH-3054, ORCH-3026, ORCH-3045, ORCH-3022, ORCH-3021
func TestTheEngineKeepsItsPromises(t *testing.T) {
	enginetest.Run(t, enginetest.Options{
		Launch: func(t testing.TB, w task.Workload, slow bool) enginetest.Replica {
			pace := 0.0
			if slow {
				pace = 100
			}
			e, cmd := launch(t, w, pace)
			return enginetest.Replica{Engine: e, Kill: func() error { return cmd.Process.Kill() }}
		},
		Ctx: 256, KV: true,
	})
}

// The fake stands for an engine in many tests, so it is held to the same.
//
// ORCH-3054, ORCH-3058
func TestTheFakeKeepsTheSamePromises(t *testing.T) {
	enginetest.Run(t, enginetest.Options{
		Launch: func(t testing.TB, _ task.Workload, slow bool) enginetest.Replica {
			fake := fakeengine.New(fakeengine.Options{Ctx: 256})
			if slow {
				fake.SetScript(fakeengine.Script{IntervalMS: 10})
			}
			at := enginetest.Serve(t, fake)
			return enginetest.Behind(connect(t, at.URL), at)
		},
		Ctx: 256, Rerank: true,
	})
}

// A llama-server that can do everything, played by a script, and one whose template and model know little.
//
// LO-410, LO-411, LO-414
func TestChatsAreWhatIsPromised(t *testing.T) {
	const script = `{"rules": [
		{"tools": true, "play": [{"reasoning": "hm"}, {"text": "Well."},
			{"call": {"n": 0, "name": "note", "arguments": "{\"about\":"}}, {"call": {"n": 0, "arguments": "\"rain\"}"}},
			{"call": {"n": 1, "name": "note", "arguments": "{\"about\":\"snow\"}"}}]},
		{"match": "JSON", "play": [{"text": "{\"mood\":\"calm\"}", "cut": 3}]},
		{"match": "picture", "play": [{"text": "A frog 🐸.", "cut": 1}]},
		{"match": "think", "play": [{"reasoning": "hm, rain 蛙", "cut": 2}, {"text": "Rain."}]},
		{"play": [{"text": "Something."}]}]}`
	for name, c := range map[string]struct {
		of       scripted.Options
		features []task.Feature
	}{
		"all": {scripted.Options{Thinks: true, Vision: true}, []task.Feature{
			task.FeatureTools, task.FeatureFormats, task.FeatureGrammars, task.FeatureImages, task.FeatureReasoning, task.FeatureArguments, task.FeatureBias,
			task.FeatureLogprobs,
		}},
		"little": {scripted.Options{NoTools: true}, []task.Feature{task.FeatureFormats, task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs}},
	} {
		t.Run(name, func(t *testing.T) {
			enginetest.RunChats(t, enginetest.ChatOptions{
				Features: c.features, Obeys: true,
				Launch: func(t testing.TB) engine.Engine {
					e, _ := conformance(t, c.of, script)
					return e
				},
			})
		})
	}
}

// The built-in worker has what needs no parser.
//
// LO-410
func TestChatsOfTheBuiltInWorker(t *testing.T) {
	enginetest.RunChats(t, enginetest.ChatOptions{
		Features: []task.Feature{task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs}, Binds: true,
		Launch: func(t testing.TB) engine.Engine {
			e, _ := launchWorker(t, task.Completion, 0)
			return e
		},
	})
}

// The faults of servers, on both endpoints. A llama-server of ours is local, so nothing is asked twice.
//
// LO-458
func TestServersThatMisbehave(t *testing.T) {
	const script = `{"rules": [{"play": [{"text": "The frog 蛙 sits, 👩‍👩‍👧 watch it.", "cut": 1}]}]}`
	for name, j := range map[string]engine.Job{
		"native": {Prompt: "Say something.", MaxTokens: 100},
		"chat": {Messages: []task.Message{{Role: task.RoleUser, Content: "Say something."}}, MaxTokens: 100, Chat: &task.Chat{
			Format: &task.Format{Kind: task.FormatJSON},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			enginetest.RunFaults(t, enginetest.FaultOptions{
				Serve: func(t testing.TB) http.Handler {
					s, err := scripted.Parse([]byte(script))
					require.NoError(t, err)
					return scripted.New(scripted.Options{Script: s})
				},
				Connect: func(t testing.TB, url string) engine.Engine { return connect(t, url) },
				Job:     j, Shape: shape,
			})
		})
	}
}

// The same of the engine that the tests of this build run on, behind a proxy that misbehaves.
//
// LO-458
func TestARealEngineThatMisbehaves(t *testing.T) {
	e, _ := launch(t, task.Completion, 0)
	at, err := url.Parse(addressOf(e))
	require.NoError(t, err)
	enginetest.RunFaults(t, enginetest.FaultOptions{
		Serve:   func(testing.TB) http.Handler { return httputil.NewSingleHostReverseProxy(at) },
		Connect: func(t testing.TB, url string) engine.Engine { return connect(t, url) },
		Job: engine.Job{
			Prompt: "Write a haiku about rain containing \"four\".\n\n", Seed: 7, MaxTokens: 60, Sampling: task.Sampling{Temperature: 0.8, TopP: 1, RepeatPenalty: 1},
		},
		Shape: shape,
	})
}

// shape is what faults have to know of llama-server's streams.
var shape = fault.Shape{
	Streams: func(path string, _ []byte) bool {
		return strings.HasSuffix(path, "completion") || strings.HasSuffix(path, "/chat/completions")
	},
	Says: func(data string) bool {
		return strings.Contains(data, `"content":"`) && !strings.Contains(data, `"content":""`)
	},
	Ends: func(data string) bool {
		return strings.Contains(data, `"stop":true`) || strings.Contains(data, `"finish_reason":"`)
	},
	Error: func(status int, message string) string {
		return fmt.Sprintf(`{"error":{"code":%d,"message":%q,"type":"server_error"}}`, status, message)
	},
}
