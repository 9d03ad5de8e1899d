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

// sweeps calls Sweep now and then, and when the artifacts take too much. Close joins it.
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

// Sweep removes the artifacts that are too old, and then the oldest ones while all of them take too much. An artifact that is
// stored again meanwhile stays, and so does one that is needed (Keep).
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
	for _, e := range s.byAge {
		if (over > 0 || e.RenewedAt.Before(oldest)) && !s.needed(e.ID) {
			by = append(by, e)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(by, func(a, b *Entry) int { return a.RenewedAt.Compare(b.RenewedAt) })
	for _, e := range by {
		why := forAge
		if !e.RenewedAt.Before(oldest) {
			if over <= 0 {
				break
			}
			why = forBytes
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

// onlyReader fails when its context ends. It hides other methods of its reader, so that io.CopyBuffer uses the buffer.
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
