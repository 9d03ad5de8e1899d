// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/flow/placement"
	"github.com/llama-orch/llama-orch/service/supply/catalog"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-844
func TestTheNamesOfPoolsGoBeforeTheCatalogs(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	file, err := filepath.Abs("../../models/haiku/haiku.gguf")
	require.NoError(t, err)
	shelf := o.operator.shelf
	for _, id := range []string{"m-a", "label-a", "other"} {
		_, err := shelf.Create(t.Context(), catalog.Request{ID: id, Ref: "file:" + file})
		require.NoError(t, err)
		seen := candidates{Fleet: o.operator.Fleet, schedule: o.schedule}
		named, err := seen.Resolve(task.Request{ModelRef: id})
		if id == "other" {
			require.True(t, task.HasCode(err, task.ModelNotFound), "no pool serves the file itself: %v", err)
		} else {
			require.NoError(t, err)
			require.Equal(t, id, named.ModelRef)
		}
		_, err = o.operator.Explain(t.Context(), task.Request{ModelRef: id, Workload: task.Completion})
		require.Equal(t, id == "other", task.HasCode(err, task.ModelNotFound), "%v", err)
		require.NoError(t, shelf.Delete(t.Context(), id))
	}
}

// LO-428: aliases, wishes, any name, and what is suggested.
func TestNamesOfModels(t *testing.T) {
	_, url := engineOf(t)
	o := operate(t, external("a", url))
	live := o.operator.config()
	half := 0.5
	live.Aliases = map[string]config.Alias{
		"gpt-4o": {Model: "m-a", Params: config.Params{Default: config.Settings{Temperature: &half}}}, "big": {Model: "m-a@32k"}, "by-ref": {Model: "label-a"},
	}
	o.operator.Setup.now.Store(&live)
	seen := candidates{Fleet: o.operator.Fleet, schedule: o.schedule}
	for name, want := range map[string]task.Request{
		"m-a":        {ModelRef: "m-a"},
		"gpt-4o":     {ModelRef: "m-a", Params: task.Params{Temperature: &half}},
		"gpt-4o@q4":  {ModelRef: "m-a", Params: task.Params{Temperature: &half}, Quantisation: "q4"},
		"big":        {ModelRef: "m-a", Ctx: 32768},
		"by-ref":     {ModelRef: "label-a"},
		"m-a@4096":   {ModelRef: "m-a", Ctx: 4096},
		"label-a@8k": {ModelRef: "label-a", Ctx: 8192},
	} {
		got, err := seen.Resolve(task.Request{ModelRef: name})
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	_, err := seen.Resolve(task.Request{ModelRef: "gpt-4"})
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
	require.ErrorContains(t, err, "did you mean gpt-4o? Otherwise use one of big, by-ref, gpt-4o, m-a")
	_, err = seen.Resolve(task.Request{ModelRef: "nobody@32k"})
	require.True(t, task.HasCode(err, task.ModelNotFound), "%v", err)
	live.Aliases["*"] = config.Alias{Model: "m-a"}
	got, err := seen.Resolve(task.Request{ModelRef: "claude-sonnet"})
	require.NoError(t, err)
	require.Equal(t, "m-a", got.ModelRef)
}

// LO-428: what the weights of a pool's own file are in, the file says.
func TestAWishForAQuantisationLooksIntoAPoolsFile(t *testing.T) {
	_, url := engineOf(t)
	file := haikus(t, "own.gguf")[0]
	o := operate(t, external("a", url), onFile(file))
	seen := candidates{Fleet: o.operator.Fleet, schedule: o.schedule}
	route := func(name string) (placement.Routing, error) {
		q, err := seen.Resolve(task.Request{ModelRef: name, Workload: task.Completion, Placement: task.Placement{Mode: task.Auto}})
		require.NoError(t, err)
		var pools []placement.Pool
		for _, p := range seen.Snapshot(task.Interactive) {
			pools = append(pools, p.Pool)
		}
		return placement.Route(pools, q)
	}
	for _, name := range []string{"m-b@f16", "m-b@F", "m-b"} {
		got, err := route(name)
		require.NoError(t, err, name)
		require.Equal(t, "b", got.PoolID)
	}
	_, err := route("m-b@q8_0")
	require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
	require.ErrorContains(t, err, "has weights in F16, not in q8_0")
	_, err = route("m-a@f16")
	require.ErrorContains(t, err, "has weights in something unknown, not in f16", "its file is on another machine")

	require.NoError(t, os.WriteFile(file, []byte("GGUF"), 0o600))
	_, err = route("m-b@f16")
	require.ErrorContains(t, err, "something unknown", "the file is another one by now")
}
