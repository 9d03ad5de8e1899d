// SPDX-License-Identifier: GPL-3.0-or-later

// Package exchange is what the fronts of all dialects do alike: they submit a request as a task, wait with its client, and send its
// answer as a stream or as a whole (LO-402, LO-405 to LO-407). What a request means, and how an answer looks, is each front's own.
package exchange

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
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
	// Record is what is known of a task: of one that has not ended, with what it has said so far. Again says that an earlier run of the
	// orchestrator may have told its readers more than that. NOT_FOUND, DELETED.
	Record(ctx context.Context, id string) (r task.Record, again bool, err error)
	// Delete deletes an ended task. Actor is who asks for it.
	Delete(ctx context.Context, id, actor string) error
	// Deleted returns those of the ids whose tasks were deleted.
	Deleted(ctx context.Context, ids []string) ([]string, error)
}

// Model is a model that pools serve.
type Model struct {
	ID      string
	Ctx     int       // tokens; 0: not known
	Created time.Time // of its first pool
}

// Options are what an Exchange is made from. Tasks, Models and Streams are needed.
type Options struct {
	Tasks   Tasks
	Models  func() []Model
	Streams *delivery.Streams
	// Count counts the tokens of a request's prompt as its engine would see them, without making it a task, or refuses it with a
	// *task.Error. Only a front that is asked for it needs it (LO-422).
	Count func(ctx context.Context, r task.Request) (int, error)
	Log   *zap.Logger      // default none
	Now   func() time.Time // default the wall clock's
	// Hold is how long the head of a stream is held back while its task waits; default 5 s. HoldWhole is the same for an answer
	// that is sent as a whole; default 240 s (LO-406).
	Hold, HoldWhole time.Duration
	// ReturnWithin is how long the task of a client that is gone goes on where the client sent a key to come back with; default 10 s. Keep is
	// how long what was asked and answered is kept after the end; default 10 min.
	ReturnWithin, Keep time.Duration
}

// Exchange serves one front.
type Exchange struct {
	o    Options
	name string
}

// New makes an Exchange for the front of that name.
func New(name string, o Options) *Exchange {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	o.Log = o.Log.Named(name)
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Hold, o.HoldWhole = cmp.Or(o.Hold, 5*time.Second), cmp.Or(o.HoldWhole, 240*time.Second)
	o.ReturnWithin, o.Keep = cmp.Or(o.ReturnWithin, 10*time.Second), cmp.Or(o.Keep, 10*time.Minute)
	return &Exchange{o: o, name: name}
}

// Now is the time that answers show.
func (x *Exchange) Now() time.Time { return x.o.Now() }

// Hold is how long the head of a stream is held back while its client waits.
func (x *Exchange) Hold() time.Duration { return x.o.Hold }

// HoldWhole is the same for an answer that is sent as a whole.
func (x *Exchange) HoldWhole() time.Duration { return x.o.HoldWhole }

// Models are the models that pools serve.
func (x *Exchange) Models() []Model { return x.o.Models() }

// Model is the model of that id.
func (x *Exchange) Model(id string) (Model, error) {
	all := x.o.Models()
	for _, m := range all {
		if m.ID == id {
			return m, nil
		}
	}
	return Model{}, NoModel(id, all)
}

// NoModel refuses an id that is not among the models.
func NoModel(id string, all []Model) error {
	known := make([]string, len(all))
	for i, m := range all {
		known[i] = m.ID
	}
	return task.Errorf(task.ModelNotFound, "there is no model %q; there are: %s", task.Clip(id, 100), cmp.Or(strings.Join(known, ", "), "none"))
}

// Count counts the tokens of a request's prompt.
func (x *Exchange) Count(ctx context.Context, q task.Request) (int, error) { return x.o.Count(ctx, q) }

// Answer is what comes of an accepted request. One of its methods must be called.
type Answer struct {
	ID           string    // of the task
	Created      time.Time // when the task was accepted. What joins it later gets the same
	Ended        time.Time // when the task ended; set when Whole has the answer made
	PromptTokens int       // 0: nobody has counted them yet
	Joins        bool      // the request has a key, so the task may be an earlier one's
	x            *Exchange
	events       delivery.Events
	done         func(whole bool)
	alone        bool // see Terms
}

