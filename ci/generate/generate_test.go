// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsStaleIsNamed(t *testing.T) {
	have := map[string][]byte{"same.go": []byte("a"), "edited.go": []byte("b"), "dropped.go": []byte("c")}
	want := map[string][]byte{"same.go": []byte("a"), "edited.go": []byte("B"), "new/one.go": []byte("d")}
	require.Equal(t, []string{"gen/dropped.go", "gen/edited.go", "gen/new/one.go"}, differences("gen", have, want))
	require.Empty(t, differences("gen", want, want))
}

// ogen sees one error for all, and no answer that handlers write themselves. Everything else stays, in its order.
//
// LO-845
func TestTheGeneratorSeesOneErrorForAll(t *testing.T) {
	const before = `
paths:
  /b:
    parameters: [{name: id}]
    get:
      operationId: read
      responses:
        "200": {content: {"*/*": {schema: {type: string}}}}
        "206": {content: {"*/*": {schema: {type: string}}}}
        "404": {$ref: "#/components/responses/NotFound"}
components:
  responses:
    NotFound: {description: no}
  schemas: {z: {type: string}, a: {type: string}}
`
	made, err := view([]byte(before))
	require.NoError(t, err)
	text := string(made)
	require.NotContains(t, text, `"206"`)
	require.NotContains(t, text, `"404"`)
	require.NotContains(t, text, `*/*`)
	require.Regexp(t, `(?s)"200": .*application/octet-stream.*default:.*responses/Error`, text)
	require.Regexp(t, `(?s)NotFound: .*Error:.*schemas: .*z: .*a: `, text)

	_, err = view([]byte("paths: {}"))
	require.ErrorContains(t, err, "no shared answers")
}

func TestATreeIsReadWhole(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "in"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "top"), []byte("1"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in", "deep"), []byte("2"), 0o600))
	files, err := readTree(dir)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"top": []byte("1"), "in/deep": []byte("2")}, files)

	_, err = readTree(filepath.Join(dir, "missing"))
	require.ErrorContains(t, err, "run `go tool mage gen`")
}

