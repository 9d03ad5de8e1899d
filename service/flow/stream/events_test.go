// SPDX-License-Identifier: GPL-3.0-or-later

package stream

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

// aPiece draws pieces of all kinds.
var aPiece = rapid.Custom(func(t *rapid.T) task.Piece {
	p := task.Piece{
		Kind: rapid.SampledFrom([]task.EventKind{task.EventText, task.EventReasoning, task.EventToolCall}).Draw(t, "kind"),
		Text: rapid.StringN(0, 6, 18).Draw(t, "text"),
	}
	if p.Kind == task.EventToolCall {
		p.Call.N = rapid.IntRange(0, 2).Draw(t, "call")
		p.Call.Name = rapid.SampledFrom([]string{"", "rain"}).Draw(t, "name")
	}
	if p.Kind == task.EventText {
		p.Logprobs = rapid.SampledFrom([]string{"", "", `[{"token":"a"}]`}).Draw(t, "logprobs")
	}
	return p
})

// lines is a dialect: one line an event. It encodes into memory that it has.
type lines []byte

func (l lines) add(events task.Events) lines {
	for e := range events.All() {
		l = strconv.AppendInt(l, int64(e.Index), 10)
		switch e.Kind {
		case task.EventStarted:
			l = append(l, " started "...)
			l = append(l, e.Started.TaskID...)
		case task.EventText:
			l = append(l, " text "...)
			l = append(l, e.Text...)
			l = append(l, e.Logprobs...)
		case task.EventReasoning:
			l = append(l, " reasoning "...)
			l = append(l, e.Text...)
		case task.EventToolCall:
			l = append(l, " call "...)
			l = strconv.AppendInt(l, int64(e.Call.N), 10)
			l = append(l, e.Call.ID...)
			l = append(l, e.Call.Name...)
			l = append(l, e.Text...)
		case task.EventEnd:
			l = append(l, " end "...)
			l = append(l, e.End.FinishReason...)
		case task.EventError:
			l = append(l, " error "...)
			l = append(l, e.Err.Code...)
		}
		l = append(l, '\n')
	}
	return l
}

// follow reads a subscription to its end in that dialect.
func follow(t require.TestingT, s *Subscription) (l lines) {
	for {
		events, news, err := s.NextEvents(context.Background(), nil)
		if errors.Is(err, io.EOF) {
			return l
		}
		require.NoError(t, err)
		require.True(t, news)
		l = l.add(events)
		s.Written()
	}
}

// The wire of events that are no plain text, as semantics.md has it.
//
// ORCH-2002
func TestReasoningAndToolCallsAreEvents(t *testing.T) {
	l := New(first(), time.Now)
	a := l.Begin()
	for _, p := range []task.Piece{
		{Kind: task.EventReasoning, Text: "hm"},
		{Kind: task.EventText, Text: "so"},
		{Kind: task.EventToolCall, Text: `{"city`, Call: task.CallPart{N: 0, ID: "c1", Name: "rain"}},
		{Kind: task.EventToolCall, Text: `":1}`, Call: task.CallPart{N: 0}},
		{Kind: task.EventText, Text: "!"},
	} {
		require.NoError(t, a.Append(p))
	}
	l.Fail(task.Errorf(task.Canceled, "canceled"))
	l.Publish()
	var got []string
	for _, f := range parse(t, drain(t, subscribe(t, l, ""))) {
		got = append(got, f.event+" "+f.data)
	}
	require.Equal(t, []string{
		`token {"t":"hm","i":0,"channel":"reasoning"}`,
		`token {"t":"so","i":1}`,
		`tool_call {"n":0,"id":"c1","name":"rain","arguments":"{\"city"}`,
		`tool_call {"n":0,"arguments":"\":1}"}`,
		`token {"t":"!","i":2}`,
	}, got[1:6])
	require.Equal(t, "0 started t\n1 reasoning hm\n2 text so\n3 call 0c1rain{\"city\n4 call 0\":1}\n5 text !\n6 error CANCELED\n",
		string(follow(t, subscribe(t, l, ""))))
	transcript, digest := l.Transcript()
	require.Equal(t, task.Parts{Answer: "so!", Reasoning: "hm", Calls: []task.ToolCall{{ID: "c1", Name: "rain", Arguments: `{"city":1}`}}}, transcript.Parts())
	require.Equal(t, transcript.Digest(), digest)
	require.Equal(t, task.FormParts, transcript.Form())
	require.Equal(t, 5, l.Tokens())
}

// The ids of events cover log probabilities, the transcript's digest does not.
//
// LO-450
func TestLogprobsStandInTheirEvents(t *testing.T) {
	const list = `[{"token":"so","logprob":-0.5,"bytes":[115,111],"top_logprobs":[]}]`
	said := func(list string) (frames []frame, digest string) {
		l := New(first(), time.Now)
		a := l.Begin()
		require.NoError(t, a.Append(task.TextPiece("well")))
		require.NoError(t, a.Append(task.Piece{Kind: task.EventText, Text: "so", Logprobs: list}))
		require.NoError(t, a.Append(task.TextPiece("!")))
		transcript, digest := l.Transcript()
		if list != "" {
			require.Equal(t, []string{"", list, ""}, transcript.Logprobs)
		} else {
			require.Nil(t, transcript.Logprobs)
		}
		l.Fail(task.Errorf(task.Canceled, "canceled"))
		l.Publish()
		return parse(t, drain(t, subscribe(t, l, ""))), digest
	}
	with, digest := said(list)
	require.Equal(t, []string{`{"t":"so","i":1,"logprobs":` + list + `}`, `{"t":"!","i":2}`}, []string{with[2].data, with[3].data})
	without, same := said("")
	require.Equal(t, digest, same)
	require.Equal(t, with[1].id, without[1].id)
	require.NotEqual(t, with[2].id, without[2].id)
}

