// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/task"
)

// slow is a fetcher that stops half way until it is told how to go on.
type slow struct {
	began chan string // refs
	goOn  chan error
}

func newSlow() slow { return slow{make(chan string, 16), make(chan error, 16)} }

func (s slow) Fetch(ctx context.Context, ref, into, _ string, progress func(done, total int64)) (string, int64, string, error) {
	progress(40, 100)
	path := filepath.Join(into, filepath.Base(ref))
	if err := os.WriteFile(path+".part", []byte("half"), 0o600); err != nil {
		return "", 0, "", err
	}
	s.began <- ref
	select {
	case err := <-s.goOn:
		if err != nil {
			return "", 0, "", err
		}
	case <-ctx.Done():
		return "", 0, "", ctx.Err()
	}
	return path, 0, sum(small("x")), errors.Join(os.Remove(path+".part"), os.WriteFile(path, small("x"), 0o600))
}

// ORCH-3060
func TestALongFetchGoesOn(t *testing.T) {
	s := newSlow()
	r := setup(t, s)
	m, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Digest: sum(small("x"))})
	require.NoError(t, err)
	require.Equal(t, Fetching, m.State)
	require.Equal(t, sum(small("x")), m.Digest)
	require.False(t, m.Verified)
	<-s.began
	m, err = r.Get("x")
	require.NoError(t, err)
	require.Equal(t, &Progress{Done: 40, Total: 100}, m.Progress)
	require.Len(t, r.List(Fetching), 1)

	_, err = r.SetState("x", Retired, 0)
	code(t, task.Conflict, err)
	_, err = r.Verify(t.Context(), "x")
	code(t, task.Conflict, err)
	_, err = r.Use(t.Context(), "x")
	require.True(t, code(t, task.PoolUnready, err).Retriable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Wait(ctx, "x")
	require.ErrorIs(t, err, context.Canceled)
	_, err = r.Create(ctx, Request{Ref: "hf:org/repo/x.gguf", Wait: time.Hour})
	require.ErrorIs(t, err, context.Canceled)

	var wait sync.WaitGroup
	var joined [8]Model
	for i := range joined {
		wait.Go(func() { joined[i], _ = r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Wait: time.Hour}) })
	}
	s.goOn <- nil
	m, err = r.Wait(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, Active, m.State)
	require.True(t, m.Verified)
	require.Nil(t, m.Progress)
	wait.Wait()
	for _, j := range joined {
		require.Equal(t, m, j)
	}
	require.Empty(t, s.began, "it was fetched once")
}

// The audit of what a fetch calls names the caller, whose call may have ended.
//
// ORCH-3080
func TestAFetchKnowsWhoAskedForIt(t *testing.T) {
	type actor struct{}
	ended := make(chan struct{})
	heard := make(chan any, 1)
	r := setup(t, fetch(func(ctx context.Context, _, _, _ string, _ func(done, total int64)) (string, int64, string, error) {
		<-ended
		heard <- ctx.Value(actor{})
		return "", 0, "", context.Cause(ctx)
	}))
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), actor{}, "token:abcdef"))
	_, err := r.Create(ctx, Request{Ref: "hf:org/repo/x.gguf"})
	require.NoError(t, err)
	cancel()
	close(ended)
	require.Equal(t, "token:abcdef", <-heard)
}

// ORCH-3060
func TestAFetchGoesOnAfterARestart(t *testing.T) {
	s := newSlow()
	r := setup(t, s)
	waiting := make(chan error)
	go func() {
		_, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Wait: time.Hour})
		waiting <- err
	}()
	<-s.began
	require.NoError(t, r.Close())
	code(t, task.ShuttingDown, <-waiting)
	_, err := r.Wait(t.Context(), "x")
	code(t, task.ShuttingDown, err)
	_, err = r.Create(t.Context(), Request{Ref: "hf:org/repo/y.gguf"})
	code(t, task.ShuttingDown, err)
	require.Contains(t, r.left(t), "models/files/x/x.gguf.part")

	r.open(t)
	require.Equal(t, "hf:org/repo/x.gguf", <-s.began)
	s.goOn <- nil
	_, err = r.Wait(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, Active, r.changed[0].State)
}

