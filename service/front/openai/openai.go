// SPDX-License-Identifier: GPL-3.0-or-later

// Package openai is the front that speaks OpenAI's dialect: chat completions, completions, embeddings and models (LO-408). It turns
// requests into tasks, and the events of a task into chunks or one answer.
package openai

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// Tasks is the line of tasks.
type Tasks interface {
	// Submit accepts a task, or refuses it with a *task.Error.
	Submit(ctx context.Context, r task.Request) (task.Admission, error)
	// Events opens a task's events from the start.
	Events(ctx context.Context, id string) (delivery.Events, error)
	Cancel(ctx context.Context, id string) (task.CancelResult, error)
}

// Model is a model that pools serve.
type Model struct {
	ID      string
	Ctx     int       // tokens; 0: not known
	Created time.Time // of its first pool
}

// Options are what a Front is made from. Tasks, Models and Streams are needed.
type Options struct {
	Tasks   Tasks
	Models  func() []Model
	Streams *delivery.Streams
	Log     *zap.Logger      // default none
	Now     func() time.Time // default the wall clock's
	// Hold is how long the head of a stream is held back while its task waits; default 5 s. HoldWhole is the same for an answer
	// that is sent as a whole; default 240 s (LO-406).
	Hold, HoldWhole time.Duration
}

// Front implements gate.Front.
type Front struct{ o Options }

// New makes a front.
func New(o Options) *Front {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named("openai")
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Hold, o.HoldWhole = cmp.Or(o.Hold, 5*time.Second), cmp.Or(o.HoldWhole, 240*time.Second)
	return &Front{o: o}
}

// Paths are where the front is mounted.
func Paths() []string {
	return []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"}
}

const modelsPath = "/v1/models"

// operation is one call of the dialect.
type operation struct {
	name   string // for the log
	method string
	serve  func(f *Front, w http.ResponseWriter, r *http.Request) error
}

var operations = map[string]operation{
	"/v1/chat/completions": {"openai.chat", http.MethodPost, (*Front).chat},
	"/v1/completions":      {"openai.completion", http.MethodPost, (*Front).completion},
	"/v1/embeddings":       {"openai.embeddings", http.MethodPost, (*Front).embeddings},
	modelsPath:             {"openai.models", http.MethodGet, (*Front).models},
	modelsPath + "/":       {"openai.model", http.MethodGet, (*Front).model},
}

// find returns the operation of a path.
func find(path string) (operation, bool) {
	path = strings.TrimSuffix(path, "/")
	if strings.HasPrefix(path, modelsPath+"/") {
		path = modelsPath + "/"
	}
	o, ok := operations[path]
	return o, ok
}

// Route implements gate.Front.
func (f *Front) Route(r *http.Request) gate.Route {
	o, _ := find(r.URL.Path)
	return gate.Route{Operation: o.name}
}

// ServeHTTP serves a request that the gate has let through.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := gate.CallFrom(r.Context()).CorrelationID
	w.Header().Set("X-Request-Id", id)
	w.Header().Set("Request-Id", id)
	o, ok := find(r.URL.Path)
	switch {
	case !ok:
		f.Refuse(w, r, task.Errorf(task.NotFound, "there is no path %q", task.Clip(r.URL.Path, 100)))
	case r.Method != o.method && (r.Method != http.MethodHead || o.method != http.MethodGet):
		w.Header().Set("Allow", o.method)
		f.Refuse(w, r, task.Errorf(task.MethodNotAllowed, "%s takes %s, not %s", task.Clip(r.URL.Path, 100), o.method, task.Clip(r.Method, 20)))
	default:
		if err := o.serve(f, w, r); err != nil {
			f.Refuse(w, r, err)
		}
	}
}

// submit sends a task off, and opens its events. Done is called in the end, and says whether the client had the whole answer: where
// it did not, the task is canceled (LO-405).
func (f *Front) submit(w http.ResponseWriter, r *http.Request, q task.Request, body []byte) (e delivery.Events, id string, done func(whole bool), err error) {
	call := gate.CallFrom(r.Context())
	q.CorrelationID, q.Actor, q.BodySHA256 = call.CorrelationID, call.Identity, sha256.Sum256(body)
	key := r.Header.Get("Idempotency-Key")
	if key != "" { // the same request joins the task; a client that goes may come back for a while
		sum := sha256.Sum256([]byte(call.Identity + "\n" + key))
		q.ID, q.OnDisconnect = "key-"+hex.EncodeToString(sum[:16]), task.CancelIt
	}
	a, err := f.o.Tasks.Submit(r.Context(), q)
	if err != nil {
		return nil, "", nil, err
	}
	ctx := context.WithoutCancel(r.Context()) // the client may be gone by then
	done = func(whole bool) {
		if !whole && key == "" {
			f.cancel(ctx, a.TaskID)
		}
	}
	w.Header().Set("X-Task-Id", a.TaskID)
	w.Header().Set("X-Queue-Position", strconv.Itoa(max(a.QueuePosition, 0)))
	if e, err = f.o.Tasks.Events(r.Context(), a.TaskID); err != nil {
		done(false)
		return nil, "", nil, err
	}
	return e, a.TaskID, done, nil
}

