// SPDX-License-Identifier: GPL-3.0-or-later

package config_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

// LO-843: figures with which an engine would crash are errors of the file, with their place and what to write.
func TestFiguresThatNoEngineRunsWith(t *testing.T) {
	for _, c := range []struct{ pool, args, want string }{
		{"ctx: 1", "", "c.yaml:1:22: ctx is 1 tokens, fewer than the 32 that an engine needs"},
		{"ctx: 31", "", "ctx is 31 tokens"},
		{"ctx: -1", "", "ctx"},
		{"ctx: 32", "", ""},
		{"ctx: 0", "", ""},
		{"threads: 0", "", ""},
		{"threads: 1024", "", ""},
		{"threads: 10000", "", "threads"},
		{"threads: -1", "", "threads"},
		{"slots: 0", "", "slots"},
		{"ctx: 16777216, slots: 256", "", "more than an engine can count"},
		{"ctx: 8192, slots: 256", "", ""},
		{"slots: 2", `"-b", "0"`, "-b is 0, and has to be from 1 to"},
		{"slots: 2", `"--batch-size=0"`, "--batch-size is 0"},
		{"slots: 2", `"-ub", "-4"`, "-ub is -4"},
		{"slots: 2", `"-t", "0"`, "-t is 0, and has to be from 1 to 1024"},
		{"slots: 2", `"--threads", "-1"`, ""},
		{"slots: 2", `"-c", "1"`, "-c is 1, and has to be from 32"},
		{"slots: 2", `"-c", "0"`, ""},
		{"slots: 2", `"--ctx-size", "many"`, `--ctx-size takes a whole number, not "many"`},
		{"slots: 2", `"--parallel"`, `--parallel takes a whole number, not ""`},
		{"slots: 2", `"-fa", "-b", "512", "-v"`, ""},
	} {
		text := "pools: [{id: a, " + c.pool + ", model: {ref: \"file:a.gguf\"}, device: cpu, provisioning: {mode: binary, path: llama-server, args: [" + c.args + "]}}]\n"
		_, err := config.Parse("c.yaml", []byte(text), environ())
		if c.want == "" {
			require.NoError(t, err, "%s %s", c.pool, c.args)
			continue
		}
		e, ok := errors.AsType[*config.Error](err)
		require.True(t, ok, "%s %s is accepted", c.pool, c.args)
		require.Len(t, e.Problems, 1, "%v", err)
		require.ErrorContains(t, err, c.want)
		require.NotEmpty(t, e.Problems[0].Remedy)
	}
}
