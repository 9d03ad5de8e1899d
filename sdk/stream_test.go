// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/flow/stream"
	"github.com/llama-orch/llama-orch/service/task"
)

const metricsFrame = "event: metrics\ndata: {\"phase\":\"queued\",\"queue_depth\":3,\"queue_position\":1,\"predicted_start_ms\":20," +
	"\"on_time_probability\":0.5,\"kv_warmth\":true,\"budget_tokens_remaining\":9}\n\n"

// ORCH-2002, ORCH-3029, OC-CTRL-2023, LO-204
func TestStreamEvents(t *testing.T) {
	t.Parallel()
	s := newScript().tokens("Soft", " räin\n").end()
	text := ": keep-alive\n\n" + s.frames[0] + metricsFrame + ": ping\n" + s.frames[1] + "event: weather\ndata: {}\n\n" +
		strings.ReplaceAll(s.frames[2], "\n", "\r\n") + s.frames[3] + "event: token\ndata: after the end\n\n"
	c, waits := setup(t, fixed(text))
	var events []Event
	for e, err := range c.Stream(t.Context(), "t", "") {
		require.NoError(t, err)
		events = append(events, e)
	}
	require.Empty(t, *waits)
	require.Len(t, events, 5)

	started := events[0].(Started)
	require.Equal(t, s.ids[0], started.ID)
	require.Equal(t, 2, started.QueuePosition)
	require.EqualValues(t, 40, started.PredictedStartMS)
	require.EqualValues(t, 7, started.Seed)
	metrics := events[1].(Metrics)
	require.Empty(t, metrics.ID)
	require.Equal(t, PhaseQueued, metrics.Phase)
	require.EqualValues(t, 9, *metrics.BudgetTokensRemaining)
	require.Nil(t, metrics.BudgetCostRemaining)
	token := events[3].(Token)
	require.Equal(t, " räin\n", token.Text)
	require.Equal(t, 1, token.Index)
	end := events[4].(End)
	require.Equal(t, "default-0", end.Receipt.ReplicaID)
	require.Equal(t, FinishReasonStop, end.FinishReason)
	require.Contains(t, string(end.Wire().Data), `"finish_reason":"stop"`)
	require.Nil(t, end.EnergyJ)
}

// LO-504, LO-626, LO-627
func TestEnergyOfAStream(t *testing.T) {
	t.Parallel()
	s := newScript().tokens("x")
	sum := sha256.Sum256([]byte("x"))
	s.add("end", fmt.Sprintf(`{"tokens_in":3,"tokens_out":1,"decode_time_ms":12,"finish_reason":"stop","receipt":{"transcript_sha256":%q},"energy_j":12.5,"energy_cost":0}`, hex.EncodeToString(sum[:])))
	c, _ := setup(t, fixed(s.frames[0]+strings.ReplaceAll(metricsFrame, "budget_tokens", "budget_joules")+s.frames[1]+s.frames[2]))
	var seen int
	for e, err := range c.Stream(t.Context(), "t", "") {
		require.NoError(t, err)
		switch e := e.(type) {
		case Metrics:
			seen++
			require.InDelta(t, 9, *e.BudgetJoulesRemaining, 0)
		case End:
			seen++
			require.InDelta(t, 12.5, *e.EnergyJ, 0)
			require.Zero(t, *e.EnergyCost)
		}
	}
	require.Equal(t, 2, seen)
}

// OC-CTRL-2034
func TestStreamEndsWithError(t *testing.T) {
	t.Parallel()
	s := newScript().tokens("a").add("error", `{"code":"QUEUE_FULL_DROP_LRU","message":"dropped","retriable":true,"retry_after_ms":40,"pool_id":"p"}`)
	c, waits := setup(t, fixed(s.String()))
	var last Event
	for e, err := range c.Stream(t.Context(), "t", "") {
		require.NoError(t, err)
		last = e
	}
	require.Equal(t, &Error{Code: "QUEUE_FULL_DROP_LRU", Message: "dropped", Retriable: true, RetryAfter: 40 * time.Millisecond, PoolID: "p"},
		last.(ErrorEvent).Err)
	require.Empty(t, *waits)
}

// dropping serves a log, and cuts the connection after so many bytes of it each time.
type dropping struct {
	*script
	cut  int
	seen []string // the Last-Event-ID of every connection
}

