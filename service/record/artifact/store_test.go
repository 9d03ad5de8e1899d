// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(asVictim); dir != "" {
		victim(dir)
	}
	goleak.VerifyTestMain(m)
}

var epoch = time.UnixMilli(1_700_000_000_123).UTC()

// open opens a store whose clock stands, and closes it with the test.
func open(t testing.TB, dir string, change ...func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: dir, Now: func() time.Time { return epoch }}
	for _, c := range change {
		c(&o)
	}
	s, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func put(t testing.TB, s *Store, m Meta, content string) Entry {
	t.Helper()
	if m.Kind == "" {
		m.Kind = KindPlan
	}
	e, err := s.Put(t.Context(), m, strings.NewReader(content))
	require.NoError(t, err)
	return e
}

func content(t testing.TB, s *Store, id string) string {
	t.Helper()
	_, r, err := s.Open(id)
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

func idOf(content string) string { return fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(content))) }

func ids(entries []Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.ID)
	}
	return out
}

// files are the plain files below a folder, by their paths in it.
func files(t testing.TB, dir string) (out []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	}))
	return out
}

// ORCH-3097
func TestAnArtifactIsFoundByItsDigestAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "artifacts")
	s := open(t, dir)
	plan := put(t, s, Meta{Kind: KindPlan, MediaType: "text/markdown; charset=utf-8", TaskID: "t-1", Tags: []string{"b", "a", "b"}}, "# Plan")
	require.Equal(t, Entry{
		ID: idOf("# Plan"), Meta: Meta{Kind: KindPlan, MediaType: "text/markdown; charset=utf-8", TaskID: "t-1", Tags: []string{"a", "b"}},
		Size: 6, CreatedAt: epoch, RenewedAt: epoch,
	}, plan)
	diff := put(t, s, Meta{Kind: KindDiff, Parent: plan.ID, Metadata: map[string]string{"path": "Größe.go"}}, "")
	require.Equal(t, "application/octet-stream", diff.MediaType)
	hex := strings.TrimPrefix(plan.ID, "sha256-")
	on, err := os.ReadFile(filepath.Join(dir, "sha256", hex[:2], hex[2:]))
	require.NoError(t, err)
	require.Equal(t, "# Plan", string(on), "the bytes lie there as they are")
	require.NoError(t, s.Close())

	_, err = s.Put(t.Context(), Meta{Kind: KindPlan}, strings.NewReader("late"))
	require.True(t, task.HasCode(err, task.ShuttingDown), err)

	s = open(t, dir)
	for _, want := range []Entry{plan, diff} {
		got, err := s.Get(want.ID)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.Equal(t, "# Plan", content(t, s, plan.ID))
	require.Empty(t, content(t, s, diff.ID))
	bad, checked, err := check(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, bad)
	require.Equal(t, 2, checked)
}

// ORCH-3097
func TestTheSameBytesAreTheSameArtifact(t *testing.T) {
	now := epoch
	s := open(t, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return now } })
	first := put(t, s, Meta{Kind: KindPlan, TaskID: "a"}, "x")
	now = now.Add(time.Hour)
	again := put(t, s, Meta{Kind: KindTrace, TaskID: "b"}, "x")
	require.Equal(t, first.Meta, again.Meta, "it stays what it was said to be")
	require.Equal(t, first.CreatedAt, again.CreatedAt)
	require.Equal(t, now, again.RenewedAt)
	require.Len(t, s.List(Filter{}), 1)
	require.Len(t, s.List(Filter{TaskID: "a"}), 1)
	require.Empty(t, s.List(Filter{TaskID: "b"}))
}

