// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ORCH-3095
func TestEveryOperationOfTheContractIsRouted(t *testing.T) {
	f := setup(t)
	c := f.native.contract
	require.Len(t, c.operations, 35)
	planes := map[string]int{}
	for _, o := range c.operations {
		route, ok := f.native.routes.FindRoute(o.method, strings.ReplaceAll(o.path, "{id}", "x"))
		require.True(t, ok, o.id)
		require.Equal(t, o.name, route.Name())
		require.Equal(t, o.id, route.OperationID())
		planes[o.plane]++
	}
	require.Equal(t, map[string]int{"data": 9, "control": 12, "catalog": 7, "artifacts": 4, "ops": 3}, planes)
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
				require.True(t, has("properties"), at)
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