func (d *dropping) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("Last-Event-ID")
	d.seen = append(d.seen, id)
	rest := d.String()
	for i := range d.ids {
		if d.ids[i] == id {
			rest = strings.Join(d.frames[i+1:], "")
		}
	}
	if len(rest) <= d.cut {
		sendStream(w, rest)
		return
	}
	sendStream(w, rest[:d.cut])
	panic(http.ErrAbortHandler)
}

// LO-201
func TestStreamResumes(t *testing.T) {
	t.Parallel()
	d := &dropping{script: newScript().tokens("one ", "two ", "three ", "four"), cut: 420}
	d.end()
	c, waits := setup(t, d)
	names, text, err := read(t.Context(), c, "")
	require.NoError(t, err)
	require.Equal(t, []string{"started", "token", "token", "token", "token", "end"}, names, "every event once, in order")
	require.Equal(t, "one two three four", text)
	require.Greater(t, len(d.seen), 1)
	require.Len(t, *waits, len(d.seen)-1)
	require.Empty(t, d.seen[0])
	for _, id := range d.seen[1:] {
		require.Contains(t, d.ids, id)
	}
}

// LO-201
func TestStreamResumesFromWhereTheCallerSays(t *testing.T) {
	t.Parallel()
	d := &dropping{script: newScript().tokens("one ", "two ", "three"), cut: 1 << 20}
	d.end()
	c, _ := setup(t, d)
	names, text, err := read(t.Context(), c, d.ids[1])
	require.NoError(t, err)
	require.Equal(t, []string{"token", "token", "end"}, names)
	require.Equal(t, "two three", text)
	require.Equal(t, []string{d.ids[1]}, d.seen)
}

// LO-201
func TestReconnectsAreBounded(t *testing.T) {
	t.Parallel()
	s := newScript().tokens("a")
	c, waits := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-ID") == "" {
			sendStream(w, s.String())
			return
		}
		sendStream(w, metricsFrame) // alive, but the log does not move
	}), func(o *Options) { o.Reconnects = 4; o.ReconnectDelay = time.Hour })
	_, text, err := read(t.Context(), c, "")
	var unreachable *UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorContains(t, err, s.ids[1], "it says where to go on")
	require.Equal(t, "a", text)
	require.Len(t, *waits, 4)
	for i, wait := range *waits {
		mean := time.Hour << i
		require.InDelta(t, mean, wait, float64(mean)/2+1, "exponential, with jitter")
	}

	c, waits = setup(t, fixed(s.String()), func(o *Options) { o.Reconnects = -1 })
	_, _, err = read(t.Context(), c, "")
	require.ErrorAs(t, err, &unreachable)
	require.Empty(t, *waits)
}

// LO-201, ORCH-2007
func TestReconnectHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	s := newScript().tokens("a", "b").end()
	answers := []func(http.ResponseWriter){
		func(w http.ResponseWriter) { sendStream(w, strings.Join(s.frames[:2], "")) },
		func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "7")
			envelopeAnswer(w, 503, `{"code":"SHUTTING_DOWN","message":"m","retriable":true}`)
		},
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
		func(w http.ResponseWriter) { sendStream(w, strings.Join(s.frames[2:], "")) },
	}
	call := 0
	var causes []error
	var told []time.Duration
	c, waits := setup(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		call++
		answers[call-1](w)
	}), func(o *Options) {
		o.OnReconnect = func(err error, wait time.Duration) { causes, told = append(causes, err), append(told, wait) }
	})
	_, text, err := read(t.Context(), c, "")
	require.NoError(t, err)
	require.Equal(t, "ab", text)
	require.Len(t, *waits, 3)
	require.Equal(t, *waits, told)
	require.ErrorContains(t, causes[1], "SHUTTING_DOWN")
	require.Equal(t, 7*time.Second, (*waits)[1])
}

