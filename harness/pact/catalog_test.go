// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pact-foundation/pact-go/v2/matchers"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/service/record/bundle"
	"github.com/llama-orch/llama-orch/service/task"
)

// A model beside the daemon's configuration that no pool uses, and its id in the catalog.
const (
	shelf      = "shelf"
	shelfModel = "file:shelf.gguf"
)

// known is an artifact whose bytes both sides know.
type known struct {
	kind    sdk.ArtifactKind
	media   string
	taskID  string
	content string
}

// artifacts are those of the state stateStored. The bundle's type is not JSON, since Pact's library would write JSON in its own way, and clients compare
// every byte with the id.
var artifacts = map[string]known{
	"plan":  {sdk.ArtifactKindPlan, "text/markdown", "planned", "# A plan"},
	"proof": {sdk.ArtifactKindProof, "text/plain", "proven", proofBundle()},
}

// proofBundle is a bundle of another server's task, which serves as well as any.
func proofBundle() string {
	text, err := bundle.Of(task.Record{
		Task:  task.Task{ID: "proven", PoolID: "default", Engine: "llamacpp", Seed: seed, Determinism: task.Strict, Request: task.Request{ModelRef: "haiku", Workload: task.Completion, Prompt: prompt}},
		State: task.Completed, Transcript: task.Transcript{Text: "rain", Ends: []int{4}},
	}).Encode()
	if err != nil {
		panic(err) // it has no number that JSON cannot write
	}
	return string(text)
}

func (k known) id() string {
	sum := sha256.Sum256([]byte(k.content))
	return "sha256-" + hex.EncodeToString(sum[:])
}

func (k known) request() *sdk.ArtifactRequest {
	return &sdk.ArtifactRequest{
		Kind: k.kind, MediaType: k.media, TaskID: k.taskID, Content: k.content,
		Encoding: sdk.ArtifactRequestEncodingUTF8,
	}
}

func (k known) body() object {
	return object{"kind": string(k.kind), "media_type": k.media, "task_id": k.taskID, "content": k.content, "encoding": "utf-8"}
}

// entry is the artifact as the daemon describes it.
func (k known) entry() object {
	return object{
		"id": k.id(), "kind": string(k.kind), "media_type": k.media, "task_id": k.taskID, "size_bytes": len(k.content), "created_at": instant,
		"url": matchers.Regex("http://127.0.0.1:8080/v1/artifacts/"+k.id()+"/content", `^https?://[^/]+/v1/artifacts/`+k.id()+`/content$`),
	}
}

var (
	modelDigest = matchers.Regex("sha256:"+strings.Repeat("9b74", 16), `^sha256:[0-9a-f]{64}$`)
	signature   = matchers.Regex("missing", `^(missing|valid|invalid|unchecked)$`)
)

// shelvedAs is the model as the daemon describes it once the model is there.
func shelvedAs(state string) object {
	return object{
		"id": shelf, "ref": matchers.Regex("file:/srv/shelf.gguf", `^file:/.*/shelf\.gguf$`), "digest": modelDigest, "verified": true, "state": state,
		"size_bytes": matchers.Integer(2294240), "signature": signature, "warnings": matchers.EachLike("it has no signature", 1),
		"metadata": object{
			"format": "gguf", "architecture": like("llama"), "parameters": matchers.Integer(1107456), "quantisation": like("F16"), "ctx_max": matchers.Integer(256),
			"features": like([]any{}),
		},
		"created_at": instant, "verified_at": instant,
	}
}

const modelsPath = "/v1/catalog/models"

func addModel(name string, body object) exchange {
	e := post(name, state(stateNoShelf), modelsPath, body, http.StatusCreated, shelvedAs("Active"))
	e.headers = located(modelsPath + "/" + shelf)
	return e
}

func located(at string) map[string]matchers.Matcher {
	h := plain()
	h["Location"] = matchers.S(at)
	return h
}

func listModels(name string, query map[string]string) exchange {
	e := get(name, state(stateShelf), modelsPath, object{"models": matchers.EachLike(shelvedAs("Active"), 1)})
	e.query = query
	return e
}

