// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"context"
	"fmt"
	"slices"
)

// damage is an artifact that is not what its id says.
type damage struct{ id, what string }

// check reads every artifact and returns those that are damaged, oldest first.
func check(ctx context.Context, s *Store) (bad []damage, checked int, err error) {
	s.mu.Lock()
	all := slices.Clone(s.byAge)
	s.mu.Unlock()
	for _, e := range all {
		what := damageOf(ctx, s, e)
		if err := ctx.Err(); err != nil {
			return bad, checked, err
		}
		if _, err := s.Get(e.ID); err != nil {
			continue // it was removed meanwhile
		}
		checked++
		if what != "" {
			bad = append(bad, damage{e.ID, what})
		}
	}
	return bad, checked, nil
}

func damageOf(ctx context.Context, s *Store, e *Entry) string {
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