// ORCH-3060, ORCH-3037
func TestALateFailureIsKept(t *testing.T) {
	s := newSlow()
	r := setup(t, s)
	for _, c := range []struct {
		failure error
		code    task.Code
		again   bool // another try may help
		left    []string
	}{
		{task.Errorf(task.UntrustedArtifact, "other bytes"), task.UntrustedArtifact, false, []string{"models/x.json"}},
		{task.Errorf(task.PoolUnavailable, "the host does not answer").Retry(0), task.PoolUnavailable, true, []string{"models/files/x/x.gguf.part", "models/x.json"}},
		{errors.New("reset"), task.Internal, false, []string{"models/files/x/x.gguf.part", "models/x.json"}},
	} {
		m, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf"})
		require.NoError(t, err)
		require.Equal(t, Fetching, m.State)
		<-s.began
		s.goOn <- c.failure
		_, err = r.Wait(t.Context(), "x")
		code(t, c.code, err)
		require.Equal(t, c.left, r.left(t), "what another try goes on from, and no more")
		r.reopen(t)
		m, err = r.Get("x")
		require.NoError(t, err)
		require.Equal(t, Failed, m.State)
		require.Equal(t, c.code, m.Problem.Code)
		_, err = r.Use(t.Context(), "x")
		require.Equal(t, c.again, code(t, c.code, err).Retriable)
		_, err = r.Verify(t.Context(), "x")
		code(t, task.Conflict, err)
		_, err = r.SetState("x", Active, 0)
		code(t, task.Conflict, err)
	}
	_, err := r.Create(t.Context(), Request{ID: "x", Ref: "hf:org/repo/y.gguf"})
	code(t, task.Conflict, err)
	s.goOn <- nil
	m := r.add(t, Request{Ref: "hf:org/repo/x.gguf"})
	require.Nil(t, m.Problem)
	require.Equal(t, []string{"models/files/x/x.gguf", "models/x.json"}, r.left(t))
}

// ORCH-3060
func TestDeletingGivesUpAFetch(t *testing.T) {
	s := newSlow()
	r := setup(t, s)
	waiting := make(chan error)
	go func() {
		_, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/x.gguf", Wait: time.Hour})
		waiting <- err
	}()
	<-s.began
	require.NoError(t, r.Delete(t.Context(), "x"))
	code(t, task.Conflict, <-waiting)
	require.Empty(t, r.left(t))
	require.Empty(t, r.changed)
}

// ORCH-3060
func TestFetchesAreBounded(t *testing.T) {
	s := newSlow()
	r := setup(t, s, func(o *Options) { o.Fetches = 3 })
	for i := range maxPending {
		_, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/" + string(rune('A'+i%26)) + string(rune('a'+i/26))})
		require.NoError(t, err)
	}
	_, err := r.Create(t.Context(), Request{Ref: "hf:org/repo/one-more"})
	require.True(t, code(t, task.RateLimited, err).Retriable)
	for range 3 {
		<-s.began
	}
	require.Empty(t, s.began)
	s.goOn <- nil
	<-s.began
}