func showModel(name, id string) exchange {
	return get(name, state(stateShelf), modelsPath+"/"+id, shelvedAs("Active"))
}

func verifyModel(name, id string) exchange {
	return post(name, state(stateShelf), modelsPath+"/"+id+"/verify", nil, http.StatusOK, object{
		"model_id": id, "digest": modelDigest, "verified": true, "signature": signature, "warnings": matchers.EachLike("it has no signature", 1), "verified_at": instant,
	})
}

func retireModel(name, id string, deadlineMS int) exchange {
	answer := with(shelvedAs("Retired"), object{"drain_by": instant})
	return post(name, state(stateShelf), modelsPath+"/"+id+"/state", object{"state": "Retired", "deadline_ms": deadlineMS}, http.StatusOK, answer)
}

func activateModel(name, id string) exchange {
	return post(name, state(stateShelf), modelsPath+"/"+id+"/state", object{"state": "Active"}, http.StatusOK, shelvedAs("Active"))
}

func deleteModel(name, id string) exchange {
	e := get(name, state(stateShelf), modelsPath+"/"+id, nil)
	e.method, e.status, e.headers = http.MethodDelete, http.StatusNoContent, map[string]matchers.Matcher{"X-Correlation-Id": correlation}
	return e
}

func listEngines(name string) exchange {
	return get(name, state(stateReady), "/v1/catalog/engines", object{"engines": like([]any{})})
}

func putArtifact(name string, k known, body object) exchange {
	e := post(name, state(stateReady), "/v1/artifacts", body, http.StatusCreated, k.entry())
	e.headers = located("/v1/artifacts/" + k.id())
	return e
}

func listArtifacts(name, which string, query map[string]string) exchange {
	e := get(name, stateOf(stateStored, which), "/v1/artifacts", object{"artifacts": matchers.EachLike(artifacts[which].entry(), 1)})
	e.query = query
	return e
}

func noArtifacts(name string, query map[string]string) exchange {
	e := get(name, state(stateReady), "/v1/artifacts", object{"artifacts": []any{}})
	e.query = query
	return e
}

func showArtifact(name, which string) exchange {
	k := artifacts[which]
	return get(name, stateOf(stateStored, which), "/v1/artifacts/"+k.id(), k.entry())
}

func contentOf(name, which string) exchange {
	k := artifacts[which]
	e := get(name, stateOf(stateStored, which), "/v1/artifacts/"+k.id()+"/content", nil)
	e.content, e.media = []byte(k.content), k.media
	e.headers = map[string]matchers.Matcher{"Content-Type": matchers.S(k.media), "X-Correlation-Id": correlation}
	return e
}

// several is a call that takes more than one exchange.
func several(c call, more ...exchange) call {
	c.exchanges = append(c.exchanges, more...)
	return c
}

