// SPDX-License-Identifier: GPL-3.0-or-later

package build

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheStampOfTheBinaries(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GIT_CEILING_DIRECTORIES", dir)
	t.Chdir(dir)
	version, commit, err := stamp(t.Context())
	require.NoError(t, err)
	require.Equal(t, "dev", version)
	require.Equal(t, "unknown", commit)

	git := func(args ...string) string {
		t.Helper()
		args = append([]string{"-c", "user.name=t", "-c", "user.email=t@localhost"}, args...)
		out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	git("init", "-q")
	git("commit", "-q", "--allow-empty", "-m", "one")
	git("tag", "-a", "v0.1.0", "-m", "v0.1.0")
	version, commit, err = stamp(t.Context())
	require.NoError(t, err)
	require.Equal(t, "v0.1.0", version)
	require.Equal(t, git("rev-parse", "HEAD"), commit)
}
