// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
)

// FuzzLogLine: whatever stands in a line of the log, it is one line on a terminal, and moves no cursor.
//
// LO-623, LO-861
func FuzzLogLine(f *testing.F) {
	f.Add([]byte(`{"ts":"2026-01-02T03:04:05Z","level":"info","logger":"app","msg":"a\u001b[2Jb","human":"x\ny","task":"t1","z":["a\rb"]}`))
	f.Add([]byte(`{"level":"\u001b","logger":"\u0007","queue_position":0,"\n":"\u2028"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		line := sdk.LogLine{JSON: raw}
		if json.Unmarshal(raw, &line) != nil {
			return
		}
		shown := logLine(&line, false)
		require.False(t, strings.ContainsAny(shown, "\n\r\x1b\a\b"), "%q", shown)
	})
}

// FuzzFiles: whatever is in the files that the command line is given, each is read or refused.
//
// LO-937, LO-861
func FuzzFiles(f *testing.F) {
	f.Add([]byte(`{"form":"`+snapshotForm+`","pools":[{"id":"a","ctx":3},{"id":"a"}],"features":["x"]}`), []byte(`{"form":"`+snapshotForm+`","pools":[{"id":"b"}],"features":{"x":1}}`))
	f.Add([]byte(`[{"name":"weather","parameters":{"type":"object"}}]`), []byte(`[]`))
	s := newScrubber(func(string) string { return "" }, []string{"A_TOKEN=secret-of-mine"}, nil)
	f.Fuzz(func(t *testing.T, one, other []byte) {
		before, err := parseSnapshot(one, "a")
		if after, wrong := parseSnapshot(other, "b"); err == nil && wrong == nil {
			_ = differences("", before, after)
			require.Empty(t, differences("", before, before))
		}
		_, _ = toolsOf(one)
		if clean, err := s.scrub(one); err == nil {
			require.True(t, json.Valid(clean))
			require.NotContains(t, string(clean), "secret-of-mine")
		}
	})
}
