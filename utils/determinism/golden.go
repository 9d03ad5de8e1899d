// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/internal/plainjson"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/llm"
)

// goldenFormat names the form of a golden transcript. Another form has another name.
const goldenFormat = "llama-orch.golden.v1"

// golden is a file: a request, and the events that answered it.
type golden struct {
	Format  string           `json:"format"`
	Digest  string           `json:"digest"` // of the request
	Request *sdk.TaskRequest `json:"request"`
	TaskID  string           `json:"task_id"`
	Events  []sdk.Frame      `json:"events"`
}

// Digest is the SHA-256, in hex, of what a request asks: of its JSON without the task's id. A golden transcript is found by it.
func Digest(request *sdk.TaskRequest) (string, error) {
	own := *request
	own.TaskID = ""
	text, err := plainjson.Encode(&own)
	if err != nil {
		return "", fmt.Errorf("the request has no JSON: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// GoldenError says why a request has no golden transcript that it could be answered with.
type GoldenError struct {
	Path   string // of its file
	Digest string // of the request
	Why    string
}

func (e *GoldenError) Error() string {
	return fmt.Sprintf("the request %.12s cannot be replayed: %s (%s); record it anew: run it against a server through determinism.Record, as `llama-orch applet run determinism.record` does",
		e.Digest, e.Why, e.Path)
}

// Golden answers from a folder of golden transcripts, without a server. The zero value of what it is to be pinned to allows any.
type Golden struct {
	Folder string
	// ModelDigest and Fingerprint, if set, are those that the receipts must have.
	ModelDigest, Fingerprint string
}

// Run implements llm.Caller. The events are those that were recorded, byte for byte, and are checked against their ids and the receipt.
func (g Golden) Run(ctx context.Context, request *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		kept, err := g.find(request)
		if err != nil {
			yield(nil, err)
			return
		}
		for event, err := range sdk.Replay(kept.TaskID, kept.Events) {
			if err == nil {
				err = ctx.Err()
			}
			if end, ok := event.(sdk.End); ok && err == nil {
				err = g.pinned(kept.Digest, end.Receipt)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(event, nil) {
				return
			}
		}
	}
}

func (g Golden) path(digest string) string { return filepath.Join(g.Folder, digest[:32]+".json") }

func (g Golden) find(request *sdk.TaskRequest) (*golden, error) {
	digest, err := Digest(request)
	if err != nil {
		return nil, err
	}
	refuse := func(format string, args ...any) error {
		return &GoldenError{Path: g.path(digest), Digest: digest, Why: fmt.Sprintf(format, args...)}
	}
	text, err := os.ReadFile(g.path(digest))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, refuse("no transcript of it was recorded")
	case err != nil:
		return nil, refuse("%v", err)
	}
	var kept golden
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, refuse("its file is no golden transcript: %v", err)
	}
	if kept.Format != goldenFormat || kept.Request == nil {
		return nil, refuse("its file is no golden transcript of this program: its format is %.40q", kept.Format)
	}
	of, err := Digest(kept.Request)
	if err != nil {
		return nil, refuse("%v", err)
	}
	if of != digest || kept.Digest != digest {
		return nil, refuse("its file is of another request, %.12s for the model %q", of, kept.Request.ModelRef)
	}
	return &kept, nil
}

func (g Golden) pinned(digest string, r sdk.Receipt) error {
	for _, pin := range []struct{ what, want, got string }{{"model", g.ModelDigest, r.ModelDigest}, {"fingerprint", g.Fingerprint, r.Fingerprint}} {
		if pin.want != "" && pin.want != pin.got {
			return &GoldenError{Path: g.path(digest), Digest: digest, Why: fmt.Sprintf("it was recorded with the %s %s, and %s is wanted", pin.what, pin.got, pin.want)}
		}
	}
	return nil
}

// Record runs what another caller runs, and keeps the transcript of each task that comes to its last event, in the folder. A request that was recorded before is
// recorded anew.
func Record(folder string, live llm.Caller) llm.Caller { return recorder{Golden{Folder: folder}, live} }

type recorder struct {
	to   Golden
	live llm.Caller
}

func (r recorder) Run(ctx context.Context, request *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		digest, err := Digest(request)
		if err != nil {
			yield(nil, err)
			return
		}
		own := *request
		own.TaskID = ""
		kept := golden{Format: goldenFormat, Digest: digest, Request: &own}
		for event, err := range r.live.Run(ctx, request) {
			if err == nil {
				err = r.keep(&kept, event)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(event, nil) {
				return
			}
		}
	}
}

// keep adds an event. The file is there, whole, before the caller sees the last one. What is not of the task's log, its moving figures, is left out.
func (r recorder) keep(kept *golden, event sdk.Event) error {
	switch e := event.(type) {
	case sdk.Metrics:
		return nil
	case sdk.Started:
		kept.TaskID = e.TaskID
	}
	kept.Events = append(kept.Events, event.Wire())
	switch event.(type) {
	case sdk.End, sdk.ErrorEvent:
		return r.write(kept)
	}
	return nil
}

func (r recorder) write(kept *golden) error {
	text, err := kept.text()
	if err == nil {
		err = os.MkdirAll(r.to.Folder, 0o755)
	}
	if err == nil {
		err = atomicfile.Write(r.to.path(kept.Digest), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("recording a transcript: %w", err)
	}
	return nil
}

// text is the file: JSON with an event a line, so that two can be compared by eye. It is held to what it says before it is kept.
func (g *golden) text() ([]byte, error) {
	head := *g
	head.Events = []sdk.Frame{}
	text, err := plainjson.Encode(head)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimSuffix(text, []byte("]}"))
	for i, e := range g.Events {
		line, err := plainjson.Encode(e)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(text, '\n'), line...)
	}
	text = append(text, "\n]}\n"...)
	var again golden
	if err := json.Unmarshal(text, &again); err != nil {
		return nil, err
	}
	for _, err := range sdk.Replay(again.TaskID, again.Events) {
		if err != nil {
			return nil, err
		}
	}
	return text, nil
}
