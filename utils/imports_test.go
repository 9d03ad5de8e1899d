// SPDX-License-Identifier: GPL-3.0-or-later

// Package utils_test holds what the tree below utils/ must be as a whole.
package utils_test

import (
	"go/build"
	"io/fs"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// forbidden is what would be a way to the server beside the SDK. The linter holds it too (.golangci.yml, depguard).
var forbidden = regexp.MustCompile(`^(net/http|github\.com/llama-orch/llama-orch/(service|gen|cmd|harness|ci)(/.*)?)$`)

// LO-922
func TestTheUtilsReachTheServerThroughTheSDKAlone(t *testing.T) {
	seen := 0
	require.NoError(t, filepath.WalkDir(".", func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		p, err := build.Default.ImportDir(dir, 0)
		if _, none := err.(*build.NoGoError); none { //nolint:errorlint // go/build returns it as it is
			return nil
		}
		require.NoError(t, err)
		for _, path := range p.Imports {
			require.NotRegexp(t, forbidden, path, "%s imports it", dir)
			seen++
		}
		return nil
	}))
	require.Positive(t, seen)
	require.Regexp(t, forbidden, "github.com/llama-orch/llama-orch/service/config")
	require.NotRegexp(t, forbidden, "github.com/llama-orch/llama-orch/sdk")
}
