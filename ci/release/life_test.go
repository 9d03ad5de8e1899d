// SPDX-License-Identifier: GPL-3.0-or-later

//go:build packaged

package release

import (
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/stretchr/testify/require"
)

// there is the repository, of which the targets are run.
func there(t *testing.T) context.Context {
	t.Helper()
	t.Chdir("../..")
	return t.Context()
}

var at = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// LO-639: what is installed, upgraded with tasks in flight, backed up, removed and purged, by dpkg itself.
func TestTheLifeOfAPackage(t *testing.T) {
	ctx := there(t)
	require.Zero(t, os.Geteuid(), "this needs root: it mounts an overlay in a namespace of its own, and changes nothing of the machine")
	dir := t.TempDir()
	var debs []string
	for _, version := range []string{"1.0.0", "1.0.1"} {
		made, err := source{version: version, commit: "abc", at: at}.packages(ctx, filepath.Join(dir, version))
		require.NoError(t, err)
		require.Len(t, made, 2)
		debs = append(debs, made[1])
	}
	out, err := exec.CommandContext(ctx, "unshare", "-m", "-n", "bash", "ci/release/testdata/life.sh", debs[0], debs[1], "1.0.0", "1.0.1").CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "== done")
}

// LO-637, LO-638: another checkout of the same commit makes the same bytes, packages, archive, bills and sums.
func TestTwoReleasesOfOneCommitAreTheSame(t *testing.T) {
	ctx := there(t)
	s := source{version: "1.0.0", commit: "abc", at: at}
	dir := t.TempDir()
	first, second, elsewhere := filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "elsewhere")
	require.NoError(t, s.release(ctx, first, []string{runtime.GOARCH}))
	list, err := exec.CommandContext(ctx, "sh", "-c", `mkdir "$0" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0"`, elsewhere).CombinedOutput()
	require.NoError(t, err, "%s", list)
	t.Chdir(elsewhere)
	require.NoError(t, s.release(ctx, second, []string{runtime.GOARCH}))
	want, err := os.ReadFile(filepath.Join(first, sumsName))
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(second, sumsName))
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	require.Len(t, got, len(want))
	check := exec.CommandContext(ctx, "sha256sum", "-c", sumsName)
	check.Dir = first
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// LO-638: a key with a password, which takes seconds on purpose.
func TestAKeyWithAPassword(t *testing.T) {
	public, secret, err := minisign.GenerateKey(rand.Reader)
	require.NoError(t, err)
	locked, err := minisign.EncryptKey("a password", secret)
	require.NoError(t, err)
	key := filepath.Join(t.TempDir(), "throwaway.key")
	require.NoError(t, os.WriteFile(key, locked, 0o600))
	_, err = secretKey(key, "another")
	require.Error(t, err)
	got, err := secretKey(key, "a password")
	require.NoError(t, err)
	require.True(t, public.Equal(got.Public()))
}
