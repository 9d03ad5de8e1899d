// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// saved is the KV of a session whose worker has ended, in a file (LO-473).
type saved struct {
	engine.Saved

	session     string
	fingerprint string // of the worker
}

// openShelf empties the folder of what a run before has left, and makes it where something is to be saved.
func (m *Manager) openShelf() error {
	if m.o.SaveDir == "" {
		return nil
	}
	err := os.RemoveAll(m.o.SaveDir)
	if err == nil && m.o.SaveBytes > 0 {
		err = os.MkdirAll(m.o.SaveDir, 0o700) // what was asked stands in the files
	}
	if err != nil {
		return fmt.Errorf("the folder of saved KV: %w", err)
	}
	return nil
}

// Leaves is told that a worker is about to end that is well and runs nothing. It has the KV of the sessions there saved, until ctx ends.
func (m *Manager) Leaves(ctx context.Context, replicaID, fingerprint string, e engine.Engine) {
	saver, saves := e.(engine.Saver)
	keeper, tells := e.(engine.Keeper)
	if m.o.SaveBytes == 0 || !saves || !tells {
		return
	}
	for id, h := range m.held(replicaID) {
		log := m.o.Log.With(zap.String("session_id", id), zap.String("replica_id", replicaID))
		s, err := m.save(ctx, saver, keeper, h)
		switch {
		case err != nil:
			log.Warn("the KV of a session was not saved before its worker ended, and its next turn starts cold", zap.Error(err))
		case s.Tokens > 0:
			m.shelve(&saved{s, id, fingerprint})
			log.Info("the KV of a session was saved before its worker ended", zap.Int("tokens", s.Tokens), zap.Int64("bytes", s.Bytes))
		}
	}
	m.clear()
}

// heldAt is what a slot holds, and which it is.
type heldAt struct {
	holding

	slot int
}

// held is what the slots of a replica hold, by the sessions that can use it.
func (m *Manager) held(replicaID string) map[string]heldAt {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]heldAt{}
	for id, e := range m.sessions {
		if e.place.replica == replicaID && m.warm(e) {
			all[id] = heldAt{m.cells[e.place], e.place.slot}
		}
	}
	return all
}

// errNoRoom is why nothing is saved on a disk that is nearly full: the ledger needs it.
var errNoRoom = errors.New("the disk has less free than `sessions.kv_bytes`")

// save has a slot saved, where it still holds what it held. Without tokens, it does not.
func (m *Manager) save(ctx context.Context, saver engine.Saver, keeper engine.Keeper, h heldAt) (s engine.Saved, err error) {
	free, err := m.o.Free(m.o.SaveDir)
	if err == nil && free < m.o.SaveBytes {
		err = errNoRoom
	}
	if err != nil {
		return s, err
	}
	slots, err := keeper.Slots(ctx)
	at := slices.IndexFunc(slots, func(s engine.Slot) bool { return s.ID == h.slot })
	if err != nil || at < 0 || slots[at].Busy || slots[at].Job != h.job {
		return s, err
	}
	m.mu.Lock()
	m.files++
	name := fmt.Sprintf("%d.kv", m.files)
	m.mu.Unlock()
	if s, err = saver.Save(ctx, h.slot, name); err != nil {
		m.mu.Lock()
		m.trash = append(m.trash, name) // a part of it may be there
		m.mu.Unlock()
	}
	return s, err
}

// shelve keeps what was saved, in the place of what was saved of the session before. Where all take too much, the oldest go.
func (m *Manager) shelve(s *saved) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[s.session] == nil || s.Bytes > m.o.SaveBytes { // it was deleted meanwhile, or never fits
		m.trash = append(m.trash, s.Name)
		return
	}
	m.unshelve(s.session)
	m.shelf = append(m.shelf, s)
	sum := int64(0)
	for i, s := range slices.Backward(m.shelf) {
		if sum += s.Bytes; sum > m.o.SaveBytes {
			for _, old := range m.shelf[:i+1] {
				m.trash = append(m.trash, old.Name)
			}
			m.shelf = slices.Delete(m.shelf, 0, i+1)
			return
		}
	}
}

// unshelve gives up what was saved of a session. The caller holds mu, and calls clear once it does not.
func (m *Manager) unshelve(id string) {
	m.shelf = slices.DeleteFunc(m.shelf, func(s *saved) bool {
		if s.session == id {
			m.trash = append(m.trash, s.Name)
		}
		return s.session == id
	})
}

// Take hands out, once, what a worker with that fingerprint has saved of a session's KV. The file is there until done is called.
func (m *Manager) Take(id, fingerprint string) (s engine.Saved, done func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := slices.IndexFunc(m.shelf, func(s *saved) bool { return s.session == id && s.fingerprint == fingerprint })
	if at < 0 {
		return s, nil, false
	}
	s = m.shelf[at].Saved
	m.shelf = slices.Delete(m.shelf, at, at+1)
	return s, func() {
		m.mu.Lock()
		m.trash = append(m.trash, s.Name)
		m.mu.Unlock()
		m.clear()
	}, true
}

// Forget gives up what was saved of a session, because a task of it was deleted.
func (m *Manager) Forget(id string) {
	m.mu.Lock()
	m.unshelve(id)
	m.mu.Unlock()
	m.clear()
}

// clear removes the files that nobody needs any more. Those that cannot be removed now are tried again.
func (m *Manager) clear() {
	m.mu.Lock()
	names := m.trash
	m.trash = nil
	m.mu.Unlock()
	for _, name := range names {
		if err := os.Remove(filepath.Join(m.o.SaveDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.o.Log.Warn("a file of saved KV cannot be removed yet", zap.String("file", name), zap.Error(err))
			m.mu.Lock()
			m.trash = append(m.trash, name)
			m.mu.Unlock()
		}
	}
}