// Terms are how long a task is kept, and what becomes of it without its client.
type Terms struct {
	Reply json.RawMessage // JSON that is kept with the task: what answers repeat of the request
	Kept  bool            // what was asked and answered is kept as long as that of a native task
	Alone bool            // the task goes on without its client
}

// Submit sends a request off as a task that is its client's alone. Body is what the client sent, without its white space.
func (x *Exchange) Submit(w http.ResponseWriter, r *http.Request, q task.Request, body []byte) (*Answer, error) {
	return x.SubmitOn(w, r, q, body, Terms{})
}

// SubmitOn is Submit on other terms.
func (x *Exchange) SubmitOn(w http.ResponseWriter, r *http.Request, q task.Request, body []byte, terms Terms) (*Answer, error) {
	call := gate.CallFrom(r.Context())
	q.CorrelationID, q.Actor, q.Traceparent = call.CorrelationID, call.Identity, call.Traceparent
	q.BodySHA256 = sha256.Sum256(body)
	q.Front, q.KeepText, q.OnDisconnect = task.Front{Dialect: x.name, Reply: terms.Reply}, x.o.Keep, task.CancelIt
	if terms.Kept {
		q.KeepText = 0
	}
	if terms.Alone {
		q.OnDisconnect = task.Continue
	}
	first, err := x.first(r)
	if err != nil {
		return nil, err
	}
	var admitted task.Admission
	if first == "" {
		admitted, err = x.o.Tasks.Submit(r.Context(), q)
	} else { // a client that goes may come back for a while
		q.ReturnWithin = x.o.ReturnWithin
		admitted, err = x.submitOnce(r.Context(), q, first)
	}
	if err != nil {
		return nil, err
	}
	a := &Answer{ID: admitted.TaskID, Created: admitted.AcceptedAt, PromptTokens: admitted.PromptTokens, Joins: first != "", x: x, alone: terms.Alone}
	a.done = x.keep
	if first == "" && !terms.Alone {
		a.done = x.canceler(a.ID) //nolint:contextcheck // the request is over by then
	}
	w.Header().Set("X-Task-Id", a.ID)
	w.Header().Set("X-Queue-Position", strconv.Itoa(max(admitted.QueuePosition, 0)))
	if a.events, err = x.o.Tasks.Events(r.Context(), a.ID); err != nil {
		a.done(false)
		return nil, err
	}
	return a, nil
}

// cancelWithin bounds the cancel of a task whose client is gone.
const cancelWithin = 10 * time.Second

// canceler ends the task of a client that is gone. It lives as long as the stream, and so keeps nothing of the request.
func (x *Exchange) canceler(id string) func(whole bool) {
	return func(whole bool) {
		if whole {
			return
		}
		ctx, stop := context.WithTimeout(context.Background(), cancelWithin)
		defer stop()
		_, err := x.o.Tasks.Cancel(ctx, id)
		if err != nil && !task.HasCode(err, task.ShuttingDown) { // at a stop it waits, and the next run cancels it (LO-405)
			x.o.Log.Warn("the task of a client that is gone was not canceled", zap.String("job_id", id), zap.Error(err))
		}
	}
}

// keep leaves the task of a client that is gone to the line, which waits for it.
func (x *Exchange) keep(bool) {}

// Stream sends the answer as a stream. Its head is held back until there is something to send, or for a while, so that a task that fails
// before still gets its status.
func (a *Answer) Stream(w http.ResponseWriter, r *http.Request, encoder delivery.Encoder, dialect delivery.Dialect) error {
	if a.alone { // its client is to have its id at once, and is told everything in the stream
		return a.x.o.Streams.Deliver(w, r, delivery.Encoded(a.events, encoder, nil, a.done), dialect)
	}
	held := time.NewTimer(a.x.o.Hold)
	defer held.Stop()
	var before []task.Events
	for begun := false; !begun; {
		events, news, err := a.events.NextEvents(r.Context(), held.C)
		if err != nil {
			a.events.Close()
			a.done(false)
			return delivery.BrokenOff(r.Context(), err)
		}
		if !news {
			break
		}
		a.events.Written() // a cancel need not wait for what is held back
		for one := range events.All() {
			if one.Kind == task.EventError {
				a.events.Close()
				a.done(true)
				return one.Err
			}
			begun = begun || one.Kind != task.EventStarted
		}
		before = append(before, events)
	}
	return a.x.o.Streams.Deliver(w, r, delivery.Encoded(a.events, encoder, before, a.done), dialect)
}

