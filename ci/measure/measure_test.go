// SPDX-License-Identifier: GPL-3.0-or-later

package measure

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEachPackageWithABenchmarkIsFoundOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	out, err := exec.CommandContext(t.Context(), "git", "init", "-q").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, text := range map[string]string{
		"a/one_test.go":   "func BenchmarkOne(b *testing.B) {}\n",
		"a/two_test.go":   "func BenchmarkTwo(b *testing.B) {}\n",
		"a/b/one_test.go": "func BenchmarkOne(b *testing.B) {}\n",
		"c/one_test.go":   "func TestOne(t *testing.T) {}\n",
		"d/one.go":        "func BenchmarkOne() {}\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	}
	packages, err := benchmarked(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"./a", "./a/b"}, packages)
}
