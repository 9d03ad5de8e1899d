// SPDX-License-Identifier: GPL-3.0-or-later

package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func first() task.Started {
	return task.Started{TaskID: "t", QueuePosition: 2, PredictedStartMS: 40, Seed: 7, Determinism: task.Strict}
}

type frame struct{ id, event, data string }

// parse reads frames the way a strict client does.
func parse(t require.TestingT, b []byte) (frames []frame) {
	for block := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n\n"), "\n\n") {
		var f frame
		for line := range strings.SplitSeq(block, "\n") {
			field, value, ok := strings.Cut(line, ": ")
			require.True(t, ok, "line %q", line)
			switch field {
			case "id":
				f.id = value
			case "event":
				f.event = value
			case "data":
				f.data = value
			default:
				require.Fail(t, "unknown field", line)
			}
		}
		frames = append(frames, f)
	}
	return frames
}

// write appends a token as the log's first attempt.
func write(l *Log, text string) error {
	a := &Attempt{log: l, number: l.attempt, at: len(l.pieceEnds)}
	return a.Append(task.TextPiece(text))
}

// drain reads a subscription to its end.
func drain(t require.TestingT, s *Subscription) []byte {
	var got []byte
	for {
		b, err := s.Next(context.Background(), nil)
		if errors.Is(err, io.EOF) {
			return got
		}
		require.NoError(t, err)
		got = append(got, b...)
		s.Written()
	}
}

// take returns the frames that are there.
func take(s *Subscription) (frames []byte, err error) {
	_, _, err = s.take(&frames, nil)
	return frames, err
}

func subscribe(t require.TestingT, l *Log, after string) *Subscription {
	s, err := l.Subscribe(after, 0)
	require.NoError(t, err)
	return s
}

// LO-201, ORCH-2002, ORCH-3029
func TestFramesCarrySequenceAndRunningHash(t *testing.T) {
	l := New(first(), time.Now)
	require.NoError(t, write(l, "frogs\n"))
	require.NoError(t, write(l, "“née” \x01"))
	l.End(task.End{TokensOut: 2, FinishReason: task.FinishStop})
	l.Publish()

	got := parse(t, drain(t, subscribe(t, l, "")))
	require.Len(t, got, 4)
	running := sha256.New()
	for i, f := range got {
		fmt.Fprintf(running, "%s\n%s\n", f.event, f.data)
		require.Equal(t, fmt.Sprintf("%d-%s", i, hex.EncodeToString(running.Sum(nil)[:4])), f.id)
		require.True(t, json.Valid([]byte(f.data)))
	}
	require.Equal(t, "started", got[0].event)
	require.JSONEq(t, `{"task_id":"t","queue_position":2,"predicted_start_ms":40,"seed":7,"determinism":"strict"}`, got[0].data)
	require.JSONEq(t, `{"t":"frogs\n","i":0}`, got[1].data)
	require.JSONEq(t, `{"t":"“née” \u0001","i":1}`, got[2].data)
	require.Equal(t, "end", got[3].event)
	require.Equal(t, got[3].id, l.LastEventID())
}

// LO-201: however a reader is cut and resumed, it sees every event once, in order.
func TestResumeAnywhereIsContiguous(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.StringN(0, 8, 24), 0, 40).Draw(t, "texts")
		l := New(first(), time.Now)
		for _, text := range texts {
			require.NoError(t, write(l, text))
		}
		l.End(task.End{})
		l.Publish()
		whole := drain(t, subscribe(t, l, ""))
		ids := parse(t, whole)
		cut := rapid.IntRange(0, len(ids)-1).Draw(t, "cut")
		head := whole[:l.ends[cut]]
		tail := drain(t, subscribe(t, l, ids[cut].id))
		require.Equal(t, string(whole), string(head)+string(tail))
	})
}