// Leave lets the task go on alone.
func (a *Answer) Leave() { a.events.Close() }

// Whole waits for the task's end, and sends as JSON what answer makes of it.
func (a *Answer) Whole(w http.ResponseWriter, r *http.Request, answer func(t task.Transcript, end *task.End) any) error {
	complete := false
	defer func() {
		a.events.Close()
		a.done(complete)
	}()
	a.events.AtEnd() // what nobody has been given can be decoded anew (LO-209)
	held := time.NewTimer(a.x.o.HoldWhole)
	defer held.Stop()
	out := whole{x: a.x, w: w, control: http.NewResponseController(w)}
	for {
		events, news, err := a.events.NextEvents(r.Context(), held.C)
		switch {
		case err != nil:
			return out.fail(delivery.BrokenOff(r.Context(), err))
		case !news: // the client is told that somebody is there
			if err := out.space(); err != nil {
				return out.fail(err)
			}
			held.Reset(signOfLife)
			continue
		}
		a.events.Written()
		complete, a.Ended = true, events.EndedAt
		if events.Err != nil {
			return out.fail(events.Err)
		}
		return out.send(events.End, answer(events.Transcript(), events.End))
	}
}

// receipt sets the headers that prove an answer (LO-402).
func receipt(h http.Header, end *task.End) {
	for _, part := range ReceiptParts(&end.Receipt) {
		h.Set("X-Receipt-"+part[0], part[1])
	}
}

// ReceiptParts are the names and values of what proves an answer (LO-402).
func ReceiptParts(r *task.Receipt) [][2]string {
	return slices.DeleteFunc([][2]string{
		{"Seed", strconv.FormatUint(uint64(r.Seed), 10)},
		{"Determinism", string(r.Determinism)},
		{"Fingerprint", r.Fingerprint},
		{"Request-Digest", r.RequestDigest},
		{"Transcript-Sha256", r.TranscriptSHA256},
		{"Model-Digest", r.ModelDigest},
		{"Continued-At", numbers(r.ContinuedAt)},
	}, func(p [2]string) bool { return p[1] == "" })
}

// numbers are numbers with commas between.
func numbers(all []int) string {
	words := make([]string, len(all))
	for i, n := range all {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

// maxRetryAfter bounds what clients are told to wait: some wait as long as they are told.
const maxRetryAfter = 60

// Refuse answers with an error whose body the dialect has made (LO-404).
func (x *Exchange) Refuse(w http.ResponseWriter, r *http.Request, err error, body any) {
	refusal := gate.Refuse(err)
	refusal.Log(r.Context(), x.o.Log)
	refusal.SetHeaders(w.Header())
	Identify(w.Header(), r)
	if refusal.Status == http.StatusTooManyRequests || refusal.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(min(max(refusal.RetryAfter, 1), maxRetryAfter)))
	}
	if !refusal.Envelope.Retriable { // SDKs repeat a 409, a 429 and every 5xx, unless they are told not to
		w.Header().Set("X-Should-Retry", "false")
	}
	x.Write(w, refusal.Status, body)
}

// Write sends a JSON answer.
func (x *Exchange) Write(w http.ResponseWriter, status int, v any) {
	b := JSON(v)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	x.write(w, b)
}

func (x *Exchange) write(w http.ResponseWriter, b []byte) {
	if _, err := w.Write(append(b, '\n')); err != nil {
		x.o.Log.Debug("an answer could not be sent", zap.Error(err))
	}
}
