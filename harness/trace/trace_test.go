// SPDX-License-Identifier: GPL-3.0-or-later

package trace_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/trace"
)

const law = `# Law

| stage | subject | | stage | subject |
|---|---|---|---|---|
| 0 | queues: order | | 1 | streams |
`

const lines = `# Area

- **AREA-1** (stage 0, MUST; also: OLD-7) Things MUST go
  on [here](x.md#y), whatever | comes.
  - **AREA-1.2** A refinement, which is no part of the text,
    and goes on.

    Here too.
  - **AREA-1.1** Another one.
- **AREA-2** (stage 0+1, MUST) Second.
- **AREA-SUB-3** (stage 1, SHOULD) Third.
- **A word** that is no requirement.

    - **AREA-9** in a block of code
`

const goTest = `package a

import "testing"

// Says something of SHA-256 first.
//
// AREA-1: because.
func TestOne(t *testing.T) {}

// OLD-7, AREA-SUB-3, AREA-1.1
func FuzzTwo(f *testing.F) {}

// AREA-SUB-3
func BenchmarkNothing(b *testing.B) {}
`

const feature = `@AREA-2
Feature: f

  Scenario: It holds
    Given a

  @AREA-SUB-3 @slow
  Scenario Outline: So does <this>
    Given <this>

    Examples:
      | this |
      | one  |
      | two  |

  Scenario Outline: The same name
    Given <this>

    Examples:
      | this |
      | one  |
      | two  |
`

// repository writes a small one; changes replace or, where empty, remove files.
func repository(t *testing.T, changes map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"go.mod": "module example.org/m\n\ngo 1.26\n", ".specs/README.md": law, ".specs/area.md": lines, "a/a_test.go": goTest,
		"features/f.feature": feature, trace.OpenPath: "# none\n", trace.ByLinePath: "# some\nAREA-1: 2\n", "README.md": "Start here.\n",
		".docs/testing/README.md": "Before.\n\n<!-- stages -->\n<!-- /stages -->\n\nAfter.\n",
		// Neither of these may be read.
		"a/testdata/x_test.go": "broken", "other/go.mod": "module other\n", "other/x_test.go": "broken",
	}
	maps.Copy(files, changes)
	for name, content := range files {
		if content == "" {
			continue
		}
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	return root
}

func read(t *testing.T, root string, tags ...string) *trace.Trace {
	t.Helper()
	tr, err := trace.Read(trace.Options{Root: root, Tags: tags})
	require.NoError(t, err)
	return tr
}

func all(string, string) trace.Outcome { return trace.Outcome{Passed: 9} }

// TRACE-12
func TestLinesAreJoinedWithTheirTests(t *testing.T) {
	tr := read(t, repository(t, nil))
	require.Empty(t, tr.Findings())
	require.Len(t, tr.Lines, 3)
	names := func(l trace.Line) (all []string) {
		for _, test := range l.Tests {
			all = append(all, test.Package+" "+test.Run)
		}
		return all
	}
	require.Equal(t, "AREA-1", tr.Lines[0].ID)
	require.Equal(t, "Things MUST go on [here](x.md#y), whatever | comes.", tr.Lines[0].Text)
	require.Equal(t, []string{"example.org/m/a FuzzTwo", "example.org/m/a TestOne"}, names(tr.Lines[0]), "an alias serves its line")
	require.Equal(t, []int{0, 1}, tr.Lines[1].Stages)
	require.Contains(t, names(tr.Lines[1]), "example.org/m/harness/bdd TestFeatures/It_holds", "a tag of the feature is each scenario's")
	require.Contains(t, names(tr.Lines[2]), "example.org/m/harness/bdd TestFeatures/So_does_two")
	require.NotContains(t, strings.Join(names(tr.Lines[2]), " "), "Benchmark", "no step runs benchmarks")
	require.Equal(t, trace.Count{Must: 2, MustDone: 2}, tr.Count(0))
	require.Equal(t, trace.Count{Must: 1, MustDone: 1, Should: 1, ShouldDone: 1}, tr.Count(1))
}

