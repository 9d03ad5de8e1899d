// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	guide "github.com/llama-orch/llama-orch/contracts/errors"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/applet"
)

// The scripts that call `llama-orch complete`.
var (
	//go:embed completion/bash.sh
	bashScript string
	//go:embed completion/zsh.sh
	zshScript string
	//go:embed completion/fish.fish
	fishScript string
)

// completionCmd prints a shell's script.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints.
func (c *completionCmd) Run(a *app) error {
	script := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	if a.json {
		return a.printJSON(map[string]string{"shell": c.Shell, "script": script})
	}
	_, err := io.WriteString(a.out, script)
	return err
}

// completeCmd says what may come next. The shells' scripts call it.
type completeCmd struct {
	Line  bool     `help:"The words are one line, as it was typed: of bash, which parts words at colons too."`
	Words []string `arg:"" optional:"" help:"What was typed behind the program's name; the last word is the one to complete."`
}

// askWithin bounds the wait for a server, so that a key is answered at once (LO-945).
const askWithin = 150 * time.Millisecond

// files tells a script that file names come here.
const files = ":files"

// candidate is what a word may become.
type candidate struct {
	Value string `json:"value"`
	Help  string `json:"help,omitempty"`
}

// Run prints candidates, each with what it is behind a tab. What cannot be known is left out, without a word: a message would end up in the line
// that somebody types.
func (c *completeCmd) Run(a *app) error {
	cut := 0
	if c.Line {
		c.Words = typed(strings.Join(c.Words, " "))
		c.Words = c.Words[min(1, len(c.Words)):]
		if len(c.Words) > 0 {
			last := c.Words[len(c.Words)-1]
			cut = strings.LastIndexAny(last, ":=") + 1 // bash completes what is behind these
		}
	}
	s := &typing{a: a, node: a.command.Model.Node}
	all := s.candidates(c.Words)
	if a.json {
		return a.printJSON(all)
	}
	for _, one := range all {
		line := one.Value
		if one.Value != files {
			line = line[min(cut, len(line)):]
		}
		if one.Help != "" && !c.Line {
			line += "\t" + oneLine(one.Help)
		}
		if _, err := fmt.Fprintln(a.out, line); err != nil {
			return fmt.Errorf("printing candidates: %w", err)
		}
	}
	return nil
}

// typed parts a line as a shell does, as far as it is typed: the last word is what is being typed, and may be empty.
func typed(line string) []string {
	words, within, quote, escaped := []string{""}, false, rune(0), false
	for _, r := range line {
		last := &words[len(words)-1]
		switch {
		case escaped:
			*last += string(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, within = true, true
		case r == quote:
			quote = 0
		case quote != 0:
			*last += string(r)
		case r == '\'' || r == '"':
			quote, within = r, true
		case r != ' ' && r != '\t':
			*last += string(r)
			within = true
		case within:
			words, within = append(words, ""), false
		}
	}
	return words
}

// typing is a command line that is being typed.
type typing struct {
	a    *app
	node *kong.Node // the command so far
	at   int        // its next positional argument
	addr string
}

func (s *typing) candidates(words []string) []candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	flag, plain := s.read(words[:len(words)-1])
	var all []candidate
	name, _, joined := strings.Cut(last, "=")
	switch {
	case flag != nil:
		all = s.values(flag.Value, flag.Name)
	case !plain && joined && strings.HasPrefix(name, "--"):
		if f := s.flag(strings.TrimPrefix(name, "--")); f != nil {
			all = s.values(f.Value, f.Name)
			for i := range all {
				if all[i].Value != files {
					all[i].Value = name + "=" + all[i].Value
				}
			}
		}
	case !plain && strings.HasPrefix(last, "-"):
		all = s.flags()
	default:
		all = append(s.commands(), s.argument()...)
	}
	return slices.DeleteFunc(all, func(c candidate) bool { return c.Value != files && !strings.HasPrefix(c.Value, last) })
}

// read follows what is typed already. It returns the flag that waits for its value, and whether all that follows are plain words.
func (s *typing) read(words []string) (waiting *kong.Flag, plain bool) {
	for _, word := range words {
		switch {
		case waiting != nil:
			if waiting.Name == "addr" {
				s.addr = word
			}
			waiting = nil
		case plain || word == "-" || !strings.HasPrefix(word, "-"):
			s.word(word)
		case word == "--":
			plain = true
		default:
			name, value, joined := strings.Cut(strings.TrimLeft(word, "-"), "=")
			f := s.flag(name)
			if f == nil || f.IsBool() {
				continue
			}
			if !joined {
				waiting = f
			} else if f.Name == "addr" {
				s.addr = value
			}
		}
	}
	return waiting, plain
}

// word is a command's name, or an argument.
func (s *typing) word(word string) {
	for _, child := range s.node.Children {
		if child.Name == word || slices.Contains(child.Aliases, word) {
			s.node, s.at = child, 0
			return
		}
	}
	if s.node.DefaultCmd != nil {
		s.node = s.node.DefaultCmd
	}
	s.at++
}

// flag finds a flag of the command so far, by its name or its letter.
func (s *typing) flag(name string) *kong.Flag {
	for _, group := range s.node.AllFlags(false) {
		for _, f := range group {
			if f.Name == name || f.Short != 0 && string(f.Short) == name || slices.Contains(f.Aliases, name) {
				return f
			}
		}
	}
	return nil
}

func (s *typing) flags() (all []candidate) {
	for _, group := range s.node.AllFlags(true) {
		for _, f := range group {
			all = append(all, candidate{"--" + f.Name, f.Help})
		}
	}
	return all
}

