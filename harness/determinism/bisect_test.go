// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/process"
)

// A request is answered by the model, and by one whose weights are a little different. Bisect runs it again on both and on a third pool, and names the model: the
// pools have the same engine, and another number of threads changes nothing.
//
// LO-942, LO-940
func TestBisectNamesThePartThatChangedAnAnswer(t *testing.T) {
	dir := t.TempDir()
	changed := filepath.Join(dir, "changed.gguf")
	require.NoError(t, rewritten(shared.Model, changed, func(data []byte) []byte {
		for i := len(data) / 2; i < len(data)*3/4; i += 32 {
			data[i|1] ^= 0x02 // the highest bit of a weight's mantissa
		}
		return data
	}))
	require.NoError(t, process.Build(t.Context(), shared.Root, dir+"/", "./cmd/llama-orch"))
	d := serve(t, "with another model", shared.config(
		pool{id: "one", provisioning: "{mode: builtin}"}, pool{id: "other", provisioning: "{mode: builtin}", model: changed},
		pool{id: "two", provisioning: "{mode: builtin}", more: "threads: 2"},
	), nil)
	for _, id := range []string{"one", "other", "two"} {
		ready(t, d, id)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "llama-orch"), append([]string{"--addr", d.URL, "--json"}, args...)...)
		out, err := cmd.Output()
		return string(out), err
	}
	c := cases(t)[0]
	a, err := d.answer(t.Context(), c, "one", "a")
	require.NoError(t, err)
	b, err := d.answer(t.Context(), c, "other", "b")
	require.NoError(t, err)
	require.NotEqual(t, a.Text(), b.Text(), "the changed weights change nothing: change more of them")

	text, err := run("bisect", "a", "b")
	require.NoError(t, err, text)
	var found struct {
		Same     bool                           `json:"same"`
		Suspects []string                       `json:"suspects"`
		Differ   []struct{ Name string }        `json:"differ"`
		Runs     []struct{ Like, Where string } `json:"runs"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &found))
	require.False(t, found.Same)
	require.Equal(t, []string{"model_digest"}, found.Suspects)
	require.Equal(t, []struct{ Name string }{{"model_digest"}}, found.Differ)
	require.Len(t, found.Runs, 5, "the two, and one on each pool")
	likes := map[string]int{}
	for _, r := range found.Runs {
		likes[r.Like]++
	}
	require.Equal(t, map[string]int{"a": 3, "b": 2}, likes)

	text, err = run("verify", "a", "b")
	require.NoError(t, err, text)
	text, err = run("bisect", "a", "a")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text), &found))
	require.True(t, found.Same)
}