// TRACE-12
func TestWhatIsWrongIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		changes map[string]string
		says    string
	}{
		"unknown ID in Go": {
			map[string]string{"a/b_test.go": "package a\n\n// AREA-8\nfunc TestX(t *testing.T) {}\n"},
			"a/b_test.go: TestX names AREA-8, which is no line",
		},
		"unknown area in Go": {
			map[string]string{"a/b_test.go": "package a\n\n// AERA-1\nfunc TestX(t *testing.T) {}\n"},
			"TestX names AERA-1",
		},
		"unknown ID in a feature": {
			map[string]string{"features/g.feature": "Feature: g\n\n  @AREA-8\n  Scenario: s\n    Given a\n"},
			"features/g.feature: s names AREA-8",
		},
		"a marker in another form": {
			map[string]string{"a/b_test.go": "package a\n\n// AREA-1 and AREA-2\nfunc TestX(t *testing.T) {}\n"},
			"a/b_test.go:3: a line begins with an ID and is no marker",
		},
		"a marker above nothing": {
			map[string]string{"a/b_test.go": "package a\n\n// AREA-1\n\nfunc TestX(t *testing.T) {}\n"},
			"a/b_test.go:3: the marker AREA-1 is not in the comment above a test",
		},
		"a MUST line without a test": {
			map[string]string{"features/f.feature": ""},
			".specs/area.md: no test that `mage test` runs names AREA-2 (stage 0+1, MUST)",
		},
		"a MUST line whose test is behind a tag": {
			map[string]string{"a/a_test.go": "//go:build special\n\n" + goTest},
			"no test that `mage test` runs names AREA-1",
		},
		"an unknown open line":     {map[string]string{trace.OpenPath: "AREA-8: why\n"}, "open.txt:1: AREA-8 is no line"},
		"an alias as open":         {map[string]string{trace.OpenPath: "OLD-7: why\n"}, "OLD-7 is no line"},
		"an open line without why": {map[string]string{trace.OpenPath: "AREA-1:\n"}, "say why AREA-1 is open"},
		"an open line twice":       {map[string]string{trace.OpenPath: "AREA-1: a\nAREA-1: b\n"}, "AREA-1 stands here twice"},
		"a requirement twice":      {map[string]string{".specs/b.md": "- **AREA-1** (stage 0, MUST) Again.\n"}, "AREA-1 is a line of .specs/area.md already"},
		"a requirement in another form": {
			map[string]string{".specs/b.md": "- **AREA-4** (MUST) No stage.\n"}, ".specs/b.md:1: a list item that begins like a requirement",
		},
		"a refinement without an ID":     {map[string]string{".specs/b.md": "- **AREA-4** (stage 0, SHOULD) It.\n  - So.\n"}, ".specs/b.md:2: a refinement of AREA-4 without an ID"},
		"a refinement of another line":   {map[string]string{".specs/b.md": "- **AREA-4** (stage 0, SHOULD) It.\n  - **AREA-1.9** So.\n"}, ".specs/b.md:2: AREA-1.9 is below AREA-4"},
		"a refinement twice":             {map[string]string{".specs/b.md": "- **AREA-4** (stage 0, SHOULD) It.\n  - **AREA-4.1** So.\n  - **AREA-4.1** So.\n"}, "AREA-4.1 stands here twice"},
		"a refinement that is new":       {map[string]string{trace.ByLinePath: "# none\n"}, ".specs/area.md: no test that `mage test` runs names the refinement AREA-1.2"},
		"a refinement that has its test": {map[string]string{trace.ByLinePath: "AREA-1: 1, 2\n"}, "take AREA-1.1 off, a test names it"},
		"a refinement that is gone":      {map[string]string{trace.ByLinePath: "AREA-1: 2, 3\n"}, "AREA-1.3 is no refinement"},
		"an unknown refinement in Go": {
			map[string]string{"a/b_test.go": "package a\n\n// AREA-2.7\nfunc TestX(t *testing.T) {}\n"},
			"a/b_test.go: TestX names AREA-2.7, which is no line",
		},
		"a stage without a name": {
			map[string]string{".specs/b.md": "- **AREA-4** (stage 7, SHOULD) Late.\n"}, "AREA-4 is due in stage 7",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr := read(t, repository(t, c.changes))
			require.Contains(t, strings.Join(tr.Findings(), "\n"), c.says)
		})
	}
}

// TRACE-12
func TestTaggedTestsCountWhereAStepRunsThem(t *testing.T) {
	root := repository(t, map[string]string{"a/a_test.go": "//go:build special\n\n" + goTest})
	require.False(t, read(t, root).Lines[0].Done())
	require.Contains(t, read(t, root).Catalog(), "behind a build tag: `a`: TestOne")
	require.True(t, read(t, root, "special").Lines[0].Done())
}

// TRACE-12: an admission counts although a test serves a part.
func TestAnOpenLineIsNotDone(t *testing.T) {
	tr := read(t, repository(t, map[string]string{trace.OpenPath: "AREA-1: half of it\n"}))
	require.Empty(t, tr.Findings())
	require.False(t, tr.Lines[0].Done())
	require.Equal(t, 1, tr.Count(0).MustDone)
	require.Contains(t, tr.Catalog(), "| AREA-1 | 0 | MUST | half of it |")
	require.Contains(t, tr.StageTable(), "| 0 | queues: order | 1 of 2 | – | open |\n| 1 | streams | 1 of 1 | 1 of 1 | **done** |\n")
}

