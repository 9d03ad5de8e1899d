// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"context"
	"encoding/json"

	"github.com/llama-orch/llama-orch/service/task"
)

// Only some engines have the faces that follow. Whoever needs one looks for it with a type assertion. If it is missing, they do without
// it, or refuse the task.

// TokenCounter counts the tokens of a prompt as Generate would see them, BOS included.
type TokenCounter interface {
	CountTokens(ctx context.Context, prompt string) (int, error)
}

// Templater turns the turns of a chat into a prompt, with the model's own template. Chat is what is asked besides them; nil: nothing. Where an image
// stands, the prompt has task.MediaMarker.
type Templater interface {
	ApplyTemplate(ctx context.Context, messages []task.Message, chat *task.Chat) (string, error)
}

// ChatCounter counts the tokens of a chat's prompt, those of its images included, which no prompt shows.
type ChatCounter interface {
	CountChat(ctx context.Context, messages []task.Message, chat *task.Chat) (int, error)
}

// Chatter is an Engine whose Generate takes Job.Messages in the place of a prompt.
type Chatter interface{ Chats() }

// Continuer is an Engine that can go on behind Job.Sent and Job.SentThinking.
type Continuer interface {
	// Continues reports whether it can behind what was sent of this job, which it has begun to run. It asks nobody, since the engine may be gone.
	Continues(job Job) bool
}

// Embedder runs embedding jobs. The answer is the `result` of the task's `end` event, as for a Reranker.
type Embedder interface {
	Embed(ctx context.Context, job Job) (json.RawMessage, Result, error)
}

// Reranker runs rerank jobs.
type Reranker interface {
	Rerank(ctx context.Context, job Job) (json.RawMessage, Result, error)
}

// BusyCounter tells how many slots of the engine are busy. Without it, a cancel relies on the engine to stop when its connection is
// closed.
type BusyCounter interface {
	Busy(ctx context.Context) (int, error)
}

// Keeper tells what its slots hold, and empties them.
type Keeper interface {
	Slots(ctx context.Context) ([]Slot, error)
	// Erase forgets what a slot holds.
	Erase(ctx context.Context, slot int) error
}

// Saver writes what its slots hold to files, and reads it back. Where they are, their worker was told (Worker.Saves).
type Saver interface {
	// Save writes what a slot holds to a file of that name.
	Save(ctx context.Context, slot int, name string) (Saved, error)
	// Restore has a slot hold what was saved of a slot of a worker with the same fingerprint. If it fails, nobody knows what the slot holds.
	Restore(ctx context.Context, slot int, s Saved) error
}

// Saved is what a slot held when it was saved.
type Saved struct {
	Name   string
	Tokens int
	Bytes  int64 // of the file
	Note   any   // the engine's own, for Restore
}

// Closer has something to give back when the engine is not used any more, such as idle connections.
type Closer interface{ Close() }

// Faces are the faces of an engine.
type Faces struct {
	CountsTokens, CountsChats, Templates, Chats, Embeds, Reranks, Continues, CountsBusy, KeepsSlots, SavesSlots bool
}

// FacesOf finds the faces of an engine.
func FacesOf(e Engine) (f Faces) {
	_, f.CountsTokens = e.(TokenCounter)
	_, f.CountsChats = e.(ChatCounter)
	_, f.Templates = e.(Templater)
	_, f.Chats = e.(Chatter)
	_, f.Embeds = e.(Embedder)
	_, f.Reranks = e.(Reranker)
	_, f.Continues = e.(Continuer)
	_, f.CountsBusy = e.(BusyCounter)
	_, f.KeepsSlots = e.(Keeper)
	_, f.SavesSlots = e.(Saver)
	return f
}

// Faces are the faces of the kind's engines. No engine is called to find out.
func (k Kind) Faces() Faces {
	e := k.New(Endpoint{})
	if c, ok := e.(Closer); ok {
		defer c.Close()
	}
	return FacesOf(e)
}

// Names lists the faces by the names that capabilities show.
func (f Faces) Names() (names []string) {
	for _, face := range []struct {
		has  bool
		name string
	}{
		{f.CountsTokens, "token_count"},
		{f.Templates, "chat_template"},
		{f.Chats, "chat"},
		{f.Embeds, "embedding"},
		{f.Reranks, "rerank"},
		{f.Continues, "continue"},
		{f.CountsBusy, "busy_slots"},
		{f.KeepsSlots, "kv_erase"},
		{f.SavesSlots, "kv_save"},
	} {
		if face.has {
			names = append(names, face.name)
		}
	}
	return names
}

// Refuse says why an engine with these faces cannot run a task of the workload, with messages or without; nil: it can.
func (f Faces) Refuse(w task.Workload, messages bool) *task.Error {
	switch {
	case w == task.Opaque:
		return task.Errorf(task.InvalidParams, "the pool takes no tasks: send its requests to the paths under its `routes`")
	case w == task.Embedding && !f.Embeds:
		return task.Errorf(task.InvalidParams, "the pool's engine makes no embeddings: send the task to a pool of another engine")
	case w == task.Rerank && !f.Reranks:
		return task.Errorf(task.InvalidParams, "the pool's engine does not rerank: send the task to a pool of another engine")
	case messages && !f.Templates && !f.Chats:
		return task.Errorf(task.InvalidParams, "the pool's engine takes no messages: send them as one `prompt`, or to a pool of another engine")
	}
	return nil
}

// Answer runs an embedding or rerank job, or refuses it if the engine has no face for it.
func Answer(ctx context.Context, e Engine, job Job) (json.RawMessage, Result, error) {
	switch job.Workload {
	case task.Embedding:
		if face, ok := e.(Embedder); ok {
			return face.Embed(ctx, job)
		}
	case task.Rerank:
		if face, ok := e.(Reranker); ok {
			return face.Rerank(ctx, job)
		}
	case task.Completion, task.Opaque:
	}
	if err := FacesOf(e).Refuse(job.Workload, false); err != nil {
		return nil, Result{}, err
	}
	return nil, Result{}, task.Errorf(task.Internal, "a %s task has no answer", job.Workload)
}