// ORCH-3097
func TestListChoosesAndIsNewestFirst(t *testing.T) {
	now := epoch
	s := open(t, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return now } })
	var all []string
	for i := range 20 {
		now = now.Add(time.Second)
		m := Meta{Kind: Kinds()[i%2], TaskID: fmt.Sprintf("t-%d", i%5), Tags: []string{fmt.Sprintf("mod:%d", i%4)}}
		all = append(all, put(t, s, m, fmt.Sprint(i)).ID)
	}
	slices.Reverse(all)
	require.Equal(t, all, ids(s.List(Filter{})))
	require.Equal(t, all[:3], ids(s.List(Filter{Limit: 3})))
	require.Equal(t, []string{idOf("10"), idOf("0")}, ids(s.List(Filter{Kind: KindPlan, TaskID: "t-0"})))
	require.Equal(t, []string{idOf("18")}, ids(s.List(Filter{Tag: "mod:2", Limit: 1})))
	require.Empty(t, s.List(Filter{Tag: "mod:"}))
}

// LO-835: a clock that was set back puts nothing behind what came before it.
func TestAClockThatWasSetBackChangesNoOrder(t *testing.T) {
	dir, now := t.TempDir(), epoch
	later := func(o *Options) { o.Now = func() time.Time { return now } }
	s := open(t, dir, later)
	first := put(t, s, Meta{Kind: KindPlan}, "first")
	now = now.Add(-24 * time.Hour)
	second, third := put(t, s, Meta{Kind: KindPlan}, "second"), put(t, s, Meta{Kind: KindPlan}, "third")
	require.Equal(t, []string{third.ID, second.ID, first.ID}, ids(s.List(Filter{})))
	require.NoError(t, s.Close())
	require.Equal(t, []string{third.ID, second.ID, first.ID}, ids(open(t, dir, later).List(Filter{})))
}

// ORCH-3097
func TestWhatIsTooLargeIsRefusedAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) { o.MaxBytes = 1000 })
	_, err := s.Put(t.Context(), Meta{Kind: KindOther}, strings.NewReader(strings.Repeat("x", 1001)))
	require.True(t, task.HasCode(err, task.TooLarge), err)
	_, err = s.Put(t.Context(), Meta{Kind: KindOther}, endless{})
	require.True(t, task.HasCode(err, task.TooLarge), err)
	require.Empty(t, files(t, dir))
	put(t, s, Meta{}, strings.Repeat("x", 1000))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// What is stored passes through memory in pieces.
//
// ORCH-3097
func TestAPutTakesLittleMemory(t *testing.T) {
	s := open(t, t.TempDir())
	store := func() { _ = put(t, s, Meta{}, "warm") }
	store()
	r := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_, err := s.Put(b.Context(), Meta{Kind: KindOther}, io.LimitReader(endless{}, 32<<20))
			require.NoError(b, err)
		}
	})
	require.Less(t, r.AllocedBytesPerOp(), int64(1<<20))
}

// ORCH-3097
func TestAReaderThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	broken := errors.New("the line broke")
	_, err := s.Put(t.Context(), Meta{Kind: KindOther}, io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) { return 0, broken })))
	require.ErrorIs(t, err, broken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Put(ctx, Meta{Kind: KindOther}, strings.NewReader("x"))
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, files(t, dir))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// ORCH-3097
func TestADiskThatDoesNotTakeItIsAnErrorAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	core, logs := observer.New(zap.ErrorLevel)
	s := open(t, dir, func(o *Options) { o.Log = zap.New(core) })
	id := idOf("x")
	blocked := filepath.Join(dir, path(id)+sidecar, "in the way")
	require.NoError(t, os.MkdirAll(blocked, 0o700))
	_, err := s.Put(t.Context(), Meta{Kind: KindOther}, strings.NewReader("x"))
	require.True(t, task.HasCode(err, task.LedgerUnavailable), err)
	require.True(t, task.AsError(err).Retriable)
	require.Equal(t, 1, logs.FilterMessage("an artifact could not be stored").Len(), "no client sees the cause")
	require.Empty(t, files(t, dir))
	_, err = s.Get(id)
	require.True(t, task.HasCode(err, task.NotFound), err)
}