// TRACE-12
func TestTheCommittedTablesAreKept(t *testing.T) {
	root := repository(t, nil)
	_, err := read(t, root).Check(root)
	require.ErrorContains(t, err, "mage trace", "there is no catalogue yet")

	lost, err := read(t, root).Write(root)
	require.NoError(t, err)
	require.Empty(t, lost)
	first := read(t, root).Catalog()
	require.Equal(t, first, read(t, root).Catalog())
	require.Contains(t, first, "| [AREA-1](../../.specs/area.md) | 0 | MUST | done | Things MUST go on here, whatever \\| comes. | `a`: FuzzTwo, TestOne |")
	wrong, err := read(t, root).Check(root)
	require.NoError(t, err)
	require.Empty(t, wrong)

	// Another test for a line: nothing is lost, and the table is out of date.
	more := filepath.Join(root, "a", "b_test.go")
	require.NoError(t, os.WriteFile(more, []byte("package a\n\n// AREA-2\nfunc TestX(t *testing.T) {}\n"), 0o600))
	wrong, err = read(t, root).Check(root)
	require.NoError(t, err)
	require.Equal(t, []string{trace.CatalogPath + " is out of date: first at AREA-2; run `go tool mage trace` and commit the result"}, wrong)
	require.NoError(t, os.Remove(more))

	// A test that is gone: the line and the test are named, in the check and by whoever regenerates.
	require.NoError(t, os.Remove(filepath.Join(root, "features", "f.feature")))
	wrong, err = read(t, root).Check(root)
	require.NoError(t, err)
	const gone = "AREA-2 was done, and has lost its test: it had `features/f.feature`: It holds, So does one, So does two, The same name"
	require.Contains(t, wrong, gone)
	lost, err = read(t, root).Write(root)
	require.NoError(t, err)
	require.Contains(t, lost, gone)

	// The stage table by itself.
	page := filepath.Join(root, trace.StagesPath)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(page, []byte(strings.Replace(string(text), "1 of 2", "2 of 2", 1)), 0o600))
	wrong, err = read(t, root).Check(root)
	require.NoError(t, err)
	require.Contains(t, strings.Join(wrong, "\n"), "the stage table of .docs/testing/README.md is out of date")
}

// TRACE-12
func TestARunHasToBearTheCatalogueOut(t *testing.T) {
	tr := read(t, repository(t, nil))
	require.Empty(t, tr.Unproven(all))

	but := func(name string, o trace.Outcome) trace.Ran {
		return func(pkg, run string) trace.Outcome {
			if run == name {
				return o
			}
			return trace.Outcome{Passed: 2}
		}
	}
	require.Equal(t, []string{"AREA-1 is done by the catalogue, and its test TestOne (a) was not run"}, tr.Unproven(but("TestOne", trace.Outcome{})))
	require.Empty(t, tr.Unproven(but("TestOne", trace.Outcome{Skipped: 1})), "another test of AREA-1 passed")
	require.Len(t, tr.Unproven(but("TestFeatures/The_same_name", trace.Outcome{Passed: 1})), 1, "an example is missing")

	failing := tr.Unproven(func(string, string) trace.Outcome { return trace.Outcome{Failed: 2} })
	require.Len(t, failing, 4)
	require.Contains(t, failing[0], "AREA-1 (stage 0, MUST) is done by the catalogue, and none of its tests passed: `a`: FuzzTwo, TestOne")
}

// TRACE-12
func TestARefinementHasANumberThatStays(t *testing.T) {
	root := repository(t, map[string]string{".specs/b.md": "- **AREA-4** (stage 0, SHOULD) It.\n  - First.\n  - **AREA-4.2** Second.\n    - Deeper.\n\n  - Third.\n\nText.\n\n  - No refinement.\n"})
	require.NoError(t, trace.NumberSpecs(root))
	text, err := os.ReadFile(filepath.Join(root, ".specs", "b.md"))
	require.NoError(t, err)
	require.Equal(t, "- **AREA-4** (stage 0, SHOULD) It.\n  - **AREA-4.3** First.\n  - **AREA-4.2** Second.\n    - Deeper.\n\n  - **AREA-4.4** Third.\n\nText.\n\n  - No refinement.\n", string(text))
	require.Empty(t, read(t, root).Findings(), "they are those of a SHOULD line")
}

// TRACE-12.1
func TestARefinementIsNamedAndProvenByItself(t *testing.T) {
	tr := read(t, repository(t, nil))
	require.Empty(t, tr.Findings())
	require.Contains(t, tr.Catalog(), "1 of 2 have a test of their own")
	require.Contains(t, tr.Catalog(), "| AREA-1.1 | `a`: FuzzTwo |")
	wrong := tr.Unproven(func(_, run string) trace.Outcome {
		if run == "FuzzTwo" {
			return trace.Outcome{Failed: 1}
		}
		return trace.Outcome{Passed: 2}
	})
	require.Equal(t, []string{"the refinement AREA-1.1 has tests of its own, and none of them passed: `a`: FuzzTwo"}, wrong)
}