// Whatever kinds of pieces a log has: it rebuilds to the same bytes, a second attempt is held against them, and a typed reader that
// comes at any event sees the same events as one that reads the frames.
//
// LO-201, LO-203, LO-204, LO-450
func TestALogOfAllKindsIsALogLikeAnyOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(aPiece, 1, 30).Draw(t, "pieces")
		l := New(first(), time.Now)
		one := l.Begin()
		for _, p := range pieces {
			require.NoError(t, one.Append(p))
		}
		two := l.Begin()
		at := rapid.IntRange(0, len(pieces)-1).Draw(t, "at")
		for _, p := range pieces[:at] {
			require.NoError(t, two.Append(p))
		}
		other := pieces[at]
		switch {
		case other.Kind == task.EventToolCall && rapid.Bool().Draw(t, "another call"):
			other.Call.N++
		case other.Logprobs != "" && rapid.Bool().Draw(t, "another figure"):
			other.Logprobs = `[{"token":"b"}]`
		case other.Kind == task.EventText:
			other.Kind = task.EventReasoning
		default:
			other.Kind, other.Call = task.EventText, task.CallPart{}
		}
		require.ErrorIs(t, two.Append(other), ErrDiverged)

		transcript, digest := l.Transcript()
		require.Equal(t, transcript.Digest(), digest)
		ended := task.End{TokensOut: len(pieces), FinishReason: task.FinishStop}
		l.End(ended)
		l.Publish()
		again := Rebuild(first(), task.Record{Transcript: transcript, End: &ended})
		whole := drain(t, subscribe(t, l, ""))
		require.Equal(t, string(whole), string(drain(t, subscribe(t, again, ""))))

		all := follow(t, subscribe(t, l, ""))
		require.Equal(t, string(all), string(follow(t, subscribe(t, again, ""))))
		from := parse(t, whole)[at]
		var head lines
		head = head.add(l.events(0, at+1))
		require.Equal(t, string(all), string(head)+string(follow(t, subscribe(t, l, from.id))))
	})
}

// OC-CTRL-2026: a typed reader is written to directly too, and finishes what did not fit.
func TestATypedReaderThatWaitsIsWrittenToDirectly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(first(), time.Now)
		s := subscribe(t, l, "")
		var c client
		var scratch lines
		s.DirectEvents(func(e task.Events) bool {
			scratch = scratch[:0].add(e)
			return c.try(scratch)
		})
		var reading sync.WaitGroup
		reading.Go(func() {
			defer s.Close()
			for {
				events, _, err := s.NextEvents(context.Background(), nil)
				c.got, c.rest = append(c.got, c.rest...), nil
				if errors.Is(err, io.EOF) {
					return
				}
				c.got = append(c.got, lines(nil).add(events)...)
				s.Written()
			}
		})
		for _, c.room = range []int{1000, 0, 5} {
			synctest.Wait()
			time.Sleep(apart)
			require.NoError(t, write(l, "frog"))
		}
		l.End(task.End{FinishReason: task.FinishStop})
		l.Publish()
		reading.Wait()
		require.Equal(t, "0 started t\n1 text frog\n2 text frog\n3 text frog\n4 end stop\n", string(c.got))
		require.Equal(t, 3, c.direct)
		require.Equal(t, 1, c.whole)
	})
}

// ORCH-2002
func TestATypedReaderHearsOfTheTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(first(), time.Now)
		s := subscribe(t, l, "")
		e, news, err := s.NextEvents(t.Context(), nil)
		require.NoError(t, err)
		require.True(t, news)
		require.Equal(t, 1, e.Len())
		s.Written()
		_, news, err = s.NextEvents(t.Context(), time.After(time.Second))
		require.NoError(t, err)
		require.False(t, news)
	})
}

// OC-CTRL-2026: a dialect's encoder takes no memory per token either.
func TestATypedReaderAllocatesNothing(t *testing.T) {
	l := roomy()
	s := subscribe(t, l, "")
	out := make(lines, 0, 1<<10)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_ = write(l, " winter")
		e, _, _ := s.NextEvents(context.Background(), nil)
		out = out[:0].add(e)
		s.Written()
	}))
	require.NotEmpty(t, out)
}

func BenchmarkTokenToTypedSubscriber(b *testing.B) {
	l := New(first(), time.Now)
	s := subscribe(b, l, "")
	out := make(lines, 0, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		if err := write(l, " winter"); err != nil {
			b.Fatal(err)
		}
		e, _, err := s.NextEvents(context.Background(), nil)
		if err != nil {
			b.Fatal(err)
		}
		out = out[:0].add(e)
		s.Written()
	}
}
