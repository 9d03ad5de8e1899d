// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pieces makes a transcript of pieces.
func pieces(all ...Piece) (t Transcript) {
	for i, p := range all {
		t.Text += p.Text
		t.Ends = append(t.Ends, len(t.Text))
		if p.Kind != EventText {
			t.Marks = append(t.Marks, Mark{Piece: i, Kind: p.Kind, Call: p.Call})
		}
	}
	return t
}

func text(s string) Piece     { return Piece{Kind: EventText, Text: s} }
func thinking(s string) Piece { return Piece{Kind: EventReasoning, Text: s} }
func calling(n int, id, name, arguments string) Piece {
	return Piece{Kind: EventToolCall, Text: arguments, Call: CallPart{N: n, ID: id, Name: name}}
}

func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// LO-204
func TestTheDigestOfPlainTextIsThatOfTheText(t *testing.T) {
	plain := pieces(text("winter "), text("née"))
	require.Equal(t, FormText, plain.Form())
	require.Equal(t, hexSHA256("winter née"), plain.Digest())
	require.Equal(t, Parts{Answer: "winter née"}, plain.Parts())
	require.Equal(t, hexSHA256(""), Transcript{}.Digest())
}

// LO-204
func TestTheDigestOfPartsHasEveryPartWithItsTypeAndLength(t *testing.T) {
	mixed := pieces(thinking("hm"), text("it "), calling(1, "c1", "rain", `{"a`), calling(0, "c0", "sun", ""), thinking("m"), text("is"), calling(1, "", "", `":1}`))
	require.Equal(t, FormParts, mixed.Form())
	require.Equal(t, Parts{
		Answer: "it is", Reasoning: "hmm", Calls: []ToolCall{{ID: "c1", Name: "rain", Arguments: `{"a":1}`}, {ID: "c0", Name: "sun"}},
	}, mixed.Parts())
	size := func(n byte) string { return "\x00\x00\x00\x00\x00\x00\x00" + string([]byte{n}) }
	require.Equal(t, hexSHA256("llorch-transcript-2\n"+"a"+size(5)+"it is"+"r"+size(3)+"hmm"+
		"i"+size(2)+"c1"+"n"+size(4)+"rain"+"j"+size(7)+`{"a":1}`+"i"+size(2)+"c0"+"n"+size(3)+"sun"+"j"+size(0)), mixed.Digest())

	require.Equal(t, hexSHA256("llorch-transcript-2\n"+"a"+size(0)+"r"+size(2)+"hm"), pieces(thinking("hm")).Digest())
	digests := map[string]bool{}
	for _, one := range []Transcript{
		pieces(text("ab")), pieces(thinking("ab")), pieces(thinking("a"), text("b")), pieces(text("a"), thinking("b")),
		pieces(calling(0, "a", "b", "")), pieces(calling(0, "", "ab", "")), pieces(calling(0, "", "", "ab")), pieces(calling(0, "a", "", ""), text("b")),
	} {
		digests[one.Digest()] = true
	}
	require.Len(t, digests, 8, "who said what counts, not the bytes alone")
	require.Equal(t, pieces(thinking("ab")).Digest(), pieces(thinking("a"), thinking("b")).Digest(), "where it was cut does not")
}

// ORCH-2002
func TestEventsAreAViewOfTheLog(t *testing.T) {
	mixed := pieces(text("a"), thinking("b"), calling(0, "id", "name", "c"))
	started, end := &Started{TaskID: "t"}, &End{TokensOut: 3}
	all := Events{From: 0, To: 5, Text: []byte(mixed.Text), Ends: mixed.Ends, Marks: mixed.Marks, Started: started, End: end}
	var got []Event
	for e := range all.All() {
		got = append(got, e)
	}
	require.Equal(t, []Event{
		{Kind: EventStarted, Index: 0, Started: started},
		{Kind: EventText, Index: 1, Text: []byte("a")},
		{Kind: EventReasoning, Index: 2, Text: []byte("b")},
		{Kind: EventToolCall, Index: 3, Text: []byte("c"), Call: CallPart{ID: "id", Name: "name"}},
		{Kind: EventEnd, Index: 4, End: end},
	}, got)
	some := all
	some.From, some.To, some.End, some.Err = 3, 5, nil, Errorf(Canceled, "canceled")
	require.Equal(t, 2, some.Len())
	require.Equal(t, got[3], some.At(0))
	require.Equal(t, Event{Kind: EventError, Index: 4, Err: some.Err}, some.At(1))
	for range all.All() {
		break
	}
}

// LO-432: the events of a record are those of the log that it was made from.
func TestTheEventsOfARecord(t *testing.T) {
	at := time.Unix(1, 0)
	r := Record{Task: Task{ID: "a", Seed: 7}, State: Running, Transcript: pieces(thinking("hm"), text("frog"), calling(0, "c", "f", "{}")), FinishedAt: at}
	kinds := func() (all []EventKind) {
		for e := range r.Events().All() {
			all = append(all, e.Kind)
		}
		return all
	}
	said := []EventKind{EventStarted, EventReasoning, EventText, EventToolCall}
	require.Equal(t, said, kinds(), "it has not ended")
	events := r.Events()
	require.Equal(t, "a", events.At(0).Started.TaskID)
	require.Equal(t, "frog", string(events.At(2).Text))
	r.State, r.End = Completed, &End{TokensOut: 3}
	require.Equal(t, append(said, EventEnd), kinds())
	events = r.Events()
	require.Equal(t, Event{Kind: EventEnd, Index: 4, End: r.End, At: at}, events.At(4))
	r.State, r.End, r.Err = Failed, nil, Errorf(WorkerReset, "gone")
	require.Equal(t, append(said, EventError), kinds())
	events = r.Events()
	require.Equal(t, Event{Kind: EventError, Index: 4, Err: r.Err, At: at}, events.At(4))
}