// No id, however it is written, is a way out of the folder.
//
// ORCH-3097
func TestOnlyWholeIDsAreTaken(t *testing.T) {
	s := open(t, t.TempDir())
	good := put(t, s, Meta{}, "x").ID
	for _, id := range []string{
		"", "x", "sha256-", "../../etc/passwd", strings.ToUpper(good), good + "0", good[:70], " " + good, good + "\x00",
		"sha256-" + strings.Repeat("/", 64), "sha256-" + strings.Repeat("../", 21) + "x", strings.Replace(good, "sha256-", "sha256:", 1),
	} {
		_, err := s.Get(id)
		require.True(t, task.HasCode(err, task.InvalidParams), "%q: %v", id, err)
		_, _, err = s.Open(id)
		require.True(t, task.HasCode(err, task.InvalidParams), "%q: %v", id, err)
	}
}

// ORCH-3097
func TestMetaIsBounded(t *testing.T) {
	s := open(t, t.TempDir())
	many := make([]string, maxTags+1)
	pairs := map[string]string{}
	for i := range many {
		many[i] = fmt.Sprint("t", i)
		pairs[many[i]] = ""
	}
	for name, m := range map[string]Meta{
		"no kind":         {Kind: " "},
		"unknown kind":    {Kind: "novel"},
		"media type":      {MediaType: "text"},
		"media type long": {MediaType: "text/" + strings.Repeat("x", 200)},
		"media type odd":  {MediaType: "text/plain\r\nX-Evil: 1"},
		"task":            {TaskID: "../x"},
		"parent form":     {Parent: "sha256-zz"},
		"many tags":       {Tags: many},
		"empty tag":       {Tags: []string{""}},
		"odd tag":         {Tags: []string{"a b"}},
		"long tag":        {Tags: []string{strings.Repeat("x", 65)}},
		"many pairs":      {Metadata: pairs},
		"odd key":         {Metadata: map[string]string{"a b": ""}},
		"long value":      {Metadata: map[string]string{"a": strings.Repeat("x", 1025)}},
		"no UTF-8":        {Metadata: map[string]string{"a": "\xff"}},
	} {
		if m.Kind == "" {
			m.Kind = KindPlan
		}
		_, err := s.Put(t.Context(), m, strings.NewReader("x"))
		require.True(t, task.HasCode(err, task.InvalidParams), "%s: %v", name, err)
	}
	_, err := s.Put(t.Context(), Meta{Kind: KindPlan, Parent: idOf("nobody")}, strings.NewReader("x"))
	require.True(t, task.HasCode(err, task.NotFound), err)
	require.Empty(t, s.List(Filter{}))
}

// ORCH-3097
func TestDamageIsFoundAndMended(t *testing.T) {
	dir := t.TempDir()
	registry := prometheus.NewRegistry()
	s := open(t, dir, func(o *Options) { o.Registerer = registry })
	flipped, cut, gone, good := put(t, s, Meta{}, "flip me"), put(t, s, Meta{}, "cut me"), put(t, s, Meta{}, "remove me"), put(t, s, Meta{}, "good")
	text := []byte("flip me")
	text[3] ^= 1
	require.NoError(t, os.WriteFile(filepath.Join(dir, path(flipped.ID)), text, 0o600))
	require.NoError(t, os.Truncate(filepath.Join(dir, path(cut.ID)), 2))
	require.NoError(t, os.Remove(filepath.Join(dir, path(gone.ID))))
	bad, checked, err := check(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, 4, checked)
	found := map[string]string{}
	for _, d := range bad {
		found[d.id] = d.what
	}
	require.Len(t, found, 3)
	require.Equal(t, "its bytes have changed", found[flipped.ID])
	require.Equal(t, "it has 2 bytes and had 6", found[cut.ID])
	require.Contains(t, found[gone.ID], "cannot be read")
	for _, id := range []string{cut.ID, gone.ID} {
		_, _, err = s.Open(id)
		require.True(t, task.HasCode(err, task.Internal), err)
	}
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.damaged), 0)
	require.Equal(t, "good", content(t, s, good.ID))

	for _, text := range []string{"flip me", "cut me", "remove me"} {
		put(t, s, Meta{}, text)
	}
	bad, _, err = check(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, bad)
}

