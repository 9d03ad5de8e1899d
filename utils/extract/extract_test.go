// SPDX-License-Identifier: GPL-3.0-or-later

package extract

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const answer = "<think>A ```go block? {\"no\": 1}</think>\nHere is it:\n\n```go\nfunc main() {}\n```\n\n1. As JSON:\n\n   ```json\n   {\"a\": [1, 2]}\n   ```\n\n" +
	"<answer kind=\"x\">\nforty <answer>two</answer>\n</answer>\n"

// LO-915
func TestText(t *testing.T) {
	for in, want := range map[string]string{
		" plain \n": "plain", "<think>no</think>\nyes": "yes", "```\nfenced\n```": "fenced", "```md\n# a\n```\n": "# a",
		"before\n```\nx\n```": "before\n```\nx\n```", "```\na\n```\nand\n```\nb\n```": "```\na\n```\nand\n```\nb\n```",
	} {
		got, err := Text(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, empty := range []string{"", "<think>cut off", "```\n```", "<think>a</think>"} {
		_, err := Text(empty)
		missing(t, err, "text")
	}
}

// LO-915
func TestCode(t *testing.T) {
	code, err := Code(withoutThoughts(answer), "Go")
	require.NoError(t, err)
	require.Equal(t, "func main() {}\n", code)
	code, err = Code(withoutThoughts(answer), "json")
	require.NoError(t, err)
	require.Equal(t, []string{"{\"a\": [1, 2]}", ""}, strings.Split(code, "\n"), "inside of a list, without its indent")
	code, err = Code("~~~~\na\n```\nb\n```\n~~~~\n", "")
	require.NoError(t, err)
	require.Equal(t, "a\n```\nb\n```\n", code)
	code, err = Code("```py\ncut = ", "py")
	require.NoError(t, err)
	require.Equal(t, "cut = ", code)
	_, err = Code(answer, "python")
	missing(t, err, "fenced code in python")
	require.ErrorContains(t, err, "json")
	_, err = Code("none", "")
	missing(t, err, "fenced code")
	require.Len(t, Blocks(withoutThoughts(answer)), 2)
}

// LO-915
func TestJSON(t *testing.T) {
	hasA := func(raw []byte) error {
		var v struct{ A *int }
		if json.Unmarshal(raw, &v) != nil || v.A == nil {
			return errors.New("there is no a")
		}
		return nil
	}
	for in, want := range map[string]string{
		`{"a": 1}`: `{"a": 1}`, "```json\n{\"a\": 1}\n```": `{"a": 1}`, "It is {\"a\": 1}, I think.": `{"a": 1}`,
		`{b} [1] {"b": {"a": 1}}`: `{"a": 1}`, "<think>{\"a\": 2}</think>{\"a\": 1}": `{"a": 1}`, `{ {"a": 1}`: `{"a": 1}`,
	} {
		got, err := JSON(in, hasA)
		require.NoError(t, err, in)
		require.JSONEq(t, want, string(got))
	}
	got, err := JSON(`"a word"`, nil)
	require.NoError(t, err)
	require.Equal(t, `"a word"`, string(got))
	_, err = JSON(`{"b": 1}`, hasA)
	missing(t, err, "JSON that fits")
	require.ErrorContains(t, err, "there is no a")
	for _, broken := range []string{`{"a": 1`, "", "words", strings.Repeat("[", 100_000)} {
		_, err = JSON(broken, hasA)
		missing(t, err, "JSON")
	}
}

// LO-915
func TestDiff(t *testing.T) {
	const diff = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n"
	for _, in := range []string{diff, "Sure:\n\n" + diff + "\nThat is all.", "```diff\n" + diff + "```\nDone.", "1. Apply\n\n   ```\n   " + strings.ReplaceAll(strings.TrimSpace(diff), "\n", "\n   ") + "\n   ```\n"} {
		got, err := Diff(in)
		require.NoError(t, err, in)
		require.Equal(t, diff, got, in)
	}
	_, err := Diff("none")
	missing(t, err, "unified diff")
	_, err = Diff("--- a/f\n+++ b/f\n@@ -1 +1 @@\n x\n")
	missing(t, err, "unified diff")
	require.ErrorContains(t, err, "changes nothing")
}

// LO-915
func TestTag(t *testing.T) {
	got, err := Tag(answer, "answer")
	require.NoError(t, err)
	require.Equal(t, "forty <answer>two</answer>", got)
	for in, what := range map[string]string{"none": "<a>", "<a>cut off": "whole <a>", "</a><ab>x</ab>": "<a>", "a < b <a": "<a>"} {
		_, err = Tag(in, "a")
		missing(t, err, what)
	}
	_, err = Tag("x", "no tag")
	missing(t, err, "<no tag>")
}

func missing(t *testing.T, err error, what string) {
	t.Helper()
	none, ok := errors.AsType[*NotFoundError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, what, none.What)
	require.NotEmpty(t, none.Why)
}

// LO-915
func FuzzExtract(f *testing.F) {
	f.Add(answer)
	f.Add("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n")
	f.Add("> ```\n> {\"a\": [\n")
	f.Fuzz(func(t *testing.T, answer string) {
		check := func(got string, err error) {
			if _, ok := errors.AsType[*NotFoundError](err); err != nil && !ok {
				t.Fatalf("not typed: %v", err)
			}
			if err == nil && len(got) > len(answer)+1 {
				t.Fatalf("%d bytes of %d", len(got), len(answer))
			}
		}
		check(Text(answer))
		check(Diff(answer))
		check(Tag(answer, "a"))
		raw, err := JSON(answer, nil)
		check(string(raw), err)
		if err == nil && !json.Valid(raw) {
			t.Fatalf("not JSON: %s", raw)
		}
		for _, b := range Blocks(answer) {
			if b.Language != strings.ToLower(b.Language) {
				t.Fatal(b.Language)
			}
		}
	})
}