// What the SDK's types are made from: scalars are plain, what is optional is a pointer only where its zero says something, and the lists, the events and
// the free JSON have types of their own.
//
// LO-901
func TestTheSDKSeesPlainTypes(t *testing.T) {
	const document = `
info: {title: t, version: "1"}
components:
  schemas:
    PoolID: {type: string, pattern: "^a$"}
    EndEvent: {type: object, properties: {finish_reason: {type: string, enum: [stop, tool_calls]}}}
    MetricsEvent: {type: object, properties: {phase: {type: string, enum: [queued]}}}
    Message: {type: object, properties: {role: {type: string, enum: [user]}, content: {oneOf: [{type: string}]}}}
    Part: {type: object, properties: {media_type: {type: string, enum: [image/png]}}}
    CapabilityPool: {type: object, properties: {features: {type: array, items: {type: string, enum: [x]}}}}
    Pool: {type: object, required: [id], properties: {id: {$ref: "#/components/schemas/PoolID"}, features: {type: array, items: {type: string, enum: [x]}}}}
    ModelMetadata: {type: object, properties: {features: {type: array, items: {type: string, enum: [x]}}}}
    Reasoning: {type: object, properties: {a: {type: string}}}
    Ask:
      type: object
      additionalProperties: false
      required: [must]
      properties:
        must: {type: integer, minimum: 0}
        seed: {type: integer, minimum: 0}
        tokens: {type: integer, minimum: 1}
        top: {type: integer, minimum: 0, description: Default 0.}
        on: {type: boolean}
        off: {type: boolean, default: false}
        pool: {allOf: [{$ref: "#/components/schemas/PoolID"}], description: Which.}
        wish: {$ref: "#/components/schemas/Reasoning"}
        end: {$ref: "#/components/schemas/EndEvent"}
        any: {description: JSON.}
`
	text, err := plainView([]byte(document))
	require.NoError(t, err)
	var view struct {
		Components struct {
			Schemas map[string]struct {
				Enum       []string
				Names      []string `json:"x-enum-varnames"`
				Properties map[string]map[string]any
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &view))
	made := view.Components.Schemas
	require.NotContains(t, made, "EndEvent", "the event stands for it")
	require.NotContains(t, made, "PoolID")
	require.NotContains(t, made, "Reasoning", "an event has the name")
	require.Contains(t, made, "ReasoningWish")
	require.Equal(t, []string{"Stop", "ToolCalls"}, made["FinishReason"].Names)
	ask := made["Ask"].Properties
	pointers := map[string]bool{}
	for name, p := range ask {
		_, pointers[name] = p["x-go-type-skip-optional-pointer"]
	}
	require.Equal(t, map[string]bool{
		"must": false, "seed": true, "tokens": false, "top": false, "on": true, "off": false, "pool": false, "wish": true, "end": true, "any": false,
	}, pointers)
	require.Equal(t, "string", ask["pool"]["type"])
	require.Equal(t, "Which.", ask["pool"]["description"])
	require.Equal(t, "End", ask["end"]["x-go-type"])
	require.Equal(t, "json.RawMessage", ask["any"]["x-go-type"])
	require.Equal(t, "Content", made["Message"].Properties["content"]["x-go-type"])

	_, err = plainView([]byte(strings.Replace(document, "MetricsEvent: {type: object, properties: {phase", "MetricsEvent: {type: object, properties: {other", 1)))
	require.ErrorContains(t, err, "no enum at MetricsEvent.phase any more")
	_, err = plainView([]byte("info: {}"))
	require.ErrorContains(t, err, "no schemas")
}

const small = `
info: {title: t, version: "1"}
paths:
  /v1/tasks:
    post:
      operationId: createTask
      summary: Submit
      requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Ask"}}}}
      responses: {"202": {content: {application/json: {schema: {$ref: "#/components/schemas/Task"}}}}}
    get:
      operationId: listTasks
      summary: List
      parameters: [{name: state, in: query, schema: {$ref: "#/components/schemas/State"}}]
      responses: {"200": {content: {"*/*": {schema: {type: string}}}}}
  /v1/pools/{id}:
    parameters: [{$ref: "#/components/parameters/PoolID"}]
    delete: {operationId: dropPool, summary: Drop, responses: {"204": {description: gone}}}
    get:
      operationId: streamTask
      summary: Follow
      responses: {"200": {content: {text/event-stream: {x-sse-data: {tool_call: {$ref: "#/components/schemas/Task"}, error: {}}}}}}
components:
  parameters:
    PoolID: {name: id, in: path, required: true, schema: {$ref: "#/components/schemas/PoolID"}}
  schemas:
    PoolID: {type: string}
    ModelRef: {type: string}
    State: {type: string, enum: [on, off]}
    Ask:
      type: object
      additionalProperties: false
      required: [model_ref]
      properties:
        model_ref: {$ref: "#/components/schemas/ModelRef"}
        content: {oneOf: [{type: string}, {type: array, items: {$ref: "#/components/schemas/Task"}}]}
    Task: {type: object, description: One., properties: {model_ref: {$ref: "#/components/schemas/ModelRef"}, weights: {type: object, additionalProperties: {type: number}}}}
`

// LO-946
func TestPythonsTypesAndMethods(t *testing.T) {
	types, err := pythonTypes([]byte(small))
	require.NoError(t, err)
	for _, part := range []string{
		"\nState = Literal[\"on\", \"off\"]\n",
		"\n\nclass Ask(TypedDict):\n    model_ref: Model\n    content: NotRequired[Union[str, list[Task]]]\n",
		"\n\nclass Task(TypedDict):\n    # One.\n    model_ref: NotRequired[str]\n    weights: NotRequired[dict[str, float]]\n",
		"class ToolCallFrame(NamedTuple):\n    id: str\n    data: Task\n    name: Literal[\"tool_call\"] = \"tool_call\"\n",
		"Event = Union[ToolCallFrame]\n",
	} {
		require.Contains(t, string(types), part)
	}
	methods, err := pythonMethods([]byte(small))
	require.NoError(t, err)
	for _, part := range []string{
		"def create_task(self, request: Ask) -> Task:\n        \"\"\"Submit.\"\"\"\n        answer: Task = self._json(\"POST\", \"/v1/tasks\", {}, request)\n",
		"def list_tasks(self, *, state: Optional[State] = None) -> bytes:",
		"def drop_pool(self, id: PoolID) -> None:\n        \"\"\"Drop.\"\"\"\n        self._read(\"DELETE\", f\"/v1/pools/{_at(id)}\", {})\n",
	} {
		require.Contains(t, string(methods), part)
	}
	require.NotContains(t, string(methods), "stream_task")
	_, err = pythonTypes([]byte(strings.Replace(small, "{type: number}}", "{type: object}}", 1)))
	require.ErrorContains(t, err, "Task.weights has the type object")
}

// LO-947
func TestTypeScriptsRequestsNameAServedModel(t *testing.T) {
	made, err := typescriptView([]byte(small))
	require.NoError(t, err)
	require.Regexp(t, `(?s)Ask:.*model_ref: *(\{)?"?\$ref"?: "?#/components/schemas/ServedModel.*Task:.*#/components/schemas/ModelRef.*ServedModel: `, string(made))
}
