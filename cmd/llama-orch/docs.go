// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// docsCmd writes the manual, of which each page is made from the command's own help.
type docsCmd struct {
	Folder string `arg:"" help:"The folder to write to: one Markdown file a command, and a manual page below man."`
}

// Run writes.
func (c *docsCmd) Run(a *app) error {
	pages := manual(a.command.Model)
	for name, text := range pages {
		path := filepath.Join(c.Folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("making room for the manual: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("writing the manual: %w", err)
		}
	}
	if a.json {
		return a.printJSON(map[string]any{"folder": c.Folder, "files": slices.Sorted(maps.Keys(pages))})
	}
	a.note("%d files in %s", len(pages), c.Folder)
	return nil
}

// manual makes all pages, by their file names.
func manual(app *kong.Application) map[string]string {
	pages := map[string]string{}
	var index, list strings.Builder
	description, codes, _ := strings.Cut(app.Help, "Exit codes:")
	fmt.Fprintf(&index, "# llama-orch\n\nMade from the commands by `go tool mage gen`; [the guide](../cli.md) says how they go together.\n\n%s\n\n", strings.TrimSpace(description))
	index.WriteString("| command | does |\n|---|---|\n")
	for _, node := range app.Children {
		if node.Hidden {
			continue
		}
		fmt.Fprintf(&index, "| [`%s`](%s.md) | %s |\n", node.Name, node.Name, inTable(node.Help))
		fmt.Fprintf(&list, ".TP\n\\fBllama\\-orch %s\\fR\n%s\n", roff(node.Name), roff(node.Help))
		pages[node.Name+".md"] = markdown(node)
		pages["man/llama-orch-"+node.Name+".1"] = man(node)
	}
	index.WriteString("\nEvery command has these flags:\n\n" + flagTable(app.Flags))
	index.WriteString("\n| exit code | means |\n|---|---|\n")
	var exits strings.Builder
	for line := range strings.Lines(codes) {
		code, meaning, is := strings.Cut(strings.TrimSpace(line), " ")
		if is {
			fmt.Fprintf(&index, "| %s | %s |\n", code, inTable(strings.TrimSpace(meaning)))
			fmt.Fprintf(&exits, ".TP\n\\fB%s\\fR\n%s\n", code, roff(strings.TrimSpace(meaning)))
		}
	}
	pages["README.md"] = index.String()
	pages["man/llama-orch.1"] = title("llama-orch", "the command line of a llama-orch server") +
		".SH SYNOPSIS\n\\fBllama\\-orch\\fR [\\fIflags\\fR] \\fIcommand\\fR\n.SH DESCRIPTION\n" + paragraphs(description) +
		".SH COMMANDS\n" + list.String() + ".SH OPTIONS\n" + manFlags(app.Flags) + ".SH EXIT STATUS\n" + exits.String()
	return pages
}

// each calls do for a command and those below it, as far as they are shown.
func each(node *kong.Node, do func(*kong.Node)) {
	do(node)
	for _, child := range node.Children {
		if !child.Hidden {
			each(child, do)
		}
	}
}

// nameOf is a command's name, with those of the commands above it and without the program's.
func nameOf(node *kong.Node) string {
	if node.Parent == nil || node.Parent.Parent == nil {
		return node.Name
	}
	return nameOf(node.Parent) + " " + node.Name
}

// usage is how a command is called.
func usage(node *kong.Node) string {
	words := []string{"llama-orch", nameOf(node)}
	for _, p := range node.Positional {
		words = append(words, p.Summary())
	}
	if len(node.Children) > 0 && node.DefaultCmd == nil {
		words = append(words, "<command>")
	}
	return strings.Join(append(words, "[flags]"), " ")
}

func markdown(top *kong.Node) string {
	var b strings.Builder
	each(top, func(node *kong.Node) {
		fmt.Fprintf(&b, "%s %s\n\n%s\n\n    %s\n\n", strings.Repeat("#", len(strings.Fields(nameOf(node)))), "llama-orch "+nameOf(node), node.Help, usage(node))
		if len(node.Aliases) > 0 {
			fmt.Fprintf(&b, "Another name of it is `%s`.\n\n", strings.Join(node.Aliases, "`, `"))
		}
		if node.Detail != "" {
			b.WriteString(strings.TrimSpace(node.Detail) + "\n\n")
		}
		if len(node.Positional) > 0 {
			b.WriteString("| argument | is |\n|---|---|\n")
			for _, p := range node.Positional {
				fmt.Fprintf(&b, "| `%s` | %s |\n", p.Name, inTable(p.Help))
			}
			b.WriteString("\n")
		}
		if table := flagTable(node.Flags); table != "" {
			b.WriteString(table + "\n")
		}
	})
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func flagTable(flags []*kong.Flag) string {
	var b strings.Builder
	for _, f := range flags {
		if !f.Hidden && f.Name != "help" {
			fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(f.String(), "|", "\\|"), inTable(f.Help))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "| flag | does |\n|---|---|\n" + b.String()
}

// inTable keeps a text in its cell.
func inTable(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;", "*", "\\*").Replace(text)
}

func man(top *kong.Node) string {
	var b strings.Builder
	b.WriteString(title("llama-orch-"+top.Name, top.Help) + ".SH SYNOPSIS\n")
	each(top, func(node *kong.Node) {
		if node.Leaf() || node.DefaultCmd != nil {
			fmt.Fprintf(&b, "\\fB%s\\fR\n.br\n", roff(usage(node)))
		}
	})
	each(top, func(node *kong.Node) {
		heading, text := "DESCRIPTION", node.Help
		if node != top {
			heading = strings.ToUpper(node.Name)
		}
		fmt.Fprintf(&b, ".SH %s\n%s\n", roff(heading), roff(text))
		if node.Detail != "" {
			b.WriteString(".PP\n" + paragraphs(node.Detail))
		}
		for _, p := range node.Positional {
			fmt.Fprintf(&b, ".TP\n\\fI%s\\fR\n%s\n", roff(p.Name), roff(p.Help))
		}
		b.WriteString(manFlags(node.Flags))
	})
	return b.String() + ".SH SEE ALSO\n\\fBllama\\-orch\\fR(1)\n"
}

func title(name, what string) string {
	return fmt.Sprintf(".TH %s 1\n.SH NAME\n%s \\- %s\n", roff(strings.ToUpper(name)), roff(name), roff(strings.TrimSuffix(what, ".")))
}

func manFlags(flags []*kong.Flag) string {
	var b strings.Builder
	for _, f := range flags {
		if !f.Hidden && f.Name != "help" {
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s\n", roff(f.String()), roff(f.Help))
		}
	}
	return b.String()
}

// paragraphs writes text whose paragraphs have an empty line between them.
func paragraphs(text string) string {
	return roff(strings.ReplaceAll(strings.TrimSpace(text), "\n\n", "\n.PP\n")) + "\n"
}

// roff keeps text from being taken for a request, or for an escape.
func roff(text string) string {
	lines := strings.Split(strings.NewReplacer("\\", "\\e", "-", "\\-").Replace(text), "\n")
	for i, line := range lines {
		if line != ".PP" && (strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'")) {
			lines[i] = "\\&" + line
		}
	}
	return strings.Join(lines, "\n")
}