func (s *typing) commands() (all []candidate) {
	if s.at > 0 {
		return nil
	}
	for _, child := range s.node.Children {
		if !child.Hidden {
			all = append(all, candidate{child.Name, child.Help})
		}
	}
	return all
}

// argument completes the next positional argument, of the command or of the one that it stands for.
func (s *typing) argument() []candidate {
	node := s.node
	if node.DefaultCmd != nil {
		node = node.DefaultCmd
	}
	if len(node.Positional) == 0 {
		return nil
	}
	if s.at >= len(node.Positional) && !node.Positional[len(node.Positional)-1].IsCumulative() {
		return nil
	}
	value := node.Positional[min(s.at, len(node.Positional)-1)]
	return s.values(value, nameOf(node)+" "+value.Name)
}

// values completes a value. What is of a server is looked up there.
func (s *typing) values(v *kong.Value, name string) (all []candidate) {
	if v.Enum != "" {
		for _, one := range v.EnumSlice() {
			if one = strings.TrimSpace(one); one != "" {
				all = append(all, candidate{Value: one})
			}
		}
		return all
	}
	kind := kinds[name]
	if kind == theirFile || kind == "" && v.Flag != nil && (v.Flag.PlaceHolder == "FILE" || v.Flag.PlaceHolder == "FOLDER" || v.Tag.Type == "path") {
		return []candidate{{Value: files}}
	}
	ctx, cancel := context.WithTimeout(s.a.ctx, askWithin)
	defer cancel()
	client := s.a.client
	if s.addr != "" {
		var err error
		if client, err = sdk.New(sdk.Options{Addr: servers(s.addr, s.a.env)[0], Token: s.a.env(tokenEnv)}); err != nil {
			return nil
		}
		defer client.Close()
	}
	all = look(ctx, client, kind)
	if kind == ofProofs {
		all = append(all, candidate{Value: files})
	}
	return all
}

// What values are, beside files and what the command itself lists.
const (
	ofPools    = "pools"
	ofModels   = "models" // that pools serve
	ofCatalog  = "catalog"
	ofTasks    = "tasks"
	ofRunning  = "running tasks"
	ofEnded    = "ended tasks"
	ofProofs   = "ended tasks and files"
	ofArtifact = "artifacts"
	ofApplets  = "applets"
	ofErrors   = "error codes"
	theirFile  = "file"
	free       = "free" // nobody can know it
)

// kinds are what flags are, by their names, and arguments, by their commands and names. A test holds it to the commands.
var kinds = map[string]string{
	"model": ofModels, "pool": ofPools, "prefer": ofPools, "avoid": ofPools, "task": ofTasks, "parent": ofArtifact,
	"cancel id": ofRunning, "rm id": ofEnded, "stream id": ofTasks, "task id": ofTasks, "proof task": ofProofs, "replay proof": ofProofs, "verify proof": ofProofs, "bisect a": ofProofs, "bisect b": ofProofs,
	"pools id": ofPools, "pool health id": ofPools, "pool drain id": ofPools, "pool resume id": ofPools, "pool load id": ofPools, "pool unload id": ofPools,
	"pool reload id": ofPools, "pool reload ref": ofCatalog, "models show id": ofCatalog, "models verify id": ofCatalog, "models retire id": ofCatalog,
	"models activate id": ofCatalog, "models delete id": ofCatalog, "artifact get id": ofArtifact, "artifact put file": theirFile, "init source": theirFile,
	"run prompt": free, "models add ref": free, "session show id": free, "session delete id": free, "complete words": free, "docs folder": theirFile,
	"errors code": ofErrors, "applet show name": ofApplets, "applet run name": ofApplets, "applet run input": free, "blueprint run file": theirFile, "blueprint plan file": theirFile,
	"blueprint check file": theirFile, "blueprint show dir": theirFile,
	"pull model": ofCatalog, "snapshot diff before": theirFile, "snapshot diff after": theirFile,
}

// mostIDs is how many tasks are looked up.
const mostIDs = 50

// look asks a server for names. An error is nothing known.
func look(ctx context.Context, client *sdk.Client, kind string) (all []candidate) {
	switch kind {
	case ofApplets:
		for _, one := range applet.All() {
			all = append(all, candidate{one.Name, one.Doc})
		}
	case ofErrors:
		for _, one := range guide.Sections() {
			all = append(all, candidate{Value: one.Code})
		}
	case ofPools, ofModels:
		pools, err := client.Pools(ctx)
		if err != nil {
			return nil
		}
		for _, p := range pools {
			one := candidate{p.ID, p.Model.ID + ", " + string(p.State)}
			if kind == ofModels {
				one = candidate{p.Model.ID, "pool " + p.ID + ", " + string(p.State)}
			}
			if !slices.ContainsFunc(all, func(c candidate) bool { return c.Value == one.Value }) {
				all = append(all, one)
			}
		}
	case ofCatalog:
		models, err := client.Models(ctx, "")
		if err != nil {
			return nil
		}
		for _, m := range models {
			all = append(all, candidate{m.ID, string(m.State)})
		}
	case ofTasks, ofRunning, ofEnded, ofProofs:
		tasks, err := client.List(ctx, "", mostIDs)
		if err != nil {
			return nil
		}
		for _, t := range tasks {
			state := string(t.State)
			ended := state == "completed" || state == "canceled" || state == "failed"
			if kind == ofTasks || ended == (kind != ofRunning) {
				all = append(all, candidate{t.TaskID, state + " in " + t.PoolID})
			}
		}
	case ofArtifact:
		artifacts, err := client.Artifacts(ctx, sdk.ArtifactFilter{})
		if err != nil {
			return nil
		}
		for _, one := range artifacts {
			all = append(all, candidate{one.ID, string(one.Kind)})
		}
	}
	return all
}
