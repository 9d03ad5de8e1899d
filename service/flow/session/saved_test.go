// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// writer is an engine that saves slots. It has no other use.
type writer struct {
	engine.Engine

	t     testing.TB
	dir   string
	slots []engine.Slot
	bytes int
	fail  error
}

func (e *writer) Slots(context.Context) ([]engine.Slot, error) { return e.slots, nil }
func (e *writer) Erase(context.Context, int) error             { return nil }
func (e *writer) Restore(context.Context, int, engine.Saved) error {
	return errors.New("nobody restores here")
}

func (e *writer) Save(_ context.Context, slot int, name string) (engine.Saved, error) {
	require.NoError(e.t, os.WriteFile(filepath.Join(e.dir, name), make([]byte, e.bytes), 0o600))
	if e.fail != nil {
		return engine.Saved{}, e.fail
	}
	return engine.Saved{Name: name, Tokens: 10 + slot, Bytes: int64(e.bytes)}, nil
}

// shelf is a world with room for 100 bytes of KV, and a worker of three slots.
type shelf struct {
	*world

	e     *writer
	dir   string
	lost  chan struct{}
	turns int
}

func newShelf(t *testing.T, change ...func(*Options)) *shelf {
	s := &shelf{dir: filepath.Join(t.TempDir(), "kv"), lost: make(chan struct{})}
	change = append([]func(*Options){func(o *Options) {
		o.SaveDir, o.SaveBytes, o.Free = s.dir, 100, func(string) (int64, error) { return 100, nil }
	}}, change...)
	s.world = open(t, change...)
	s.e = &writer{t: t, dir: s.dir, bytes: 40}
	for i := range 3 {
		s.e.slots = append(s.e.slots, engine.Slot{ID: i, Job: 100 + i, Told: true})
	}
	return s
}

// turn is one of a session that leaves its KV in a slot.
func (s *shelf) turn(session string, slot int) {
	s.t.Helper()
	s.turns++
	t, err := s.admit(turn(fmt.Sprint("turn-", s.turns), session))
	require.NoError(s.t, err)
	s.m.Began(t, "r-0", 3)
	s.m.Kept(t, "r-0", s.lost, task.KV{Slot: slot, Job: 100 + slot, Cells: 10, Told: true})
	s.end(t)
}

// leave ends the worker.
func (s *shelf) leave() {
	s.m.Leaves(s.t.Context(), "r-0", "fp", s.e)
	close(s.lost)
	s.lost = make(chan struct{})
}

// files are how many are in the folder.
func (s *shelf) files() int {
	s.t.Helper()
	all, err := os.ReadDir(s.dir)
	require.NoError(s.t, err)
	return len(all)
}

// LO-473: what slots hold of sessions is saved before their worker ends, and handed out once, to a worker of the same fingerprint.
func TestTheKVOfAWorkerThatEndsIsSaved(t *testing.T) {
	s := newShelf(t)
	s.turn("one", 0)
	s.turn("two", 2)
	s.leave()
	require.Equal(t, 2, s.files())
	_, _, ok := s.m.Take("one", "other")
	require.False(t, ok, "of another fingerprint")
	_, _, ok = s.m.Take("none", "fp")
	require.False(t, ok)
	saved, done, ok := s.m.Take("two", "fp")
	require.True(t, ok)
	require.Equal(t, 12, saved.Tokens)
	require.FileExists(t, filepath.Join(s.dir, saved.Name))
	_, _, ok = s.m.Take("two", "fp")
	require.False(t, ok, "it is handed out once")
	done()
	require.NoFileExists(t, filepath.Join(s.dir, saved.Name))
	require.Equal(t, 1, s.files())

	s.turn("one", 1)
	s.leave()
	saved, _, ok = s.m.Take("one", "fp")
	require.True(t, ok)
	require.Equal(t, 11, saved.Tokens, "the later one counts")
	require.Equal(t, 1, s.files(), "the earlier one is gone")
}

// LO-473: a slot that another job has had since, or that is busy, holds something else.
func TestASlotThatHoldsSomethingElseIsNotSaved(t *testing.T) {
	s := newShelf(t)
	s.turn("one", 0)
	s.turn("two", 1)
	s.e.slots[0].Job, s.e.slots[1].Busy = 7, true
	s.leave()
	require.Zero(t, s.files())
}

// LO-473: of what does not fit, the oldest goes. One that alone is too large is not kept.
func TestSavedKVIsBounded(t *testing.T) {
	s := newShelf(t)
	for i, id := range []string{"one", "two", "three"} {
		s.turn(id, i)
		s.leave()
	}
	require.Equal(t, 2, s.files())
	_, _, ok := s.m.Take("one", "fp")
	require.False(t, ok)
	_, _, ok = s.m.Take("three", "fp")
	require.True(t, ok)
	s.e.bytes = 101
	s.turn("four", 0)
	s.leave()
	_, _, ok = s.m.Take("four", "fp")
	require.False(t, ok)
	require.Equal(t, 2, s.files(), "the others stay")
}

// LO-473: the files go with their session, whatever ends it, with a task of it that is deleted, and with a restart.
func TestSavedKVGoesWithItsSession(t *testing.T) {
	for name, end := range map[string]func(s *shelf){
		"deleted":        func(s *shelf) { require.NoError(t, s.m.Delete(t.Context(), "one")) },
		"a deleted task": func(s *shelf) { s.m.Forget("one") },
		"over": func(s *shelf) {
			s.now = s.now.Add(time.Hour)
			s.m.Sweep(t.Context())
		},
		"making room": func(s *shelf) {
			for _, id := range []string{"a", "b", "c", "d"} {
				s.create(id)
			}
			s.m.Sweep(t.Context())
		},
		"a restart": func(s *shelf) { s.restart() },
		"switched off": func(s *shelf) {
			s.o.SaveBytes = 0
			s.restart()
			require.NoDirExists(t, s.dir)
			require.NoError(t, os.Mkdir(s.dir, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			s.turn("one", 0)
			s.leave()
			require.Equal(t, 1, s.files())
			end(s)
			require.Zero(t, s.files())
			_, _, ok := s.m.Take("one", "fp")
			require.False(t, ok)
		})
	}
}

// LO-473: nothing is left of a save that fails, nor is one begun on a disk that is nearly full, or where nothing is to be saved.
func TestASaveThatFails(t *testing.T) {
	s := newShelf(t)
	s.e.fail = errors.New("no space left on device")
	s.turn("one", 0)
	s.leave()
	require.Zero(t, s.files())
	_, _, ok := s.m.Take("one", "fp")
	require.False(t, ok)

	for _, free := range []func(string) (int64, error){
		func(string) (int64, error) { return 99, nil }, func(string) (int64, error) { return 0, errFull },
	} {
		s = newShelf(t, func(o *Options) { o.Free = free })
		s.turn("one", 0)
		s.leave()
		require.Zero(t, s.files())
	}
	off := newShelf(t, func(o *Options) { o.SaveBytes = 0 })
	off.turn("one", 0)
	off.leave() // its writer would fail without a folder
}
