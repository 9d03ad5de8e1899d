// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// No other target runs a test that stands behind the tag, so that a package which this one forgets would be tested nowhere.
func TestEveryTestOnLlamaServerIsRun(t *testing.T) {
	tagged := regexp.MustCompile(`(?m)^//go:build llamaserver$`)
	root := filepath.Join("..", "..")
	found := map[string]bool{}
	require.NoError(t, filepath.WalkDir(filepath.Join(root, "service"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !tagged.Match(text) {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		found[dir] = true
		return err
	}))
	require.NotEmpty(t, found)
	for dir := range found {
		require.True(t, slices.Contains(onServer, dir), "%s has tests that need llama-server: add it to the target's packages", dir)
	}
	for _, dir := range onServer {
		require.True(t, found[dir], "%s has no test that needs llama-server", dir)
	}
}