// LO-201: a rebuilt log has the ids it had.
func TestRebuildGivesTheSameBytes(t *testing.T) {
	l := New(first(), time.Now)
	for i := range 20 {
		require.NoError(t, write(l, strings.Repeat("é", i%4)))
	}
	transcript, digest := l.Transcript()
	sum := sha256.Sum256([]byte(transcript.Text))
	require.Equal(t, hex.EncodeToString(sum[:]), digest)
	ended := task.End{TokensOut: 20, Receipt: task.Receipt{TranscriptSHA256: digest}}
	l.End(ended)
	l.Publish()
	again := Rebuild(first(), task.Record{Transcript: transcript, End: &ended})
	require.Equal(t, string(drain(t, subscribe(t, l, ""))), string(drain(t, subscribe(t, again, ""))))
}

// LO-201
func TestSubscribeRefusesIDsTheLogNeverGave(t *testing.T) {
	l := New(first(), time.Now)
	for _, id := range []string{"x", "0", "-1-00000000", "0-0000000", "00-00000000", "0-0000000G", "9-00000000", "0-AAAAAAAA", "99999999999999999999-00000000"} {
		_, err := l.Subscribe(id, 0)
		require.True(t, task.HasCode(err, task.InvalidParams), "%s: %v", id, err)
	}
	_, err := l.Subscribe("9-00000000", 0)
	require.ErrorContains(t, err, "valid are 0 to 0")
}

// LO-201: what the client holds differs, so its stream does not go on.
func TestSubscribeWithAnotherHashIsRefused(t *testing.T) {
	l := New(first(), time.Now)
	_, err := l.Subscribe("0-00000000", 0)
	require.True(t, task.HasCode(err, task.WorkerReset))
}

// ORCH-3026, ORCH-2002
func TestSealFencesTokensAndOneTerminalEventFollows(t *testing.T) {
	l := New(first(), time.Now)
	require.NoError(t, write(l, "a"))
	id, firstSeal := l.Seal()
	require.True(t, firstSeal)
	require.True(t, strings.HasPrefix(id, "1-"))
	require.ErrorIs(t, write(l, "b"), ErrSealed)
	again, firstSeal := l.Seal()
	require.False(t, firstSeal)
	require.Equal(t, id, again)
	s := subscribe(t, l, id)
	ended := l.Fail(task.Errorf(task.Canceled, "canceled"))
	b, err := take(s)
	require.NoError(t, err)
	require.Empty(t, b, "nobody has the terminal event before it is published")
	require.Equal(t, id, l.LastEventID())
	l.Publish()
	require.Equal(t, ended, l.LastEventID())
	l.End(task.End{})
	got := parse(t, drain(t, subscribe(t, l, "")))
	require.Len(t, got, 3)
	require.Equal(t, "error", got[2].event)
	require.Contains(t, got[2].data, `"CANCELED"`)
}

// ORCH-3026: with a reader in the middle of a write, Flush returns only when the write has ended.
func TestFlushWaitsForAWriteUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(first(), time.Now)
		s := subscribe(t, l, "")
		require.NoError(t, write(l, "a"))
		_, err := s.Next(t.Context(), nil)
		require.NoError(t, err)
		l.Seal()
		returned := false
		var flush sync.WaitGroup
		flush.Go(func() {
			require.Zero(t, l.Flush(context.Background()))
			returned = true
		})
		synctest.Wait()
		require.False(t, returned)
		s.Written()
		flush.Wait()
		require.True(t, returned)
	})
}

// ORCH-3026: a reader that takes nothing is cut off, may not go on, and can read the sealed log anew.
func TestFlushCutsOffAStalledReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(first(), time.Now)
		stalled, reader := subscribe(t, l, ""), subscribe(t, l, "")
		require.NoError(t, write(l, "a"))
		l.Seal()
		_, err := reader.Next(t.Context(), nil)
		require.NoError(t, err)
		reader.Written()
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		require.Equal(t, 1, l.Flush(ctx))
		l.Fail(task.Errorf(task.Canceled, "canceled"))
		l.Publish()
		_, err = stalled.Next(t.Context(), nil)
		require.ErrorIs(t, err, ErrCutOff)
		b, err := reader.Next(t.Context(), nil)
		require.NoError(t, err)
		require.Contains(t, string(b), "CANCELED")
		require.Len(t, parse(t, drain(t, subscribe(t, l, ""))), 3)
	})
}