// A link in the place of an artifact's bytes is not followed, wherever it leads.
//
// ORCH-3097
func TestLinksAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("mine"), 0o600))
	for i, to := range []string{secret, "../../sha256", filepath.Join(dir, path(put(t, s, Meta{}, "other").ID))} {
		e := put(t, s, Meta{}, fmt.Sprintf("%4d", i))
		at := filepath.Join(dir, path(e.ID))
		require.NoError(t, os.Remove(at))
		require.NoError(t, os.Symlink(to, at))
		_, _, err := s.Open(e.ID)
		require.True(t, task.HasCode(err, task.Internal), err)
		require.NotContains(t, task.AsError(err).Message, dir)
	}
	require.NoError(t, s.Close())

	// Nor is a folder that is a link.
	other := t.TempDir()
	at := filepath.Join(dir, filepath.Dir(path(idOf("new"))))
	require.NoDirExists(t, at)
	require.NoError(t, os.Symlink(other, at))
	s = open(t, dir)
	_, err := s.Put(t.Context(), Meta{Kind: KindPlan}, strings.NewReader("new"))
	require.ErrorContains(t, err, "is no folder")
	require.NoError(t, s.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "sha256")))
	require.NoError(t, os.Symlink(other, filepath.Join(dir, "sha256")))
	_, err = Open(Options{Dir: dir})
	require.ErrorContains(t, err, "is no folder")
	require.Empty(t, files(t, other))
}

// ORCH-3097
func TestOpenPutsRightWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	kept, bare, torn, empty := put(t, s, Meta{TaskID: "t"}, "kept"), put(t, s, Meta{}, "bare"), put(t, s, Meta{}, "torn"), put(t, s, Meta{}, "empty")
	require.NoError(t, s.Close())
	at := func(e Entry) string { return filepath.Join(dir, path(e.ID)) }
	require.NoError(t, os.Remove(at(bare)+sidecar))
	require.NoError(t, os.WriteFile(at(torn)+sidecar, []byte(`{"id":"sha`), 0o600))
	require.NoError(t, os.Remove(at(empty)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tmp", "7"), []byte("half of someth"), 0o600))
	stray := strings.Replace(at(kept), filepath.Base(at(kept)), strings.Repeat("0", 62), 1)
	require.NoError(t, os.WriteFile(stray, []byte("not what its name says"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(at(kept)), "README"), []byte("?"), 0o600))

	for range 2 { // and the second time there is nothing left to put right
		s = open(t, dir)
		require.ElementsMatch(t, []string{kept.ID, bare.ID, torn.ID}, ids(s.List(Filter{})))
		e, err := s.Get(kept.ID)
		require.NoError(t, err)
		require.Equal(t, kept, e)
		for _, id := range []string{bare.ID, torn.ID} {
			e, err = s.Get(id)
			require.NoError(t, err)
			require.Equal(t, KindOther, e.Kind)
			require.EqualValues(t, 4, e.Size)
		}
		require.NoFileExists(t, filepath.Join(dir, "tmp", "7"))
		require.NoFileExists(t, at(empty)+sidecar)
		require.FileExists(t, stray)
		require.NoError(t, s.Close())
	}
}

// ORCH-3097
func TestRetention(t *testing.T) {
	now := epoch
	registry := prometheus.NewRegistry()
	dir := t.TempDir()
	s := open(t, dir, func(o *Options) {
		o.Now, o.Registerer, o.RetainAge, o.RetainBytes = func() time.Time { return now }, registry, time.Hour, 40<<10
		o.SweepEvery = 24 * time.Hour
	})
	a, b := put(t, s, Meta{}, "a"), put(t, s, Meta{}, "b")
	now = now.Add(time.Hour)
	put(t, s, Meta{}, "b") // renewed
	swept, err := s.Sweep(t.Context())
	require.NoError(t, err)
	require.Zero(t, swept, "neither is older than the limit")
	now = now.Add(time.Millisecond)
	swept, err = s.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, Swept{Artifacts: 1, Bytes: 8 << 10}, swept)
	_, err = s.Get(a.ID)
	require.True(t, task.HasCode(err, task.NotFound), err)
	require.Equal(t, "b", content(t, s, b.ID))
	require.Len(t, files(t, dir), 2)

	for i := range 4 {
		now = now.Add(time.Second)
		put(t, s, Meta{}, fmt.Sprint(i))
	}
	_, reading, err := s.Open(b.ID)
	require.NoError(t, err)
	defer reading.Close()
	require.InDelta(t, 40<<10, testutil.ToFloat64(s.metrics.bytes), 0)
	now = now.Add(time.Second)
	require.NoError(t, s.Close()) // so that the sweep that too many bytes wake is this test's
	s = open(t, dir, func(o *Options) {
		o.Now, o.RetainAge, o.RetainBytes = func() time.Time { return now }, time.Hour, 64<<10
	})
	s.mu.Lock()
	s.o.RetainBytes = 20 << 10
	s.mu.Unlock()
	swept, err = s.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, Swept{Artifacts: 3, Bytes: 24 << 10}, swept, "the oldest go until the rest fits")
	require.Equal(t, []string{idOf("3"), idOf("2")}, ids(s.List(Filter{})))
	left, err := io.ReadAll(reading)
	require.NoError(t, err)
	require.Equal(t, "b", string(left), "who reads one when it goes reads it to its end")
}

