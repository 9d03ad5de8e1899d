// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3095
func TestEveryOperationOfTheContractIsRouted(t *testing.T) {
	f := setup(t)
	c := f.native.contract
	require.Len(t, c.operations, 38)
	planes := map[string]int{}
	for _, o := range c.operations {
		route, ok := f.native.routes.FindRoute(o.method, strings.ReplaceAll(o.path, "{id}", "x"))
		require.True(t, ok, o.id)
		require.Equal(t, o.name, route.Name())
		require.Equal(t, o.id, route.OperationID())
		planes[o.plane]++
	}
	require.Equal(t, map[string]int{"data": 9, "control": 15, "catalog": 7, "artifacts": 4, "ops": 3}, planes)
	for name := range live {
		require.NotNil(t, c.byName[name], name)
	}
}

// The examples are what people copy: each must be what the server takes.
//
// LO-102
func TestTheContractsRequestExamplesAreAccepted(t *testing.T) {
	f := setup(t)
	c := f.native.contract
	seen := 0
	for path := range c.root["paths"].(map[string]any) {
		post, ok := dig[map[string]any](c.root, "paths", path, "post", "requestBody", "content", "application/json")
		if !ok {
			continue
		}
		var values []any
		if v, ok := post["example"]; ok {
			values = append(values, v)
		}
		for _, e := range mapOf(post["examples"]) {
			values = append(values, mapOf(e)["value"])
		}
		require.NotEmpty(t, values, path)
		for _, v := range values {
			body, err := json.Marshal(v)
			require.NoError(t, err)
			require.Empty(t, c.explainBody(mapOf(post["schema"]), body), path)
			if path == "/v1/tasks" {
				require.Equal(t, http.StatusAccepted, f.do("POST", path, string(body)).StatusCode, "%s", body)
			}
			seen++
		}
	}
	require.Positive(t, seen)
}

func mapOf(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// Every value that a client can send is bounded, every request body is closed, and every answer has its limits.
//
// OC-CTRL-2030
func TestTheContractBoundsEverything(t *testing.T) {
	c := setup(t).native.contract
	seen := 0
	var walk func(at string, node any)
	walk = func(at string, node any) {
		switch node := node.(type) {
		case []any:
			for i, v := range node {
				walk(fmt.Sprintf("%s[%d]", at, i), v)
			}
		case map[string]any:
			has := func(keys ...string) bool {
				for _, key := range keys {
					if _, ok := node[key]; ok {
						return true
					}
				}
				return false
			}
			switch kind, _ := node["type"].(string); kind {
			case "integer", "number":
				require.True(t, has("minimum") && has("maximum"), at)
			case "string":
				require.True(t, has("enum", "maxLength") || node["format"] == "uuid" || node["format"] == "date-time" || node["format"] == "binary", at)
			case "array":
				require.True(t, has("maxItems"), at)
			case "object":
				require.True(t, has("properties", "maxProperties"), at)
			}
			seen++
			for key, v := range node {
				if key != "example" && key != "examples" {
					walk(at+"/"+key, v)
				}
			}
		}
	}
	walk("components", c.root["components"])
	walk("paths", c.root["paths"])
	require.Greater(t, seen, 500)
	for _, o := range c.operations {
		if o.body != nil {
			require.Equal(t, false, c.resolve(o.body)["additionalProperties"], o.id)
		}
	}
}

// Each operation names the codes that it answers with, and has an answer for each of their statuses. The answer of a status names all codes that may
// come with it.
//
// LO-845, OC-CTRL-2030
func TestEveryRefusalIsInTheContract(t *testing.T) {
	c := setup(t).native.contract
	byStatus := map[string][]any{}
	for _, code := range task.Codes() {
		status := strconv.Itoa(gate.Refuse(task.Errorf(code, "x")).Status)
		if code != task.MethodNotAllowed && code != task.NotImplemented && !gate.StreamOnly(code) { // those are not of an operation
			byStatus[status] = append(byStatus[status], string(code))
		}
	}
	for path, item := range c.root["paths"].(map[string]any) {
		for method, v := range mapOf(item) {
			raw := mapOf(v)
			if raw["operationId"] == nil {
				continue
			}
			at := method + " " + path
			codes, _ := raw["x-error-codes"].([]any)
			require.Subset(t, codes, []any{"INVALID_PARAMS", "INTERNAL"}, at)
			if security, ok := raw["security"].([]any); !ok || len(security) > 0 {
				require.Subset(t, codes, []any{"MISSING_TOKEN", "BAD_TOKEN", "POLICY_DENIED"}, at)
			}
			if raw["requestBody"] != nil {
				require.Subset(t, codes, []any{"TOO_LARGE", "ADMISSION_REJECT"}, at)
			}
			wanted := map[string]bool{}
			for _, code := range codes {
				status := strconv.Itoa(gate.Refuse(task.Errorf(task.Code(code.(string)), "x")).Status)
				require.Contains(t, byStatus[status], code, at)
				wanted[status] = true
			}
			if raw["operationId"] == "getArtifactContent" {
				wanted["412"], wanted["416"] = true, true
			}
			for status, answer := range mapOf(raw["responses"]) {
				if status < "400" {
					continue
				}
				require.True(t, wanted[status], "%s: %s", at, status)
				delete(wanted, status)
				shared := c.resolve(mapOf(answer))
				all, _ := dig[[]any](shared, "content", "application/json", "schema", "allOf")
				named, _ := dig[[]any](all[1], "properties", "code", "enum")
				if status != "412" && status != "416" {
					require.ElementsMatch(t, byStatus[status], named, "%s: %s", at, status)
				}
			}
			require.Empty(t, wanted, at)
		}
	}
}
