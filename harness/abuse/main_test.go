// SPDX-License-Identifier: GPL-3.0-or-later

package abuse_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/process"
)

// program is the daemon, which is built once for all tests.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "llama-orch-abuse-")
	if err == nil {
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "orchestratord")
		err = process.Build(context.Background(), "../..", program, "./cmd/orchestratord")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// built returns a test's own copy of the daemon: some tests change it, and others look for its processes by its path.
func built(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	exe := filepath.Join(dir, "orchestratord")
	content, err := os.ReadFile(program)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(exe, content, 0o700))
	return exe
}