// LO-201, OC-CTRL-2030
func TestReconnectGivesUpOn(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"a task that is not known":   `{"code":"NOT_FOUND","message":"m","retriable":false}`,
		"a wait of more than minute": `{"code":"POOL_UNAVAILABLE","message":"m","retriable":true,"retry_after_ms":60001}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript()
			c, waits := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Last-Event-ID") == "" {
					sendStream(w, s.String())
					return
				}
				status := http.StatusNotFound
				if strings.Contains(answer, "true") {
					status = http.StatusServiceUnavailable
				}
				envelopeAnswer(w, status, answer)
			}))
			_, _, err := read(t.Context(), c, "")
			var got *Error
			require.ErrorAs(t, err, &got)
			require.Len(t, *waits, 1)
		})
	}
}

// LO-201, LO-204
func TestStreamIsVerified(t *testing.T) {
	t.Parallel()
	good := newScript().tokens("a", "b").end()
	forged := newScript().tokens("a", "x").end()
	for name, test := range map[string]struct {
		text  string
		check Check
		at    string
	}{
		"another token":      {good.frames[0] + good.frames[1] + strings.Replace(good.frames[2], `"b"`, `"x"`, 1), CheckHash, good.ids[2]},
		"another id":         {good.frames[0] + forged.frames[1] + forged.frames[2] + good.frames[3], CheckHash, good.ids[3]},
		"another event name": {strings.Replace(good.frames[0], "started", "weather", 1), CheckHash, good.ids[0]},
		"a gap":              {good.frames[0] + good.frames[2], CheckSequence, good.ids[2]},
		"a repeat":           {good.frames[0] + good.frames[1] + good.frames[1], CheckSequence, good.ids[1]},
		"a false start":      {good.frames[1], CheckSequence, good.ids[1]},
		"another transcript": {
			newScript().tokens("a").endWith(strings.Repeat("0", 64)).String(), CheckTranscript,
			newScript().tokens("a").endWith(strings.Repeat("0", 64)).ids[2],
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, waits := setup(t, fixed(test.text))
			names, _, err := read(t.Context(), c, "")
			var got *VerifyError
			require.ErrorAs(t, err, &got)
			require.Equal(t, test.check, got.Check)
			require.Equal(t, test.at, got.EventID)
			require.Equal(t, "t", got.TaskID)
			require.NotEqual(t, got.Want, got.Got)
			require.NotContains(t, names, "end")
			require.Empty(t, *waits, "reading it again the same way would not help")
		})
	}
}

// LO-201
func TestResumedBytesAreVerifiedToo(t *testing.T) {
	t.Parallel()
	good, other := newScript().tokens("a", "b").end(), newScript().tokens("A", "b").end()
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-ID") == "" {
			sendStream(w, good.frames[0]+good.frames[1])
			return
		}
		sendStream(w, other.frames[2]+other.frames[3]) // continues another log
	}))
	_, _, err := read(t.Context(), c, "")
	var got *VerifyError
	require.ErrorAs(t, err, &got)
	require.Equal(t, CheckHash, got.Check)
}

// LO-201
func TestMalformedEvents(t *testing.T) {
	t.Parallel()
	s := newScript()
	for name, text := range map[string]string{
		"no id of error":  s.String() + "event: error\ndata: {\"code\":\"WORKER_RESET\",\"message\":\"m\",\"retriable\":true}\n\n",
		"no id":           s.String() + "event: token\ndata: {\"t\":\"a\",\"i\":0}\n\n",
		"an id of words":  s.String() + "id: one\nevent: token\ndata: {\"t\":\"a\",\"i\":0}\n\n",
		"a negative id":   s.String() + "id: -1-00000000\nevent: token\ndata: {}\n\n",
		"no JSON":         s.String() + "event: metrics\ndata: {\n\n",
		"another type":    newScript().add("token", `{"t":5}`).String(),
		"an endless line": s.String() + "event: token\ndata: " + strings.Repeat("x", 1<<20),
		"endless lines":   s.String() + strings.Repeat("data: x\n", 1<<17),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, waits := setup(t, fixed(text), func(o *Options) { o.MaxEventBytes = 1 << 16 })
			names, _, err := read(t.Context(), c, "")
			var got *ProtocolError
			require.ErrorAs(t, err, &got)
			require.Equal(t, []string{"started"}, names)
			require.Empty(t, *waits)
		})
	}
}

// LO-201
func TestSilentConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	s := newScript().tokens("a").end()
	calls := 0
	c, waits := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls == 1 {
			sendStream(w, s.frames[0])
			<-r.Context().Done()
			return
		}
		sendStream(w, s.frames[1]+s.frames[2])
	}), func(o *Options) { o.IdleTimeout = 30 * time.Millisecond })
	_, text, err := read(t.Context(), c, "")
	require.NoError(t, err)
	require.Equal(t, "a", text)
	require.Len(t, *waits, 1)
}

// LO-201
func TestCallerStops(t *testing.T) {
	t.Parallel()
	s := newScript()
	gone := make(chan struct{}, 3)
	c, waits := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sendStream(w, s.String())
		<-r.Context().Done()
		gone <- struct{}{}
	}))
	for _, err := range c.Stream(t.Context(), "t", "") {
		require.NoError(t, err)
		break
	}
	<-gone

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var err error
	for _, err = range c.Stream(ctx, "t", "") {
		cancel()
	}
	require.ErrorIs(t, err, context.Canceled)
	<-gone
	require.Empty(t, *waits)
}

// LO-201, LO-204, LO-416
func TestAgreesWithTheServersLog(t *testing.T) {
	t.Parallel()
	log := stream.New(task.Started{TaskID: "t", Seed: 9, Determinism: task.Strict}, time.Now)
	attempt := log.Begin()
	for _, text := range []string{"<b>", "\u2028 & ", "räin\n", "\x00\"\\"} {
		require.NoError(t, attempt.Append(task.Piece{Kind: task.EventText, Text: text}))
		require.NoError(t, attempt.Append(task.Piece{Kind: task.EventReasoning, Text: text}))
		require.NoError(t, attempt.Append(task.Piece{Kind: task.EventToolCall, Text: text, Call: task.CallPart{N: len(text), ID: text, Name: text}}))
	}
	said, digest := log.Transcript()
	log.End(task.End{
		TokensIn: 1, TokensOut: 12, FinishReason: task.FinishToolCalls, ToolCalls: said.Parts().Calls,
		Receipt: task.Receipt{TranscriptSHA256: digest, TranscriptForm: said.Form()},
	})
	log.Publish()
	c, _ := setup(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := log.Subscribe(r.Header.Get("Last-Event-ID"), 0)
		if e := (*task.Error)(nil); errors.As(err, &e) {
			body := fmt.Sprintf(`{"code":%q,"message":%q,"retriable":%t}`, e.Code, e.Message, e.Retriable)
			if e.Code == task.WorkerReset { // as the service's API does it
				sendStream(w, "id: 999999999999999999-0a1b2c3d\nevent: error\ndata: "+body+"\n\n")
				return
			}
			envelopeAnswer(w, 400, body)
			return
		}
		defer s.Close()
		for {
			frames, err := s.Next(r.Context(), nil)
			if err != nil {
				return
			}
			sendStream(w, string(frames))
			s.Written()
		}
	}))
	names, text, err := read(t.Context(), c, "")
	require.NoError(t, err)
	require.Len(t, names, 14)
	require.Equal(t, "<b>\u2028 & räin\n\x00\"\\", text)

	names, _, err = read(t.Context(), c, "1-00000000")
	require.NoError(t, err)
	require.Equal(t, []string{"error"}, names, "the server refuses to continue another log")
	_, _, err = read(t.Context(), c, "nonsense")
	var refused *RequestError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "after", refused.Field)
}

// replay answers every request with the same bytes, without a network.
type replay string

func (r replay) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(strings.NewReader(string(r))),
	}, nil
}

// LO-201, LO-204
func FuzzStream(f *testing.F) {
	s := newScript().tokens("a", "b\n", "ü").end()
	f.Add(s.String())
	f.Add(metricsFrame + strings.Join(s.frames[:2], "\r") + "data")
	f.Add(newScript().add("error", `{"code":"CANCELED"}`).String())
	f.Fuzz(func(t *testing.T, text string) {
		c, err := New(Options{Addr: "http://host", HTTPClient: &http.Client{Transport: replay(text)}, MaxEventBytes: 1 << 12, Reconnects: -1})
		require.NoError(t, err)
		names, _, err := read(t.Context(), c, "")
		last := ""
		if len(names) > 0 {
			last = names[len(names)-1]
		}
		require.Equal(t, err == nil, last == "end" || last == "error", "a stream without a terminal event is an error")
	})
}
