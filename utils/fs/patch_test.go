// SPDX-License-Identifier: GPL-3.0-or-later

package fs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const poem = "one\ntwo\nthree\nfour\nfive\nsix\n"

// LO-911
func TestADiffIsApplied(t *testing.T) {
	for _, c := range []struct{ name, diff, want string }{
		{"as git writes it", "diff --git a/poem b/poem\nindex 1..2 100644\n--- a/poem\n+++ b/poem\n@@ -1,3 +1,3 @@ head\n one\n-two\n+2\n three\n", "one\n2\nthree\nfour\nfive\nsix\n"},
		{"two hunks", "--- a/poem\n+++ b/poem\n@@ -1,2 +1,3 @@\n one\n+and\n two\n@@ -5,2 +6 @@\n five\n-six\n", "one\nand\ntwo\nthree\nfour\nfive\n"},
		{"without context", "--- a/poem\n+++ b/poem\n@@ -2,0 +3 @@\n+and\n@@ -4 +5,0 @@\n-four\n", "one\ntwo\nand\nthree\nfive\nsix\n"},
		{"wrong counts", "--- a/poem\n+++ b/poem\n@@ -1,9 +1,2 @@\n one\n-two\n+2\n three\n", "one\n2\nthree\nfour\nfive\nsix\n"},
		{"a wrong line", "--- a/poem\n+++ b/poem\n@@ -4,3 +4,3 @@\n two\n-three\n+3\n four\n", "one\ntwo\n3\nfour\nfive\nsix\n"},
		{"names as they are, with a time", "--- poem\t2026-01-01\n+++ poem\t2026-01-02\n@@ -6 +6 @@\n-six\n+6\n", "one\ntwo\nthree\nfour\nfive\n6\n"},
		{"prose around it", "Here it is:\n\n--- a/poem\n+++ b/poem\n@@ -6 +6 @@\n-six\n+6\n\nI hope that helps.\n", "one\ntwo\nthree\nfour\nfive\n6\n"},
		{"no line feed at the end, of the diff and the file", "--- a/poem\n+++ b/poem\n@@ -6 +6 @@\n-six\n+6\n\\ No newline at end of file", "one\ntwo\nthree\nfour\nfive\n6"},
		{"a signature behind it", "--- a/poem\n+++ b/poem\n@@ -5,2 +5,2 @@\n five\n-six\n+6\n-- \n2.47\n", "one\ntwo\nthree\nfour\nfive\n6\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _, _ := setup(t, Limits{})
			require.NoError(t, r.Write("poem", []byte(poem)))
			changes, err := r.Patch(c.diff)
			require.NoError(t, err)
			require.Equal(t, []Change{{Path: "poem", Kind: Changed}}, changes)
			content, err := r.Read("poem")
			require.NoError(t, err)
			require.Equal(t, c.want, string(content))
		})
	}
}

// LO-911
func TestADiffMakesMovesAndRemovesFiles(t *testing.T) {
	r, dir, _ := setup(t, Limits{})
	require.NoError(t, r.Write("poem", []byte(poem)))
	require.NoError(t, r.Write("old name", []byte("x\ny\n")))
	changes, err := r.Patch("--- /dev/null\n+++ b/new/file\n@@ -0,0 +1,2 @@\n+a\n+b\n" +
		"diff --git a/poem b/poem\ndeleted file mode 100644\n--- a/poem\n+++ /dev/null\n@@ -1,6 +0,0 @@\n-one\n-two\n-three\n-four\n-five\n-six\n" +
		"diff --git a/old name b/name\nsimilarity index 50%\nrename from old name\nrename to name\n--- a/old name\n+++ b/name\n@@ -1,2 +1,2 @@\n x\n-y\n+z\n" +
		"diff --git a/empty b/empty\nnew file mode 100755\nindex 0..1\n" +
		"--- a/new/file\n+++ b/new/file\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n")
	require.NoError(t, err)
	require.Equal(t, []Change{
		{Path: "new/file", Kind: Created},
		{Path: "poem", Kind: Removed},
		{Path: "name", From: "old name", Kind: Renamed},
		{Path: "empty", Kind: Created},
		{Path: "new/file", Kind: Changed},
	}, changes)
	entries, err := r.List(Listing{Deep: true})
	require.NoError(t, err)
	require.Equal(t, []Entry{{Path: "empty"}, {Path: "name", Size: 4}, {Path: "new", Folder: true}, {Path: "new/file", Size: 4}}, entries)
	info, err := os.Stat(filepath.Join(dir, "empty"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())
}

// LO-911
func TestADiffThatDoesNotApplyChangesNothing(t *testing.T) {
	const good = "--- a/other\n+++ b/other\n@@ -1 +1 @@\n-x\n+y\n"
	for _, c := range []struct {
		name, diff string
		want       DiffError
		says       string
	}{
		{"another line", good + "--- a/poem\n+++ b/poem\n@@ -1,2 +1,2 @@\n one\n-zwei\n+2\n", DiffError{File: "poem", Hunk: 1, Line: 8}, "line 2 is `two`, and the diff wants `zwei`"},
		{"the second hunk", good + "--- a/poem\n+++ b/poem\n@@ -1 +1 @@\n-one\n+1\n@@ -9 +9 @@\n-nine\n+9\n", DiffError{File: "poem", Hunk: 2, Line: 11}, "read the file again"},
		{"several places", good + "--- a/twice\n+++ b/twice\n@@ -9 +9 @@\n-x\n+y\n", DiffError{File: "twice", Hunk: 1, Line: 8}, "give more lines of context"},
		{"a missing file", good + "--- a/none\n+++ b/none\n@@ -1 +1 @@\n-x\n+y\n", DiffError{File: "none", Line: 6}, "check its name"},
		{"a file that is there", good + "--- /dev/null\n+++ b/poem\n@@ -0,0 +1 @@\n+y\n", DiffError{File: "poem", Line: 6}, "remove it first"},
		{"not all lines removed", good + "--- a/poem\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n", DiffError{File: "poem", Line: 6}, "not all of its lines"},
		{"a link", good + "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc\n", DiffError{File: "l", Line: 6}, "mode 120000"},
		{"bytes", good + "diff --git a/p b/p\nBinary files a/p and b/p differ\n", DiffError{File: "p", Line: 6}, "only changes of text"},
		{"a header without lines", good + "--- a/poem\n+++ b/poem\n@@ ... @@\n-one\n+1\n", DiffError{File: "poem", Hunk: 1, Line: 8}, "@@ -LINE,COUNT +LINE,COUNT @@"},
		{"no change", good + "--- a/poem\n+++ b/poem\n@@ -1 +1 @@\n one\n", DiffError{File: "poem", Hunk: 1, Line: 8}, "changes nothing"},
		{"no hunk", good + "--- a/poem\n+++ b/poem\n", DiffError{File: "poem", Line: 6}, "nothing follows"},
		{"no file", "@@ -1 +1 @@\n-x\n+y\n", DiffError{Line: 1}, "hunk without a file"},
		{"no diff", "I cannot do that.", DiffError{Line: 1}, "there is no diff"},
		{"a line far away", good + "--- a/poem\n+++ b/poem\n@@ -99,0 +99 @@\n+x\n", DiffError{File: "poem", Hunk: 1, Line: 8}, "behind line 99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _, _ := setup(t, Limits{})
			for name, content := range map[string]string{"poem": poem, "other": "x\n", "twice": "x\na\nx\n"} {
				require.NoError(t, r.Write(name, []byte(content)))
			}
			_, err := r.Patch(c.diff)
			wrong, ok := errors.AsType[*DiffError](err)
			require.True(t, ok, "%v", err)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "no file was changed")
			wrong.Problem = ""
			require.Equal(t, c.want, *wrong)
			content, err := r.Read("other")
			require.NoError(t, err)
			require.Equal(t, "x\n", string(content))
		})
	}
}

