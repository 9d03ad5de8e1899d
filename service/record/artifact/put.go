// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// chunks are buffers for copying, so that an artifact of any size takes the same memory.
var chunks = sync.Pool{New: func() any { return new([128 << 10]byte) }}

// received is what Put has read, in a file with a temporary name.
type received struct {
	temp string
	id   string
	size int64
}

// Put stores what r reads, and returns when the artifact is on the disk. The same bytes again are the same artifact: the first
// description stays, unless it says nothing, and the age counts anew. If its file was damaged, it is whole again. TOO_LARGE, INVALID_PARAMS, and
// NOT_FOUND for a parent that does not exist; an error of r is returned wrapped.
func (s *Store) Put(ctx context.Context, m Meta, r io.Reader) (Entry, error) {
	return s.PutUpTo(ctx, m, r, s.o.MaxBytes)
}

// PutUpTo does what Put does, with a bound of its own for the bytes in place of Options.MaxBytes.
func (s *Store) PutUpTo(ctx context.Context, m Meta, r io.Reader, most int64) (Entry, error) {
	m, err := m.completed()
	if err != nil {
		return Entry{}, err
	}
	done, err := s.begin()
	if err != nil {
		return Entry{}, err
	}
	defer done()
	if m.Parent != "" {
		if err := s.known(ctx, m.Parent); err != nil {
			return Entry{}, err
		}
	}
	got, err := s.receive(ctx, r, s.bound(most))
	if err != nil {
		return Entry{}, err
	}
	e, err := s.install(got, m)
	if err != nil {
		return Entry{}, s.notStored(errors.Join(err, s.clear(got.temp)))
	}
	s.metrics.stored.WithLabelValues(string(e.Kind)).Inc()
	return e, nil
}

// known returns nil if the artifact exists. NOT_FOUND.
func (s *Store) known(ctx context.Context, id string) error {
	_, err := s.Get(id)
	if err == nil {
		return nil
	}
	there, failed := s.elsewhere(ctx, id)
	if failed != nil || there {
		return failed
	}
	return err
}

// retryAfter is when a client may send again what the disk did not take.
const retryAfter = time.Second

// notStored is what a client gets for what the disk did not take, as it does for a task then.
func (s *Store) notStored(err error) error {
	s.log.Error("an artifact could not be stored", zap.Error(err))
	return task.Errorf(task.LedgerUnavailable, "the bytes could not be stored: make room on the disk of the data folder, and send them again; the orchestrator's log has the cause").
		Retry(retryAfter).Because(err)
}

// receive writes what r reads to a temporary file and waits until it is on the disk.
func (s *Store) receive(ctx context.Context, r io.Reader, most int64) (got received, err error) {
	f, err := s.temp()
	if err != nil {
		return got, s.notStored(err)
	}
	got.temp = tempDir + "/" + filepath.Base(f.Name())
	defer func() {
		if err != nil {
			err = errors.Join(err, s.clear(got.temp))
		}
	}()
	hash := sha256.New()
	readErr, writeErr := s.copy(ctx, io.MultiWriter(hash, f), r, most, &got.size)
	if readErr == nil && writeErr == nil {
		writeErr = s.sync(f)
	}
	if err := f.Close(); writeErr == nil {
		writeErr = err
	}
	switch {
	case readErr != nil:
		return got, readErr
	case writeErr != nil:
		return got, s.notStored(writeErr)
	}
	got.id = idPrefix + hex.EncodeToString(hash.Sum(nil))
	return got, nil
}

func (s *Store) copy(ctx context.Context, w io.Writer, r io.Reader, most int64, size *int64) (readErr, writeErr error) {
	chunk := chunks.Get().(*[128 << 10]byte)
	defer chunks.Put(chunk)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store an artifact: %w", err), nil
		}
		n, err := r.Read(chunk[:])
		if *size += int64(n); *size > most {
			return task.Errorf(task.TooLarge, "an artifact may have at most %d bytes on this server: shorten it, split it, or raise the server's limit", most), nil
		}
		if n > 0 {
			if _, err := w.Write(chunk[:n]); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return fmt.Errorf("read the artifact to store: %w", err), nil
		}
	}
}

// temp makes a temporary file. Names are numbers that are used once while the store is open; opening it removes old files.
func (s *Store) temp() (*os.File, error) {
	return s.root.OpenFile(tempDir+"/"+strconv.FormatUint(s.temps.Add(1), 10), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (s *Store) clear(temp string) error {
	if err := s.root.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a temporary file: %w", err)
	}
	return nil
}

// install moves what was received to its final name, and returns when that is on the disk.
func (s *Store) install(got received, m Meta) (Entry, error) {
	stripe := s.stripe(got.id)
	stripe.Lock()
	defer stripe.Unlock()
	now := s.o.Now().UTC()
	s.mu.Lock()
	old, created := s.byID[got.id], now
	if n := len(s.byAge); n > 0 && now.Before(s.byAge[n-1].CreatedAt) { // the clock was set back: what comes last stays last (LO-835)
		created = s.byAge[n-1].CreatedAt.Add(time.Microsecond)
	}
	s.mu.Unlock()
	e := &Entry{ID: got.id, Meta: m, Size: got.size, CreatedAt: created, RenewedAt: now}
	if old != nil {
		e.CreatedAt = old.CreatedAt
		if !old.silent() {
			e.Meta = old.Meta
		}
	}
	at := path(got.id)
	err := s.folder(filepath.Dir(at))
	if err == nil {
		err = s.root.Rename(got.temp, at)
	}
	if err == nil {
		err = s.writeEntry(e, at+sidecar)
	}
	if err == nil {
		err = s.syncDir(filepath.Dir(at))
	}
	if err != nil && old == nil {
		// The artifact is not promised to anyone yet.
		err = errors.Join(err, s.clear(at+sidecar), s.clear(at))
	}
	if err != nil {
		return Entry{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replace(old, e)
	if s.o.RetainBytes > 0 && s.disk > s.o.RetainBytes {
		select {
		case s.wake <- struct{}{}:
		default: // a sweep is due already
		}
	}
	return *e, nil
}

// replace puts an entry into the index, and takes the old one out if there is one. The caller holds mu.
func (s *Store) replace(old, e *Entry) {
	if old != nil {
		s.forget(old)
	}
	i, _ := slices.BinarySearchFunc(s.byAge, e, inOrder)
	s.byAge = slices.Insert(s.byAge, i, e)
	s.note(e)
}

// writeEntry writes an entry to a temporary file, waits until that is on the disk, and renames it.
func (s *Store) writeEntry(e *Entry, at string) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := s.temp()
	if err != nil {
		return err
	}
	temp := tempDir + "/" + filepath.Base(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = s.sync(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.root.Rename(temp, at)
	}
	if err != nil {
		return errors.Join(err, s.clear(temp))
	}
	return nil
}

// syncDir makes the names in a folder durable.
func (s *Store) syncDir(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(s.sync(f), f.Close())
}

// sync waits until a file is on the disk.
func (s *Store) sync(f *os.File) error {
	if s.o.offhand {
		return nil
	}
	return f.Sync()
}