// ORCH-3060, LO-808: the time of modification is set back, as some programs that copy files do.
func TestVerify(t *testing.T) {
	r := setup(t, writes(small("x")))
	m := r.add(t, Request{Ref: "hf:org/repo/x.gguf"})
	found, err := r.Verify(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, Verification{
		ModelID: "x", Digest: m.Digest, Verified: true, Signature: SignatureMissing, Warnings: []string{"it has no signature"}, VerifiedAt: now,
	}, found)

	used, err := r.Use(t.Context(), "x")
	require.NoError(t, err)
	used.Release()
	was, err := os.Stat(m.Path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(m.Path, small("y"), 0o600)) // of the same size
	require.NoError(t, os.Chtimes(m.Path, was.ModTime(), was.ModTime()))
	_, err = r.Use(t.Context(), "x")
	code(t, task.UntrustedArtifact, err)
	r.reopen(t)
	bad, err := r.Get("x")
	require.NoError(t, err)
	require.False(t, bad.Verified)
	require.Equal(t, Active, bad.State)
	require.Equal(t, m.Digest, bad.Digest, "what it should be")
	require.Equal(t, task.UntrustedArtifact, bad.Problem.Code)
	found, err = r.Verify(t.Context(), "x")
	require.NoError(t, err)
	require.False(t, found.Verified)
	require.Equal(t, sum(small("y")), found.Digest, "what it is")
	require.NotEmpty(t, found.Warnings)
	require.Equal(t, 1, r.counted(t, "fail", "digest_mismatch", "llamacpp"))

	require.NoError(t, os.Remove(m.Path))
	found, err = r.Verify(t.Context(), "x")
	require.NoError(t, err)
	require.False(t, found.Verified)
	require.Empty(t, found.Digest)
	require.NoError(t, os.WriteFile(m.Path, small("x"), 0o600))
	mended, err := r.Use(t.Context(), "x")
	require.NoError(t, err, "its bytes are what they should be")
	mended.Release()
	require.True(t, mended.Verified)
	require.Nil(t, mended.Problem)
}

// ORCH-3060
func TestACheckGoesOnWithoutItsClient(t *testing.T) {
	r := setup(t, writes(small("x")), func(o *Options) { o.Hashes = 1 })
	m := r.add(t, Request{Ref: "hf:org/repo/x.gguf"})
	require.NoError(t, os.WriteFile(m.Path, small("y"), 0o600))
	r.hashing <- struct{}{} // another model is being hashed
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := r.Verify(ctx, "x")
		gone <- err
	}()
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	var found Verification
	go func() {
		var err error
		found, err = r.Verify(t.Context(), "x")
		gone <- err
	}()
	<-r.hashing
	require.NoError(t, <-gone)
	require.False(t, found.Verified)
	bad, err := r.Get("x")
	require.NoError(t, err)
	require.False(t, bad.Verified)

	r.hashing <- struct{}{}
	r.Catalog.mu.Lock()
	r.verify(r.byID["x"])
	j := r.byID["x"].job
	r.Catalog.mu.Unlock()
	require.NoError(t, r.Delete(t.Context(), "x"))
	<-j.over
	code(t, task.Conflict, j.err)
	<-r.hashing
	require.Empty(t, r.left(t))
}

// LO-803: a panic in the fetch, the check or the deletion of one model ends that alone, whatever it had locked.
func TestAPanicEndsTheWorkForOneModel(t *testing.T) {
	var fetches, clock, changed atomic.Bool
	stumble := func(b *atomic.Bool) {
		if b.Swap(false) {
			panic("index out of range")
		}
	}
	core, logs := observer.New(zap.ErrorLevel)
	content := small("m")
	f := writes(content)
	r := setup(t, fetch(func(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (string, int64, string, error) {
		stumble(&fetches)
		return f(ctx, ref, into, digest, progress)
	}), func(o *Options) {
		o.Log = zap.New(core)
		o.Now = func() time.Time { stumble(&clock); return now }
		tell := o.Changed
		o.Changed = func(m Model) { stumble(&changed); tell(m) }
	})
	req := Request{ID: "m", Ref: "https://example.org/m.gguf", Wait: time.Minute}
	fetches.Store(true)
	_, err := r.Create(t.Context(), req)
	require.NotContains(t, code(t, task.Internal, err).Message, "index", "that is for the log")
	require.Equal(t, 1, logs.FilterMessage("the work for a model of the catalog panicked").Len())
	changed.Store(true) // whoever is told does
	_, err = r.Create(t.Context(), req)
	code(t, task.Internal, err)
	require.False(t, changed.Load())
	m, err := r.Get("m")
	require.NoError(t, err)
	require.Equal(t, Active, m.State)

	clock.Store(true)
	_, err = r.Verify(t.Context(), "m")
	code(t, task.Internal, err)
	_, err = r.Verify(t.Context(), "m")
	require.NoError(t, err)
	require.NoError(t, r.Delete(t.Context(), "m"))
	require.Equal(t, 3, logs.FilterMessage("the work for a model of the catalog panicked").Len())
}
