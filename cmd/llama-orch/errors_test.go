// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// LO-646: what a code stands for is said without a server, and a code that is misspelled is found.
func TestErrorsAreExplained(t *testing.T) {
	const nobody = "http://127.0.0.1:1"
	got := call(t.Context(), nobody, "", "errors", "pool-unready")
	require.Zero(t, got.code)
	require.Contains(t, got.out, "POOL_UNREADY, HTTP status 503\n\n")
	require.Contains(t, got.out, "llama-orch pool resume")
	for line := range strings.Lines(got.out) {
		require.LessOrEqual(t, utf8.RuneCountInString(line), longestLine+1)
	}

	got = call(t.Context(), nobody, "", "errors", "--json")
	require.Zero(t, got.code)
	var all struct {
		Errors []struct {
			Code, Text string
			Status     int
		}
	}
	require.NoError(t, json.Unmarshal([]byte(got.out), &all))
	require.Greater(t, len(all.Errors), 25)

	got = call(t.Context(), nobody, "", "errors", "POOL_UNREDY")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.err, "did you mean POOL_UNREADY?")
	got = call(t.Context(), nobody, "", "errors", "xyzzy")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.err, "lists them")
}

func TestProseIsWrapped(t *testing.T) {
	require.Equal(t, "one two\nthree\nfour", wrap("one two\n three four", 8))
	require.Equal(t, "a-word-longer-than-the-line\nb", wrap("a-word-longer-than-the-line b", 5))
	require.Empty(t, wrap(" ", 10))
}

// LO-646: an error that names nothing to run leads to what its code stands for; one that does is not made longer.
func TestAnErrorLeadsToItsCode(t *testing.T) {
	for said, more := range map[string]bool{"it is not there": true, "it is not there: GET /v1/tasks lists what is": false} {
		server := refusing(t, &gen.ErrorStatusCodeWithHeaders{StatusCode: 404, Response: gen.Error{Code: gen.ErrorCodeNOTFOUND, Message: said}})
		got := call(t.Context(), server, "", "task", "x")
		require.Equal(t, more, strings.Contains(got.err, "hint: `llama-orch errors NOT_FOUND` says more\n"), got.err)
	}
}