// The sweep that Open starts comes by itself: with time, and when there is too much.
//
// ORCH-3097
func TestTheSweepComesByItself(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Options{Dir: dir, RetainAge: time.Hour, RetainBytes: 20 << 10})
		require.NoError(t, err)
		put(t, s, Meta{}, "a")
		put(t, s, Meta{}, "b")
		require.Len(t, s.List(Filter{}), 2)
		put(t, s, Meta{}, "c")
		synctest.Wait()
		require.Len(t, s.List(Filter{}), 2)
		time.Sleep(time.Hour + 2*time.Minute) // of the bubble's clock
		synctest.Wait()
		require.Empty(t, s.List(Filter{}))
		require.NoError(t, s.Close())
	})
}

// A process that is killed may leave an artifact without its description. Whoever stores it again gives it one.
//
// ORCH-3097
func TestADescriptionThatSaysNothingGivesWay(t *testing.T) {
	s := open(t, t.TempDir())
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	first := put(t, s, Meta{Kind: KindOther}, "same")
	require.Equal(t, KindOther, first.Kind)
	told := put(t, s, Meta{Kind: KindTrace, TaskID: "t"}, "same")
	require.Equal(t, KindTrace, told.Kind)
	require.Equal(t, first.CreatedAt, told.CreatedAt)
	require.Equal(t, KindTrace, put(t, s, Meta{Kind: KindDiff}, "same").Kind, "one that says something stays")
}

// LO-803: a sweep that panics is made again.
func TestASweepThatPanickedIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.ErrorLevel)
		var wrong atomic.Bool
		s, err := Open(Options{Dir: dir, RetainAge: time.Hour, Log: zap.New(core), Now: func() time.Time {
			if wrong.Load() {
				panic("index out of range")
			}
			return time.Now()
		}})
		require.NoError(t, err)
		put(t, s, Meta{}, "a")
		wrong.Store(true)
		time.Sleep(s.o.SweepEvery)
		synctest.Wait()
		require.Equal(t, 1, logs.FilterMessageSnippet("the sweep of artifacts panicked").Len())
		wrong.Store(false)
		time.Sleep(time.Hour + 2*s.o.SweepEvery)
		synctest.Wait()
		require.Empty(t, s.List(Filter{}))
		require.NoError(t, s.Close())
	})
}