func sdkCatalogCalls() []call {
	const unknown = "no-such-model"
	missing := refusal(task.NotFound, false)
	plan, proof := artifacts["plan"], artifacts["proof"]
	return []call{
		sdkCall(addModel("an addition of a model", object{"id": shelf, "ref": shelfModel, "wait_ms": 20000}), func(t *testing.T, c *sdk.Client) {
			m, err := c.AddModel(t.Context(), &sdk.ModelRequest{ID: shelf, Ref: shelfModel, WaitMS: new(int64(20000))})
			require.NoError(t, err)
			require.Equal(t, sdk.ModelStateActive, m.State)
		}),
		sdkRefused(addModel("", object{"ref": "ftp://models.example/m.gguf"}).refused("an addition of what is no ref", 400, refusal(task.InvalidParams, false)),
			func(t *testing.T, c *sdk.Client) error {
				_, err := c.AddModel(t.Context(), &sdk.ModelRequest{Ref: "ftp://models.example/m.gguf"})
				return err
			}),
		sdkRefused(addModel("", object{"id": shelf, "ref": shelfModel, "digest": "sha256:" + strings.Repeat("0", 64), "wait_ms": 20000}).
			refused("an addition with another digest", 403, refusal(task.UntrustedArtifact, false)),
			func(t *testing.T, c *sdk.Client) error {
				_, err := c.AddModel(t.Context(), &sdk.ModelRequest{
					ID: shelf, Ref: shelfModel, Digest: "sha256:" + strings.Repeat("0", 64), WaitMS: new(int64(20000)),
				})
				return err
			}),
		sdkCall(listModels("a list of the active models", map[string]string{"state": "Active"}), func(t *testing.T, c *sdk.Client) {
			list, err := c.Models(t.Context(), sdk.ModelStateActive)
			require.NoError(t, err)
			require.Len(t, list, 1)
		}),
		sdkCall(showModel("a look at a model", shelf), func(t *testing.T, c *sdk.Client) {
			m, err := c.Model(t.Context(), shelf)
			require.NoError(t, err)
			require.Equal(t, 256, m.Metadata.CtxMax)
		}),
		sdkRefused(showModel("", unknown).refused("a look at an unknown model", 404, missing), func(t *testing.T, c *sdk.Client) error {
			_, err := c.Model(t.Context(), unknown)
			return err
		}),
		sdkCall(verifyModel("a check of a model", shelf), func(t *testing.T, c *sdk.Client) {
			v, err := c.VerifyModel(t.Context(), shelf)
			require.NoError(t, err)
			require.True(t, v.Verified)
		}),
		sdkCall(retireModel("a retirement", shelf, 60000), func(t *testing.T, c *sdk.Client) {
			m, err := c.RetireModel(t.Context(), shelf, time.Minute)
			require.NoError(t, err)
			require.Equal(t, sdk.ModelStateRetired, m.State)
			require.False(t, m.DrainBy.IsZero())
		}),
		sdkCall(activateModel("an activation", shelf), func(t *testing.T, c *sdk.Client) {
			m, err := c.ActivateModel(t.Context(), shelf)
			require.NoError(t, err)
			require.Equal(t, sdk.ModelStateActive, m.State)
		}),
		sdkCall(deleteModel("a removal of a model", shelf), func(t *testing.T, c *sdk.Client) { require.NoError(t, c.DeleteModel(t.Context(), shelf)) }),
		sdkRefused(deleteModel("", unknown).refused("a removal of an unknown model", 404, missing), func(t *testing.T, c *sdk.Client) error {
			return c.DeleteModel(t.Context(), unknown)
		}),
		sdkCall(listEngines("a list of the engines"), func(t *testing.T, c *sdk.Client) {
			_, err := c.Engines(t.Context())
			require.NoError(t, err)
		}),
		sdkCall(putArtifact("an artifact to be stored", plan, plan.body()), func(t *testing.T, c *sdk.Client) {
			a, err := c.PutArtifact(t.Context(), plan.request())
			require.NoError(t, err)
			require.Equal(t, plan.id(), a.ID)
		}),
		sdkRefused(putArtifact("", plan, with(plan.body(), object{"content": "#", "encoding": "base64"})).
			refused("an artifact that is not spelled as it says", 400, refusal(task.InvalidParams, false)), func(t *testing.T, c *sdk.Client) error {
			r := plan.request()
			r.Content = "#"
			r.Encoding = sdk.ArtifactRequestEncodingBase64
			_, err := c.PutArtifact(t.Context(), r)
			return err
		}),
		sdkCall(listArtifacts("a list of the plans of a task", "plan", map[string]string{"kind": "plan", "task_id": "planned", "limit": "1"}), func(t *testing.T, c *sdk.Client) {
			list, err := c.Artifacts(t.Context(), sdk.ArtifactFilter{Kind: sdk.ArtifactKindPlan, TaskID: "planned", Limit: 1})
			require.NoError(t, err)
			require.Len(t, list, 1)
		}),
		sdkRefused(get("", state(stateReady), "/v1/artifacts/sha256-"+strings.Repeat("0", 64), nil).refused("a look at an unknown artifact", 404, missing),
			func(t *testing.T, c *sdk.Client) error {
				_, err := c.Artifact(t.Context(), "sha256-"+strings.Repeat("0", 64))
				return err
			}),
		several(sdkCall(showArtifact("a download 1, the entry", "plan"), func(t *testing.T, c *sdk.Client) {
			_, body, err := c.ArtifactContent(t.Context(), plan.id())
			require.NoError(t, err)
			defer body.Close()
			text, err := io.ReadAll(body)
			require.NoError(t, err)
			require.Equal(t, plan.content, string(text))
		}), contentOf("a download 2, the bytes", "plan")),
		several(sdkCall(listArtifacts("a proof 1, the list", "proof", map[string]string{"kind": "proof", "task_id": proof.taskID, "limit": "1"}), func(t *testing.T, c *sdk.Client) {
			p, _, err := c.Proof(t.Context(), proof.taskID)
			require.NoError(t, err)
			require.EqualValues(t, seed, p.Seed)
		}), showArtifact("a proof 2, the entry", "proof"), contentOf("a proof 3, the bytes", "proof")),
	}
}

