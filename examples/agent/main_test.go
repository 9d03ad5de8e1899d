// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/fs"
)

// model calls the tool for each of its paths, and then says what it was told last.
type model struct{ paths []string }

func (m *model) Run(_ context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		if len(m.paths) == 0 {
			_ = yield(sdk.Token{Text: r.Messages[len(r.Messages)-1].Content.Text}, nil) && yield(sdk.End{}, nil)
			return
		}
		call := sdk.Call{ID: "c", Name: "read", Arguments: `{"path":"` + m.paths[0] + `"}`}
		m.paths = m.paths[1:]
		yield(sdk.End{ToolCalls: []sdk.Call{call}}, nil)
	}
}

// LO-917, LO-911: harness/program runs the whole program against a daemon.
func TestTheAgentReadsItsFolderAlone(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "colour.txt"), []byte("teal"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret.txt"), []byte("hush"), 0o600))
	root, err := fs.Open(folder, fs.Limits{})
	require.NoError(t, err)
	defer func() { require.NoError(t, root.Close()) }()
	result, err := ask(t.Context(), &model{paths: []string{"../secret.txt", "colour.txt"}}, root, "m", "What colour is it?")
	require.NoError(t, err)
	require.Equal(t, "teal", result.Answer.Text)
	require.Len(t, result.Calls, 2)
	require.True(t, result.Calls[0].Failed)
	require.NotContains(t, result.Calls[0].Result, "hush")
}
