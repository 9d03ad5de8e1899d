// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/ogen-go/ogen/sse"

	"github.com/llama-orch/llama-orch/contracts/proof"
)

// Event is one event of a task's stream: Started, Token, Reasoning, ToolCall, Metrics, End or ErrorEvent. End and ErrorEvent are the last.
type Event interface {
	// Wire returns the event as it was sent.
	Wire() Frame
	event()
}

// Frame is an event as it was sent. Its JSON is `{"id", "event", "data"}`.
type Frame struct {
	ID   string          `json:"id,omitempty"` // `<sequence>-<8 hex>`, to resume from; empty for Metrics
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// Wire implements Event.
func (f Frame) Wire() Frame { return f }
func (Frame) event()        {}

// Started is event 0, the snapshot taken at admission (ORCH-3029).
type Started struct {
	Frame            `json:"-"`
	TaskID           string      `json:"task_id"`
	QueuePosition    int         `json:"queue_position"`     // tasks ahead, from 0
	PredictedStartMS int64       `json:"predicted_start_ms"` // from admission
	Seed             int64       `json:"seed"`
	Determinism      Determinism `json:"determinism"`
}

// Token is a piece of the answer.
type Token struct {
	Frame `json:"-"`
	Text  string `json:"t"` // whole runes
	Index int    `json:"i"` // counts tokens, those of Reasoning included, from 0
	// Logprobs are the model's tokens that begin in the text, where the task asked for them (logprobs).
	Logprobs []Logprob `json:"logprobs"`
}

// Logprob is a token of the answer, with the likeliest tokens at its place, the likeliest first.
type Logprob struct {
	Likely

	Top []Likely `json:"top_logprobs"`
}

// Likely is a token with the natural logarithm of the probability that the model gave it.
type Likely struct {
	Token   string  `json:"token"` // U+FFFD stands for bytes that are no rune
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

// Reasoning is a piece of the thinking before the answer. It comes where the task asked for it (reasoning.split).
type Reasoning Token

// ToolCall is a piece of a call of a tool. All pieces with the same N are one call; End has the calls whole.
type ToolCall struct {
	Frame     `json:"-"`
	N         int    `json:"n"`    // counts the task's calls, from 0
	CallID    string `json:"id"`   // in the call's first piece
	Name      string `json:"name"` // of the tool, in the call's first piece
	Arguments string `json:"arguments"`
}

// Metrics has figures that change while the task waits and runs, at most once a second. It is not part of the task's log.
type Metrics struct {
	Frame                 `json:"-"`
	Phase                 Phase    `json:"phase"`
	LoadProgress          *float64 `json:"load_progress"` // 0 to 1, in phase `loading`; nil: no figure
	QueueDepth            int      `json:"queue_depth"`   // tasks in the pool's queue
	QueuePosition         int      `json:"queue_position"`
	PredictedStartMS      int64    `json:"predicted_start_ms"` // from admission
	OnTimeProbability     float64  `json:"on_time_probability"`
	KVWarmth              bool     `json:"kv_warmth"`
	Failover              int      `json:"failover"`                // times the task moved to another worker
	BudgetTokensRemaining *int64   `json:"budget_tokens_remaining"` // nil: there is no such budget
	BudgetTimeRemainingMS *int64   `json:"budget_time_remaining_ms"`
	BudgetCostRemaining   *float64 `json:"budget_cost_remaining"`
	BudgetJoulesRemaining *float64 `json:"budget_joules_remaining"`
}

// End is the last event of a task that completed.
type End struct {
	Frame        `json:"-"`
	TokensIn     int             `json:"tokens_in"`
	TokensOut    int             `json:"tokens_out"` // events of Token, Reasoning and ToolCall
	DecodeTimeMS int64           `json:"decode_time_ms"`
	FinishReason FinishReason    `json:"finish_reason"`
	ToolCalls    []Call          `json:"tool_calls,omitempty"` // whole, in the order in which they began
	Result       json.RawMessage `json:"result,omitempty"`     // the answer of an embedding or rerank task
	Receipt      Receipt         `json:"receipt"`
	EnergyJ      *float64        `json:"energy_j,omitempty"`    // joules that the cards took for the task; nil: that is not known
	EnergyCost   *float64        `json:"energy_cost,omitempty"` // what these cost; nil: there is no price
}

// ErrorEvent is the last event of a task that failed or was canceled (code CANCELED).
type ErrorEvent struct {
	Frame
	Err *Error
}

// reader turns frames into events, and checks them against their ids. It lives as long as the stream, across connections.
type reader struct {
	taskID string
	last   string // id of the last numbered event; at first, the id after which the caller wants to begin
	next   int    // sequence number of the next numbered event; -1: unknown
	whole  bool   // reads from event 0 on, so hashes can be checked

	running hash.Hash
	sum     [sha256.Size]byte
	answer  proof.Sum
}

func newReader(taskID, after string) *reader {
	r := &reader{taskID: taskID, last: after, whole: after == "", running: sha256.New()}
	if after != "" {
		r.next = -1 // the id is malformed; the server will say so
		if seq, _, ok := cutID(after); ok {
			r.next = seq + 1
		}
	}
	return r
}

// read returns nil for a frame that this client does not know. last reports that nothing follows.
func (r *reader) read(f sse.Event) (e Event, last bool, err error) {
	frame := Frame{ID: f.ID, Name: f.Type, Data: json.RawMessage(f.Data)}
	if f.ID != "" && (f.Type != "error" || !strings.HasPrefix(f.ID, asideID)) {
		if err := r.number(frame); err != nil {
			return nil, false, err
		}
	}
	e, err = decode(frame)
	if err != nil {
		return nil, false, &ProtocolError{Err: fmt.Errorf("the %q event of task %s: %w", f.Type, r.taskID, err)}
	}
	if p, ok := Piece(e); ok && r.whole {
		r.answer.Add(p)
	}
	switch e := e.(type) {
	case End:
		if err := r.receipt(e); err != nil {
			return nil, false, err
		}
		return e, true, nil
	case ErrorEvent:
		return e, true, nil
	}
	return e, false, nil
}

// Piece is a Token, Reasoning or ToolCall as proof bundles have it. It is false for any other event.
func Piece(e Event) (p proof.Piece, ok bool) {
	switch e := e.(type) {
	case Token:
		return proof.Piece{Text: e.Text}, true
	case Reasoning:
		return proof.Piece{Kind: proof.Reasoning, Text: e.Text}, true
	case ToolCall:
		return proof.Piece{Kind: proof.Call, Text: e.Arguments, N: e.N, ID: e.CallID, Name: e.Name}, true
	}
	return p, false
}

// receipt holds the receipt's digest, and the form that it says the digest has, against the pieces (LO-204, LO-416).
func (r *reader) receipt(e End) error {
	if !r.whole {
		return nil
	}
	sum, form := r.answer.Digest()
	said := string(cmp.Or(e.Receipt.TranscriptForm, ReceiptTranscriptFormText))
	if got := e.Receipt.TranscriptSHA256; got != sum || said != form {
		return r.fails(CheckTranscript, e.ID, form+" "+sum, said+" "+got)
	}
	return nil
}

// number compares a numbered event's id with the events so far.
func (r *reader) number(f Frame) error {
	seq, tag, ok := cutID(f.ID)
	if !ok {
		return &ProtocolError{Err: fmt.Errorf("the event id %.40q of task %s is malformed", f.ID, r.taskID)}
	}
	if r.next >= 0 && seq != r.next {
		return r.fails(CheckSequence, f.ID, strconv.Itoa(r.next), strconv.Itoa(seq))
	}
	if r.whole {
		r.running.Write([]byte(f.Name))
		r.running.Write([]byte{'\n'})
		r.running.Write(f.Data)
		r.running.Write([]byte{'\n'})
		want := hex.EncodeToString(r.running.Sum(r.sum[:0])[:len(tag)/2])
		if tag != want {
			return r.fails(CheckHash, f.ID, want, tag)
		}
	}
	r.last, r.next = f.ID, seq+1
	return nil
}

func (r *reader) fails(check Check, id, want, got string) error {
	return &VerifyError{TaskID: r.taskID, Check: check, EventID: id, Want: want, Got: got}
}

var errUnnumbered = errors.New("it has no id")

// asideID begins the id of an error that ends this stream alone, and is no event of the task's log: that is how the server refuses to
// resume if its log and the client's differ (LO-827).
const asideID = "999999999999999999-"

// decode turns a frame into a typed event, or into nil if this client does not know it. All but metrics have an id.
func decode(f Frame) (Event, error) {
	if f.ID == "" && (f.Name == "started" || f.Name == "token" || f.Name == "tool_call" || f.Name == "end" || f.Name == "error") {
		return nil, errUnnumbered
	}
	switch f.Name {
	case "started":
		e := Started{Frame: f}
		err := json.Unmarshal(f.Data, &e)
		return e, err
	case "token":
		var e struct {
			Token

			Channel string `json:"channel"`
		}
		err := json.Unmarshal(f.Data, &e)
		e.Frame = f
		switch e.Channel {
		case "":
			return e.Token, err
		case "reasoning":
			return Reasoning(e.Token), err
		}
		return nil, fmt.Errorf("it is of the channel %.40q, which this client does not know", e.Channel)
	case "tool_call":
		e := ToolCall{Frame: f}
		err := json.Unmarshal(f.Data, &e)
		return e, err
	case "metrics":
		e := Metrics{Frame: f}
		err := json.Unmarshal(f.Data, &e)
		return e, err
	case "end":
		e := End{Frame: f}
		err := json.Unmarshal(f.Data, &e)
		return e, err
	case "error":
		e := ErrorEvent{Frame: f, Err: &Error{}}
		err := json.Unmarshal(f.Data, e.Err)
		return e, err
	}
	return nil, nil
}

// cutID splits an event id into its sequence number and its 8 hex digits.
func cutID(id string) (seq int, tag string, ok bool) {
	number, tag, found := strings.Cut(id, "-")
	seq, err := strconv.Atoi(number)
	if !found || err != nil || seq < 0 || strconv.Itoa(seq) != number || len(tag) != 8 || strings.Trim(tag, "0123456789abcdef") != "" {
		return 0, "", false
	}
	return seq, tag, true
}