// LO-201: several readers beside one writer, each sees the same bytes. Run with -race.
func TestManyReadersSeeTheSameBytes(t *testing.T) {
	l := New(first(), time.Now)
	var got [8][]byte
	var readers sync.WaitGroup
	for i := range got {
		s := subscribe(t, l, "")
		readers.Go(func() {
			defer s.Close()
			got[i] = drain(t, s)
		})
	}
	for i := range 2000 {
		require.NoError(t, write(l, fmt.Sprint(i, " ")))
	}
	l.End(task.End{})
	l.Publish()
	readers.Wait()
	for i := range got {
		require.True(t, bytes.Equal(got[0], got[i]))
	}
	require.Len(t, parse(t, got[0]), 2002)
}

// OC-CTRL-2026: micro-batching joins writes, not events, and never holds up the end.
func TestMicroBatchingJoinsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(first(), time.Now)
		s, err := l.Subscribe("", 50*time.Millisecond)
		require.NoError(t, err)
		var sizes []int
		var reader sync.WaitGroup
		began := time.Now()
		reader.Go(func() {
			for {
				b, err := s.Next(context.Background(), nil)
				if errors.Is(err, io.EOF) {
					return
				}
				require.NoError(t, err)
				sizes = append(sizes, len(parse(t, b)))
				s.Written()
			}
		})
		for range 12 {
			time.Sleep(9 * time.Millisecond) // never at the time of a write
			require.NoError(t, write(l, "x"))
		}
		time.Sleep(time.Millisecond)
		l.End(task.End{})
		l.Publish()
		reader.Wait()
		require.Equal(t, []int{1, 5, 6, 2}, sizes)
		require.Equal(t, 109*time.Millisecond, time.Since(began))
	})
}

// roomy is a log whose memory does not have to grow.
func roomy() *Log {
	l := New(first(), time.Now)
	l.chunks[0].data = append(make([]byte, 0, 1<<20), l.chunks[0].data...)
	l.ends, l.pieceEnds = append(make([]int, 0, 4096), l.ends...), make([]int, 0, 4096)
	l.tags, l.text = append(make([]tag, 0, 4096), l.tags...), make([]byte, 0, 1<<16)
	return l
}

// OC-CTRL-2026: the encoder takes no memory per token.
func TestEncodingATokenAllocatesNothing(t *testing.T) {
	l := roomy()
	s := subscribe(t, l, "")
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_ = write(l, " winter")
		_, _ = s.Next(context.Background(), nil)
		s.Written()
	}))
}

// LO-203: a second attempt is compared with the first, extends it, and fences it.
func TestLaterAttemptIsComparedThenExtends(t *testing.T) {
	l := New(first(), time.Now)
	one := l.Begin()
	require.NoError(t, one.Append(task.TextPiece("a")))
	require.NoError(t, one.Append(task.TextPiece("b")))
	two := l.Begin()
	require.ErrorIs(t, one.Append(task.TextPiece("c")), ErrSealed)
	require.NoError(t, two.Append(task.TextPiece("a")))
	require.ErrorIs(t, two.Done(), ErrDiverged, "it ended before what was sent")
	require.NoError(t, two.Append(task.TextPiece("b")))
	require.NoError(t, two.Append(task.TextPiece("c")))
	require.NoError(t, two.Done())
	transcript, _ := l.Transcript()
	require.Equal(t, task.Transcript{Text: "abc", Ends: []int{1, 2, 3}}, transcript)

	three := l.Begin()
	require.ErrorIs(t, three.Append(task.TextPiece("x")), ErrDiverged)
	require.Equal(t, 3, l.Tokens())
}

