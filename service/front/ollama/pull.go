// SPDX-License-Identifier: GPL-3.0-or-later

package ollama

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// pull serves /api/pull. Its response begins after a while, so that a refusal still has its status.
func (f *Front) pull(w http.ResponseWriter, r *http.Request) error {
	var in modelRequest
	_, name, _, err := f.read(r, &in, &in.common)
	if err != nil {
		return err
	}
	fetch, err := f.o.Library.Pull(r.Context(), reference(name), f.x.Hold())
	if err != nil {
		return naming(in.shown(), err)
	}
	how, streams := oneAnswer, in.streams()
	if streams {
		how = lineByLine
	}
	return f.o.Streams.Deliver(w, r, &pulling{library: f.o.Library, fetch: fetch, streams: streams}, how)
}

// reference is a model ref in place of Ollama's name for a repository of the hub.
func reference(name string) string {
	for _, hub := range []string{"hf.co/", "huggingface.co/"} {
		if repo, ok := strings.CutPrefix(name, hub); ok {
			return "hf:" + strings.TrimSuffix(repo, ":latest")
		}
	}
	return name
}

// remove serves /api/delete.
func (f *Front) remove(w http.ResponseWriter, r *http.Request) error {
	var in modelRequest
	_, name, _, err := f.read(r, &in, &in.common)
	if err != nil {
		return err
	}
	return naming(in.shown(), f.o.Library.Delete(r.Context(), name))
}

// progress is a line of a pull.
type progress struct {
	Status    string `json:"status"`
	Digest    string `json:"digest,omitempty"`
	Total     int64  `json:"total,omitempty"`
	Completed int64  `json:"completed,omitempty"`
}

// The words of a pull's lines that clients know.
const (
	pullingManifest = "pulling manifest"
	verifying       = "verifying sha256 digest"
	success         = "success"
)

// pulling is the stream of a pull. It implements delivery.Stream.
type pulling struct {
	library Library
	fetch   Fetch
	streams bool // else the client gets one answer in the end
	begun   bool
	last    bool // the last line is among the frames of the last Next
	told    error
	shown   int64 // bytes that the client was told of
	checks  bool  // and that they are being checked
}

// lookEvery is the time between two looks at a fetch.
const lookEvery = 250 * time.Millisecond

// Next is delivery.Stream's.
func (p *pulling) Next(ctx context.Context, tick <-chan time.Time) ([]byte, error) {
	if p.told != nil {
		return nil, p.told
	}
	if !p.begun {
		p.begun = true
		if lines := p.lines(p.tell(nil, progress{Status: pullingManifest})); len(lines) > 0 {
			return lines, nil
		}
	}
	for {
		select {
		case <-tick:
			return nil, nil
		default:
		}
		fetch, err := p.library.Fetched(ctx, p.fetch.ID, lookEvery)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil { // a stream that breaks off must not end cleanly
			p.told = errTold
			return appendError(nil, err), nil
		}
		p.fetch = fetch
		if lines := p.lines(nil); len(lines) > 0 {
			return lines, nil
		}
	}
}

var errTold = errors.New("the pull failed, and its client was told")

// lines appends what is new.
func (p *pulling) lines(b []byte) []byte {
	f := p.fetch
	if f.Total > 0 && f.Done != p.shown && !f.Over {
		p.shown = f.Done
		b = p.tell(b, progress{Status: "pulling " + f.ID, Digest: f.Digest, Total: f.Total, Completed: f.Done})
	}
	if f.Total > 0 && f.Done >= f.Total && !f.Over && !p.checks {
		p.checks = true
		b = p.tell(b, progress{Status: verifying})
	}
	if f.Over {
		p.last = true
		b = progress{Status: success}.append(b)
	}
	return b
}

// tell appends a line that only a stream has.
func (p *pulling) tell(b []byte, line progress) []byte {
	if !p.streams {
		return b
	}
	return line.append(b)
}

func (l progress) append(b []byte) []byte { return appendLine(b, l) }

// Written is delivery.Stream's.
func (p *pulling) Written() {}

// Direct is delivery.Stream's.
func (p *pulling) Direct(func([]byte) bool) {}

// Last is delivery.Stream's.
func (p *pulling) Last() bool { return p.last }

// Metrics is delivery.Stream's.
func (p *pulling) Metrics() (task.Metrics, bool) { return task.Metrics{}, false }

// Close is delivery.Stream's. The fetch goes on.
func (p *pulling) Close() {}
