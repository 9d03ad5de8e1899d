// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"context"
	"strings"
	"sync"
)

// lanes let so many fetches from one source go on at a time. A source that is slow holds up no other one.
type lanes struct {
	width int

	mu sync.Mutex
	of map[string]*lane // by source; only those that are in use
}

type lane struct {
	turn  chan struct{}
	users int // that have a turn or wait for one. Guarded by the mu of lanes
}

func newLanes(width int) *lanes { return &lanes{width: width, of: map[string]*lane{}} }

// take waits for a turn. Files of this machine ("") need none: each may be on a disk of its own.
func (l *lanes) take(ctx context.Context, source string) (give func(), err error) {
	if source == "" {
		return func() {}, nil
	}
	l.mu.Lock()
	one := l.of[source]
	if one == nil {
		one = &lane{turn: make(chan struct{}, l.width)}
		l.of[source] = one
	}
	one.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.of, source)
		}
	}
	select {
	case one.turn <- struct{}{}:
		return func() { <-one.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// sourceOf names what a ref is fetched from: a host or registry, or the service of a scheme. It is empty for a file of this machine.
func sourceOf(ref string) string {
	scheme, rest, _ := strings.Cut(ref, ":")
	switch scheme {
	case "file":
		return ""
	case "https", "oci":
		host, _, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		return scheme + ":" + host
	}
	return scheme
}