// cancel ends the task of a client that is gone.
func (f *Front) cancel(ctx context.Context, id string) {
	ctx, stop := context.WithTimeout(ctx, cancelWithin)
	defer stop()
	if _, err := f.o.Tasks.Cancel(ctx, id); err != nil {
		f.o.Log.Warn("the task of a client that is gone was not canceled", zap.String("job_id", id), zap.Error(err))
	}
}

// cancelWithin bounds the cancel of a task whose client is gone.
const cancelWithin = 10 * time.Second

// stream sends the answer of a task as a stream. The head is held back until there is something to send, or for a while.
func (f *Front) stream(w http.ResponseWriter, r *http.Request, e delivery.Events, c *chunks, done func(whole bool)) error {
	held := time.NewTimer(f.o.Hold)
	defer held.Stop()
	var before []task.Events
	for begun := false; !begun; {
		events, news, err := e.NextEvents(r.Context(), held.C)
		if err != nil {
			e.Close()
			done(false)
			return err
		}
		if !news {
			break
		}
		e.Written() // a cancel need not wait for what is held back
		for one := range events.All() {
			if one.Kind == task.EventError {
				e.Close()
				done(true)
				return one.Err
			}
			begun = begun || one.Kind != task.EventStarted
		}
		before = append(before, events)
	}
	return f.o.Streams.Deliver(w, r, delivery.Encoded(e, c, before, done), dialect{})
}

// whole waits for a task's end, and sends what answer makes of it.
func (f *Front) whole(w http.ResponseWriter, r *http.Request, e delivery.Events, done func(whole bool), answer func(t task.Transcript, end *task.End) any) error {
	complete := false
	defer func() {
		e.Close()
		done(complete)
	}()
	held := time.NewTimer(f.o.HoldWhole)
	defer held.Stop()
	out := whole{w: w, control: http.NewResponseController(w)}
	for {
		events, news, err := e.NextEvents(r.Context(), held.C)
		switch {
		case err != nil:
			return out.fail(f, err)
		case !news: // the client is told that somebody is there
			if err := out.space(); err != nil {
				return out.fail(f, err)
			}
			held.Reset(signOfLife)
			continue
		}
		e.Written()
		if !events.Ended() {
			continue
		}
		complete = true
		if events.Err != nil {
			return out.fail(f, events.Err)
		}
		return out.send(f, events.End, answer(events.Transcript(), events.End))
	}
}

// signOfLife is the time between two pieces of white space before an answer.
const signOfLife = 10 * time.Second

// whole is an answer that is sent as a whole.
type whole struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

// space begins the response, and sends a space.
func (o *whole) space() error {
	if err := o.control.SetWriteDeadline(time.Now().Add(3 * signOfLife)); err != nil {
		return err
	}
	if !o.begun {
		o.begun = true
		o.w.Header().Set("Content-Type", "application/json")
		o.w.WriteHeader(http.StatusOK)
	}
	if _, err := io.WriteString(o.w, " "); err != nil {
		return err
	}
	return o.control.Flush()
}

// fail refuses the request, or breaks the response off where it has begun.
func (o *whole) fail(f *Front, err error) error {
	if !o.begun {
		return err
	}
	f.o.Log.Debug("an answer broke off", zap.Error(err))
	panic(http.ErrAbortHandler)
}

func (o *whole) send(f *Front, end *task.End, answer any) error {
	if o.begun {
		_ = o.control.SetWriteDeadline(time.Now().Add(3 * signOfLife)) // space has set one before
	} else {
		receipt(o.w.Header(), end)
	}
	write(f.o.Log, o.w, http.StatusOK, answer)
	return nil
}

// receipt sets the headers that prove an answer (LO-402).
func receipt(h http.Header, end *task.End) {
	for _, part := range receiptParts(&end.Receipt) {
		h.Set("X-Receipt-"+part[0], part[1])
	}
}

func receiptParts(r *task.Receipt) [][2]string {
	return slices.DeleteFunc([][2]string{
		{"Seed", strconv.FormatUint(uint64(r.Seed), 10)},
		{"Determinism", string(r.Determinism)},
		{"Fingerprint", r.Fingerprint},
		{"Request-Digest", r.RequestDigest},
		{"Transcript-Sha256", r.TranscriptSHA256},
		{"Model-Digest", r.ModelDigest},
	}, func(p [2]string) bool { return p[1] == "" })
}

// decode reads a JSON body into v, and returns it without its white space.
func decode(r *http.Request, v any) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, task.Errorf(task.InvalidParams, "this call needs a JSON body and has none")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return nil, undecodable(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		return nil, undecodable(err)
	}
	return compact.Bytes(), nil
}

// undecodable words what the decoder refused.
func undecodable(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return task.Errorf(task.InvalidParams, "the body must be a JSON object, not a JSON %s", wrong.Value)
		}
		return bad(strings.TrimPrefix(wrong.Field, "common."), "it must not be a JSON %s", wrong.Value)
	}
	if wrong, ok := errors.AsType[*task.Error](err); ok {
		return wrong
	}
	return task.Errorf(task.InvalidParams, "the body is not valid JSON: %s", err)
}