// LO-202: whatever an earlier process had sent, decoding it again gives the same ids; a client that is ahead waits for
// its event and goes on behind it.
func TestRecoveredLogServesClientsThatAreAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.StringN(1, 4, 12), 1, 20).Draw(t, "texts")
		before := New(first(), time.Now)
		for _, text := range texts {
			require.NoError(t, write(before, text))
		}
		seen := rapid.IntRange(0, len(texts)).Draw(t, "seen")
		after := string(appendID(nil, seen, before.tags[seen]))
		c := task.Checkpoint{}
		if n := rapid.IntRange(0, len(texts)).Draw(t, "checkpoint"); n > 0 {
			again := New(first(), time.Now)
			for _, text := range texts[:n] {
				require.NoError(t, write(again, text))
			}
			c = again.Checkpoint()
		}
		before.End(task.End{})
		before.Publish()
		want := string(drain(t, subscribe(t, before, after)))

		l := Recover(first(), c, time.Now)
		s := subscribe(t, l, after)
		a := l.Begin()
		for _, text := range texts {
			require.NoError(t, a.Append(task.TextPiece(text)))
		}
		require.NoError(t, a.Done())
		l.End(task.End{})
		l.Publish()
		require.Equal(t, want, string(drain(t, s)))
	})
}

// LO-202
func TestRecoveredLogRefusesOtherBytes(t *testing.T) {
	before := New(first(), time.Now)
	require.NoError(t, write(before, "a"))
	require.NoError(t, write(before, "b"))
	held := before.LastEventID()

	l := Recover(first(), before.Checkpoint(), time.Now)
	s := subscribe(t, l, held)
	a := l.Begin()
	require.NoError(t, a.Append(task.TextPiece("a")))
	b, err := take(s)
	require.NoError(t, err)
	require.Empty(t, b, "the client's event is still to come")
	require.ErrorIs(t, a.Append(task.TextPiece("x")), ErrDiverged, "the checkpoint")
	_, err = take(s)
	require.True(t, task.HasCode(err, task.WorkerReset), "%v", err)

	short := Recover(first(), before.Checkpoint(), time.Now)
	s = subscribe(t, short, held)
	a = short.Begin()
	require.NoError(t, a.Append(task.TextPiece("a")))
	require.ErrorIs(t, a.Done(), ErrDiverged)
	short.Fail(task.Errorf(task.Canceled, "canceled"))
	short.Publish()
	_, err = take(s)
	require.True(t, task.HasCode(err, task.Canceled), "a client that is ahead hears how the task ended: %v", err)
}

// LO-202: a stopping process ends streams without an end, so that clients come back.
func TestDetachEndsSubscriptionsWithoutATerminalEvent(t *testing.T) {
	l := New(first(), time.Now)
	s := subscribe(t, l, "")
	a := l.Begin()
	require.NoError(t, a.Append(task.TextPiece("a")))
	l.Detach()
	require.ErrorIs(t, a.Append(task.TextPiece("b")), ErrSealed)
	b, err := s.Next(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, parse(t, b), 2)
	s.Written()
	_, err = s.Next(t.Context(), nil)
	require.ErrorIs(t, err, ErrDetached)
}

func FuzzParseID(f *testing.F) {
	f.Add("0-00000000")
	f.Add("12-deadbeef")
	f.Add("-")
	f.Fuzz(func(t *testing.T, id string) {
		seq, tg, ok := parseID(id)
		if ok && string(appendID(nil, seq, tg)) != id {
			t.Fatalf("%q is read as %d-%x", id, seq, tg)
		}
	})
}

func BenchmarkToken(b *testing.B) {
	l := New(first(), time.Now)
	b.ReportAllocs()
	for b.Loop() {
		if err := write(l, " winter"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTokenToSubscriber(b *testing.B) {
	l := New(first(), time.Now)
	s := subscribe(b, l, "")
	b.ReportAllocs()
	for b.Loop() {
		if err := write(l, " winter"); err != nil {
			b.Fatal(err)
		}
		if _, err := take(s); err != nil {
			b.Fatal(err)
		}
		s.Written()
	}
}

// LO-607: the end of what was said, at whole letters.
func TestTail(t *testing.T) {
	l := New(task.Started{TaskID: "a"}, time.Now)
	require.Empty(t, l.Tail(5))
	a := l.Begin()
	require.NoError(t, a.Append(task.TextPiece("grün ")))
	require.NoError(t, a.Append(task.TextPiece("wärts")))
	require.Equal(t, "rts", l.Tail(3))
	require.Equal(t, "rts", l.Tail(4), "half a letter is none")
	require.Equal(t, "grün wärts", l.Tail(99))
}
