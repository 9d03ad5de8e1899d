// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// Started is the data of event 0.
type Started struct {
	TaskID           string `json:"task_id"`
	QueuePosition    int    `json:"queue_position"`
	PredictedStartMS int64  `json:"predicted_start_ms"`
	Seed             uint32 `json:"seed"`
	Determinism      string `json:"determinism"`
}

// Token is the data of a token event.
type Token struct {
	Text    string `json:"t"`
	Index   int    `json:"i"`
	Channel string `json:"channel"`
	// Logprobs are the tokens of the answer that begin in the text, where the task asked for them.
	Logprobs json.RawMessage `json:"logprobs"`
}

// CallPiece is the data of a tool_call event.
type CallPiece struct {
	N         int    `json:"n"`
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// Call is a whole call of a tool.
type Call struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// End is the data of the `end` event.
type End struct {
	TokensIn     int             `json:"tokens_in"`
	TokensOut    int             `json:"tokens_out"`
	DecodeTimeMS int64           `json:"decode_time_ms"`
	FinishReason string          `json:"finish_reason"`
	ToolCalls    []Call          `json:"tool_calls"`
	Result       json.RawMessage `json:"result"` // of an embedding or a rerank
	Receipt      Receipt         `json:"receipt"`
	EnergyJ      *float64        `json:"energy_j"`
	EnergyCost   *float64        `json:"energy_cost"`
}

// Receipt says what a stream's bytes depend on, and what they are (LO-204).
type Receipt struct {
	Seed             uint32 `json:"seed"`
	Determinism      string `json:"determinism"`
	Fingerprint      string `json:"fingerprint"`
	RequestDigest    string `json:"request_digest"`
	TranscriptSHA256 string `json:"transcript_sha256"`
	ReplicaID        string `json:"replica_id"`
	EngineVersion    string `json:"engine_version"`
	ModelDigest      string `json:"model_digest"`
	TranscriptForm   string `json:"transcript_form"`
	TokensCached     int    `json:"tokens_cached"`
	ContinuedAt      []int  `json:"continued_at"`
}

// Failure is the data of the `error` event.
type Failure struct {
	Code         string `json:"code"`
	Message      string `json:"message"`
	Retriable    bool   `json:"retriable"`
	RetryAfterMS int64  `json:"retry_after_ms"`
	PolicyLabel  string `json:"policy_label"`
	Engine       string `json:"engine"`
	PoolID       string `json:"pool_id"`
	Hint         string `json:"hint"`
}

// Log has the numbered events of a completion from event 0 on. It checks each event: its place in the order, its id with the running hash, the shape of
// its data, and the receipt against the tokens.
type Log struct {
	Events []Event
	Start  Started
	Tokens []string // the text of each token event, those of the thinking included
	End    *End     // of a task that completed
	Fail   *Failure // of one that did not

	Answer, Thinking string
	Calls            []Call // in the order in which they began

	pieces  int
	callOf  map[int]int // the place in Calls of a call's number
	running hash.Hash
}

// NewLog makes an empty log.
func NewLog() *Log { return &Log{running: sha256.New(), callOf: map[int]int{}} }

// Text returns the text of all tokens.
func (l *Log) Text() string { return strings.Join(l.Tokens, "") }

// Digest is the SHA-256 that a receipt has of the pieces so far, and its form, made by the words of the contract.
func (l *Log) Digest() (sum, form string) {
	if l.Thinking == "" && len(l.Calls) == 0 {
		h := sha256.Sum256([]byte(l.Answer))
		return hex.EncodeToString(h[:]), "text"
	}
	whole := []byte("llorch-transcript-2\n")
	part := func(kind byte, text string) {
		whole = append(whole, kind)
		whole = binary.BigEndian.AppendUint64(whole, uint64(len(text)))
		whole = append(whole, text...)
	}
	part('a', l.Answer)
	part('r', l.Thinking)
	for _, c := range l.Calls {
		part('i', c.ID)
		part('n', c.Name)
		part('j', c.Arguments)
	}
	h := sha256.Sum256(whole)
	return hex.EncodeToString(h[:]), "parts"
}

// Over reports whether the terminal event has come.
func (l *Log) Over() bool { return l.End != nil || l.Fail != nil }

// Take checks and adds the next event. Of metrics frames it only checks the place.
func (l *Log) Take(e Event) error {
	if err := l.take(e); err != nil {
		return fmt.Errorf("%w, in the frame %.300q", err, e.Frame())
	}
	return nil
}

func (l *Log) take(e Event) error {
	switch {
	case l.Over():
		return errors.New("it came behind the terminal event")
	case (len(l.Events) == 0) != (e.Name == "started"):
		return errors.New("`started` is the first event, and only that")
	case e.Name == "metrics" && e.ID != "":
		return errors.New("a metrics frame carries an id")
	case e.Name == "metrics":
		return nil
	}
	_, _ = io.WriteString(l.running, e.Name+"\n"+e.Data+"\n")
	if want := fmt.Sprintf("%d-%s", len(l.Events), hex.EncodeToString(l.running.Sum(nil)[:4])); e.ID != want {
		return fmt.Errorf("the id is %q and should be %q", e.ID, want)
	}
	l.Events = append(l.Events, e)
	switch e.Name {
	case "started":
		return strictly([]byte(e.Data), &l.Start)
	case "token":
		return l.token(e.Data)
	case "tool_call":
		return l.call(e.Data)
	case "end":
		return l.end(e.Data)
	case "error":
		l.Fail = &Failure{}
		return strictly([]byte(e.Data), l.Fail)
	}
	return fmt.Errorf("there is no event %q", e.Name)
}

func (l *Log) token(data string) error {
	var t Token
	if err := strictly([]byte(data), &t); err != nil {
		return err
	}
	if t.Text == "" { // U+FFFD is allowed: a model may write bytes that are no rune
		return errors.New("`t` is empty")
	}
	if t.Index != len(l.Tokens) {
		return fmt.Errorf("`i` is %d and should be %d", t.Index, len(l.Tokens))
	}
	l.Tokens = append(l.Tokens, t.Text)
	l.pieces++
	switch t.Channel {
	case "":
		l.Answer += t.Text
	case "reasoning":
		l.Thinking += t.Text
	default:
		return fmt.Errorf("there is no channel %q", t.Channel)
	}
	return nil
}

func (l *Log) call(data string) error {
	var c CallPiece
	if err := strictly([]byte(data), &c); err != nil {
		return err
	}
	at, known := l.callOf[c.N]
	switch {
	case !known && c.Name == "":
		return fmt.Errorf("the first piece of call %d has no name", c.N)
	case known && (c.ID != "" || c.Name != ""):
		return fmt.Errorf("a later piece of call %d names it again", c.N)
	case known && c.Arguments == "":
		return fmt.Errorf("a later piece of call %d is empty", c.N)
	case !known:
		at = len(l.Calls)
		l.callOf[c.N], l.Calls = at, append(l.Calls, Call{ID: c.ID, Name: c.Name})
	}
	l.Calls[at].Arguments += c.Arguments
	l.pieces++
	return nil
}

func (l *Log) end(data string) error {
	l.End = &End{}
	if err := strictly([]byte(data), l.End); err != nil {
		return err
	}
	receipt := l.End.Receipt
	switch sum, form := l.Digest(); {
	case l.End.TokensOut != l.pieces:
		return fmt.Errorf("`tokens_out` is %d, and %d tokens came", l.End.TokensOut, l.pieces)
	case !slices.Equal(l.End.ToolCalls, l.Calls):
		return fmt.Errorf("`tool_calls` are %v, and %v came", l.End.ToolCalls, l.Calls)
	case receipt.TranscriptForm != form:
		return fmt.Errorf("the receipt's transcript_form is %q, that of the events is %s", receipt.TranscriptForm, form)
	case receipt.TranscriptSHA256 != sum:
		return fmt.Errorf("the receipt's transcript_sha256 is %s, that of the tokens is %s", receipt.TranscriptSHA256, sum)
	case receipt.Seed != l.Start.Seed || receipt.Determinism != l.Start.Determinism:
		return errors.New("the receipt has another seed or determinism than `started`")
	}
	return nil
}

// Stream is a subscription to a completion from its event 0.
type Stream struct {
	*Log
	body io.Closer
	in   *Scanner
}

// Open subscribes to a task.
func (c *Client) Open(ctx context.Context, taskID string) (*Stream, error) {
	response, err := c.send(ctx, http.MethodGet, "/v1/tasks/"+taskID+"/stream", nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	if media, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err != nil || media != "text/event-stream" {
		_ = response.Body.Close()
		return nil, fmt.Errorf("the answer is no event stream but %q", response.Header.Get("Content-Type"))
	}
	return &Stream{NewLog(), response.Body, NewScanner(response.Body)}, nil
}

// Next checks the next event, adds it to the log and returns it. After the terminal event it returns io.EOF.
func (s *Stream) Next() (Event, error) {
	e, err := s.in.Next()
	switch {
	case errors.Is(err, io.EOF) && s.Over():
		return e, io.EOF
	case errors.Is(err, io.EOF):
		return e, errors.New("the stream ended without a terminal event")
	case err != nil:
		return e, err
	}
	return e, s.Take(e)
}

// Rest reads to the end and closes.
func (s *Stream) Rest() error {
	defer func() { _ = s.body.Close() }() // nothing is left in it
	for {
		switch _, err := s.Next(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Close hangs up.
func (s *Stream) Close() { _ = s.body.Close() }