func cliCatalogCalls() []call {
	const failed = 1
	missing := refusal(task.NotFound, false)
	plan, proof := artifacts["plan"], artifacts["proof"]
	// The artifact's bytes come from stdin.
	said := known{sdk.ArtifactKindSummary, "text/plain", "cli-task", prompt}
	fetching := addModel("models add", object{"id": shelf, "ref": shelfModel})
	fetching.answer = with(shelvedAs("Active"), object{
		"state": matchers.Regex("Fetching", "^(Fetching|Active)$"), "digest": like(""), "verified": like(false), "size_bytes": count, "warnings": like([]any{}),
		"metadata": nil, "verified_at": nil,
	})
	return []call{
		cliCall("models add "+shelfModel+" --id "+shelf, 0, shelf, fetching),
		cliCall("models list --state Active", 0, shelf, listModels("models list", map[string]string{"state": "Active"})),
		cliCall("models", 0, "SERVED", listModels("models 1, the catalog", nil), listPools("models 2, what is served").in(state(stateShelf))),
		cliCall("models show "+shelf, 0, "llama", showModel("models show", shelf)),
		cliCall("models show no-such-model", failed, "NOT_FOUND", showModel("", "no-such-model").refused("models show of an unknown model", 404, missing)),
		cliCall("models verify "+shelf, 0, "sha256:", verifyModel("models verify", shelf)),
		cliCall("models retire "+shelf+" --deadline 1m", 0, "Retired", retireModel("models retire", shelf, 60000)),
		cliCall("models activate "+shelf, 0, "Active", activateModel("models activate", shelf)),
		cliCall("models delete "+shelf, 0, "deleted "+shelf, deleteModel("models delete", shelf)),
		cliCall("engines", 0, "ENGINE", listEngines("engines")),
		cliCall("artifacts --kind plan --task planned", 0, plan.id(), listArtifacts("artifacts", "plan", map[string]string{"kind": "plan", "task_id": "planned"})),
		cliCall("artifact put - --kind summary --task cli-task --media-type text/plain", 0, said.id(), putArtifact("artifact put", said, said.body())),
		cliCall("artifact get "+plan.id(), 0, plan.content, showArtifact("artifact get 1, the entry", "plan"), contentOf("artifact get 2, the bytes", "plan")),
		cliCall("proof "+proof.taskID, 0, "completed", listArtifacts("proof 1, the list", "proof", map[string]string{"kind": "proof", "task_id": proof.taskID, "limit": "1"}),
			showArtifact("proof 2, the entry", "proof"), contentOf("proof 3, the bytes", "proof")),
		cliCall("proof no-such-task", failed, "NOT_FOUND", noArtifacts("proof of an unknown task 1, the list", map[string]string{"kind": "proof", "task_id": "no-such-task", "limit": "1"}),
			get("", state(stateReady), "/v1/tasks/no-such-task", nil).refused("proof of an unknown task 2, the task", 404, missing)),
	}
}
