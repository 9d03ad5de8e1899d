// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Swept is what a sweep removed.
type Swept struct {
	Artifacts int
	Bytes     int64
}

// sweeps sweeps now and then, and when there is too much. Close joins it.
func (s *Store) sweeps(ctx context.Context) {
	tick := time.NewTicker(s.o.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		if swept, err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("removing old artifacts failed, and is tried again later", zap.Error(err))
		} else if swept.Artifacts > 0 {
			s.log.Info("removed old artifacts", zap.Int("artifacts", swept.Artifacts), zap.Int64("bytes", swept.Bytes))
		}
	}
}

// Sweep removes the artifacts that are too old, and the oldest further ones while all take too much. One that is stored again
// meanwhile stays.
func (s *Store) Sweep(ctx context.Context) (swept Swept, err error) {
	oldest := time.Time{}
	if s.o.RetainAge > 0 {
		oldest = s.o.Now().Add(-s.o.RetainAge)
	}
	s.mu.Lock()
	over := int64(0)
	if s.o.RetainBytes > 0 {
		over = s.disk - s.o.RetainBytes
	}
	var by []*Entry
	for _, e := range s.order {
		if over > 0 || e.RenewedAt.Before(oldest) {
			by = append(by, e)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(by, func(a, b *Entry) int { return a.RenewedAt.Compare(b.RenewedAt) })
	for _, e := range by {
		why := byAge
		if !e.RenewedAt.Before(oldest) {
			if over <= 0 {
				break
			}
			why = byBytes
		}
		if err := ctx.Err(); err != nil {
			return swept, err
		}
		bytes, err := s.remove(e.ID, why, func(now *Entry) bool { return now.RenewedAt.Equal(e.RenewedAt) })
		if err != nil {
			return swept, fmt.Errorf("remove artifact %s: %w", e.ID, err)
		}
		if bytes > 0 {
			swept.Artifacts++
		}
		swept.Bytes += bytes
		over -= bytes
	}
	return swept, nil
}

// Damage is an artifact that is not what its id says.
type Damage struct{ ID, What string }

// Check reads every artifact and returns those that are damaged, oldest first.
func (s *Store) Check(ctx context.Context) (bad []Damage, checked int, err error) {
	done, err := s.begin()
	if err != nil {
		return nil, 0, err
	}
	defer done()
	s.mu.Lock()
	all := slices.Clone(s.order)
	s.mu.Unlock()
	for _, e := range all {
		what := s.damage(ctx, e)
		if err := ctx.Err(); err != nil {
			return bad, checked, err
		}
		if _, err := s.Get(e.ID); err != nil {
			continue // it was removed meanwhile
		}
		checked++
		if what != "" {
			s.metrics.damaged.Inc()
			s.log.Warn("an artifact is damaged", zap.String("artifact_id", e.ID), zap.String("what", what))
			bad = append(bad, Damage{e.ID, what})
		}
	}
	return bad, checked, nil
}

func (s *Store) damage(ctx context.Context, e *Entry) string {
	f, at, err := s.openPlain(path(e.ID))
	if err != nil {
		return "its bytes cannot be read: " + err.Error()
	}
	defer f.Close()
	if at.Size() != e.Size {
		return fmt.Sprintf("it has %d bytes and had %d", at.Size(), e.Size)
	}
	if got := hashed(ctx, f); got != e.ID {
		return "its bytes have changed"
	}
	return ""
}

// hashFile returns the id of a file's bytes, empty where they cannot be read.
func (s *Store) hashFile(ctx context.Context, path string) string {
	f, _, err := s.openPlain(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return hashed(ctx, f)
}

func hashed(ctx context.Context, r io.Reader) string {
	chunk := chunks.Get().(*[128 << 10]byte)
	defer chunks.Put(chunk)
	hash := sha256.New()
	if _, err := io.CopyBuffer(hash, onlyReader{ctx, r}, chunk[:]); err != nil {
		return ""
	}
	return idPrefix + hex.EncodeToString(hash.Sum(nil))
}

// onlyReader ends with its context, and keeps io.CopyBuffer to its buffer.
type onlyReader struct {
	ctx context.Context
	r   io.Reader
}

func (o onlyReader) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, err
	}
	return o.r.Read(p)
}