// The third file is larger than the system allows, once the first two are written.
//
// LO-911
func TestWhatWasWrittenIsPutBack(t *testing.T) {
	r, _, _ := setup(t, Limits{})
	require.NoError(t, r.Write("a", []byte("x\n")))
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: mostOfTheSystem, Max: limit.Max}))
	_, err := r.Patch("--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n--- /dev/null\n+++ b/made\n@@ -0,0 +1 @@\n+y\n--- /dev/null\n+++ b/large\n@@ -0,0 +1 @@\n+" + strings.Repeat("z", 2*mostOfTheSystem) + "\n")
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	require.ErrorIs(t, err, syscall.EFBIG)
	content, err := r.Read("a")
	require.NoError(t, err)
	require.Equal(t, "x\n", string(content))
	entries, err := r.List(Listing{})
	require.NoError(t, err)
	require.Equal(t, []Entry{{Path: "a", Size: 2}}, entries)
}

// What git writes as the difference of two files turns the one into the other.
//
// LO-911
func TestGitsOwnDiffsApply(t *testing.T) {
	lines := rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "-- c", "++ d", "@@ -1 +1 @@", " e", "--- f", "+++ g", "\\ h", "i\r"}), 0, 30)
	end := rapid.SampledFrom([]string{"\n", ""})
	context := rapid.SampledFrom([]string{"-U0", "-U1", "-U3"})
	r, dir, _ := setup(t, Limits{})
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) string {
			of := lines.Draw(t, name)
			if len(of) == 0 {
				return ""
			}
			return strings.Join(of, "\n") + end.Draw(t, name+"'s end")
		}
		old, fresh := text("old"), text("new")
		for name, content := range map[string]string{"a": old, "b": fresh} {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name, "f"), []byte(content), 0o600))
		}
		cmd := exec.CommandContext(t.Context(), "git", "diff", "--no-index", "--no-prefix", context.Draw(t, "context"), "a/f", "b/f")
		cmd.Dir = dir
		diff, _ := cmd.Output() // it says 1 where they differ
		if old == fresh || strings.Contains(string(diff), "Binary") {
			return
		}
		require.NoError(t, r.Write("f", []byte(old)))
		_, err := r.Patch(string(diff))
		require.NoError(t, err, "%s", diff)
		content, err := r.Read("f")
		require.NoError(t, err)
		require.Equal(t, fresh, string(content), "%s", diff)
	})
}

// LO-911
func FuzzPatch(f *testing.F) {
	f.Add("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n")
	f.Add("diff --git a/g b/g\nnew file mode 100755\n--- /dev/null\n+++ b/g\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n")
	f.Add("@@ -1 +1 @@\n-x\n")
	f.Add("--- \"a/\\303\\244\"\n+++ \"b/\\303\\244\"\n@@ -99999999999999999999 +1 @@\n\n")
	f.Fuzz(func(t *testing.T, diff string) {
		sections, err := parse(diff)
		if _, ok := errors.AsType[*DiffError](err); err != nil && !ok {
			t.Fatalf("not typed: %v", err)
		}
		for _, s := range sections {
			text, err := s.change(poem)
			if err == nil && len(text) > len(poem)+len(diff) {
				t.Fatalf("%d bytes of %d and %d", len(text), len(poem), len(diff))
			}
		}
	})
}
