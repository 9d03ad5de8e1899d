// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// commandIn finds a command in a text: between backticks, at the beginning of a line of an example, or behind a word that asks for it.
var commandIn = regexp.MustCompile("`llama-orch +([^`\n]+)`|(?m)^(?:    |\\$ )(?:bin/)?llama-orch +([^\n]+)$|(?:with|by|[Uu]se|[Rr]un|[Tt]ry|[Ss]ee) llama-orch +([a-z]+(?: [a-z]+)?)\\b")

// notNamed are folders with what nobody wrote, or with what was true once.
var notNamed = []string{".git", "gen", "build", "bin", "node_modules", "DONE", "shared"}

// LO-937: errors, the status page and the documents name only commands and flags that there are.
func TestEveryCommandThatIsNamedExists(t *testing.T) {
	t.Parallel()
	root, seen := grammar(t).Node, 0
	require.NoError(t, filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains(notNamed, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains([]string{".md", ".go", ".templ", ".yaml", ".js", ".sh", ".feature", ".service"}, filepath.Ext(path)) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range commandIn.FindAllStringSubmatch(string(text), -1) {
			seen++
			command := found[1] + found[2] + found[3]
			if problem := unknownIn(root, command); problem != "" {
				t.Errorf("%s names `llama-orch %s`, but there is no %s", path, command, problem)
			}
		}
		return nil
	}))
	require.Greater(t, seen, 100)
	for command, problem := range map[string]string{
		"models add hf:o/r --wait": "", "--json models list": "", "logs -f -n 7": "", "run \"tasks nothing\" --nothing | jq .x": "--nothing", "model add": "model", "models ad x": "ad", "models": "",
	} {
		require.Equal(t, problem, unknownIn(root, command), command)
	}
}

// unknownIn is the first word of a command line that is neither a command nor a flag; empty: all are. A comment, and what the shell does with the output, is no part of it.
func unknownIn(node *kong.Node, line string) string {
	line, _, _ = strings.Cut(line, " #")
	line, _, _ = strings.Cut(line, " | ")
	for word := range strings.FieldsSeq(line) {
		switch name, _, _ := strings.Cut(word, "="); {
		case strings.HasPrefix(name, "--"):
			if name != "--" && !hasFlag(node, strings.TrimPrefix(strings.Trim(name, "]),.:\""), "--")) {
				return name
			}
		case len(node.Children) > 0 && wordAlone.MatchString(word) && !isValue(node, line, word):
			i := slices.IndexFunc(node.Children, func(c *kong.Node) bool { return c.Name == word || slices.Contains(c.Aliases, word) })
			if i < 0 {
				return word
			}
			node = node.Children[i]
		}
	}
	return ""
}

var wordAlone = regexp.MustCompile(`^[a-z][a-z-]*$`)

// isValue reports whether a word stands behind a flag that takes a value.
func isValue(node *kong.Node, line, word string) bool {
	before, _, _ := strings.Cut(line, word)
	words := strings.Fields(before)
	if len(words) == 0 {
		return false
	}
	last := words[len(words)-1]
	return slices.ContainsFunc(flagsOf(node), func(f *kong.Flag) bool {
		return !f.IsBool() && (last == "--"+f.Name || f.Short != 0 && last == "-"+string(f.Short))
	})
}

func hasFlag(node *kong.Node, name string) bool {
	return slices.ContainsFunc(flagsOf(node), func(f *kong.Flag) bool {
		return f.Name == name || slices.Contains(f.Aliases, name) || f.Tag != nil && f.Tag.Negatable != "" && "no-"+f.Name == name
	})
}

// flagsOf are a command's flags, and those of all below it that may be given in any place.
func flagsOf(node *kong.Node) (all []*kong.Flag) {
	for n := node; n != nil; n = n.Parent {
		all = append(all, n.Flags...)
	}
	for _, c := range node.Children {
		all = append(all, c.Flags...)
	}
	return all
}
