// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"mime"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/sdk"
)

// maxArtifact is the contract's limit. The server has a lower one, which its error names.
const maxArtifact = 48 << 20

type artifactsCmd struct {
	Kind  string `enum:",plan,summary,diff,trace,proof,other" default:"" placeholder:"KIND" help:"Only plan, summary, diff, trace, proof or other ones."`
	Task  string `placeholder:"ID" help:"Only those of this task."`
	Tag   string `placeholder:"TAG" help:"Only those with this tag."`
	Limit int    `placeholder:"N" help:"At most this many (default: as the server chooses)."`
}

// Run lists artifacts.
func (c *artifactsCmd) Run(a *app) error {
	list, err := a.client.Artifacts(a.ctx, sdk.ArtifactFilter{Kind: sdk.ArtifactKind(c.Kind), TaskID: c.Task, Tag: c.Tag, Limit: c.Limit})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(&sdk.ArtifactList{Artifacts: list})
	}
	return a.table(artifactRows(list...))
}

func artifactRows(list ...sdk.Artifact) [][]string {
	rows := [][]string{{"ARTIFACT", "KIND", "BYTES", "TYPE", "TASK", "TAGS", "CREATED"}}
	for _, v := range list {
		rows = append(rows, []string{
			v.ID, string(v.Kind), strconv.FormatInt(v.SizeBytes, 10), v.MediaType, v.TaskID, strings.Join(v.Tags, ","),
			v.CreatedAt.Local().Format(timeLayout),
		})
	}
	return rows
}

// artifactCmd holds the commands for one artifact.
type artifactCmd struct {
	Get artifactGetCmd `cmd:"" help:"Print an artifact's bytes, or save them; they are checked against its id."`
	Put artifactPutCmd `cmd:"" help:"Store a file as an artifact."`
}

type artifactGetCmd struct {
	ID  string `arg:"" help:"The artifact's id."`
	Out string `short:"o" placeholder:"FILE" help:"Save to this file (default: print)."`
}

// Run gets the bytes. A file only gets its name when it is whole.
func (c *artifactGetCmd) Run(a *app) error {
	entry, content, err := a.client.ArtifactContent(a.ctx, c.ID)
	if err != nil {
		return err
	}
	defer content.Close()
	if c.Out != "" {
		if err := save(c.Out, content); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(entry)
		}
		return a.table(artifactRows(*entry))
	}
	if terminal(a.out) {
		return a.printText(content)
	}
	if _, err := io.Copy(a.out, content); err != nil {
		return err
	}
	return nil
}

// printText prints unknown text to a terminal, without what the terminal would take for commands.
func (a *app) printText(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if !utf8.Valid(text) {
		return usagef("the artifact is no text: save it with -o FILE")
	}
	shown := strings.Map(visible, string(text))
	if shown != "" && !strings.HasSuffix(shown, "\n") {
		shown += "\n" // this is for a person, and the prompt would stand behind the last line
	}
	if _, err := io.WriteString(a.out, shown); err != nil {
		return fmt.Errorf("printing the artifact: %w", err)
	}
	return nil
}

// save writes a file that has its name only when it is whole.
func save(name string, r io.Reader) error {
	var read error
	err := atomicfile.Fill(name, 0o600, func(f *os.File) error {
		_, read = io.Copy(f, r)
		return read
	})
	if read != nil { // it says what is wrong with the answer
		return read
	}
	if err != nil {
		return fmt.Errorf("saving the artifact: %w", err)
	}
	return nil
}

type artifactPutCmd struct {
	File      string            `arg:"" help:"The file; - reads stdin."`
	Kind      string            `required:"" enum:"plan,summary,diff,trace,proof,other" placeholder:"KIND" help:"plan, summary, diff, trace, proof or other."`
	Task      string            `placeholder:"ID" help:"The task it belongs to."`
	Parent    string            `placeholder:"ID" help:"The artifact that it was made from."`
	Tag       []string          `placeholder:"TAG" help:"A tag; may be repeated."`
	Note      map[string]string `mapsep:"none" placeholder:"KEY=VALUE" help:"A fact about it, as KEY=VALUE; may be repeated."`
	MediaType string            `placeholder:"TYPE" help:"Its media type (default: by the file's name)."`
}

// Run stores a file.
func (c *artifactPutCmd) Run(a *app) error {
	text, err := readFile(a.stdin, c.File, maxArtifact)
	if err != nil {
		return err
	}
	request := &sdk.ArtifactRequest{
		Kind: sdk.ArtifactKind(c.Kind), Content: string(text), Encoding: sdk.ArtifactRequestEncodingUTF8, MediaType: c.MediaType,
		TaskID: c.Task, Parent: c.Parent, Tags: c.Tag,
	}
	if !utf8.Valid(text) {
		request.Content = base64.StdEncoding.EncodeToString(text)
		request.Encoding = sdk.ArtifactRequestEncodingBase64
	}
	if c.MediaType == "" {
		request.MediaType = mime.TypeByExtension(filepath.Ext(c.File))
	}
	for _, key := range slices.Sorted(maps.Keys(c.Note)) {
		request.Metadata = append(request.Metadata, sdk.ArtifactNote{Key: key, Value: c.Note[key]})
	}
	entry, err := a.client.PutArtifact(a.ctx, request)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(entry)
	}
	return a.table(artifactRows(*entry))
}

// readFile reads a file or, by the name -, stdin, up to a limit.
func readFile(stdin io.Reader, name string, most int64) ([]byte, error) {
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	case int64(len(text)) > most:
		return nil, usagef("%s is longer than %d MiB", name, most>>20)
	}
	return text, nil
}
