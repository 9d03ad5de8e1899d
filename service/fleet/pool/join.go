// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

// maxReplicas bounds the replicas of all pools together: the metrics contract relies on it.
const maxReplicas = 64

// Announced is an engine that announces itself.
type Announced struct {
	Name string // unique in its pool
	URL  string // absolute base
	// ModelDigest is the digest of its model, as it says. Empty: unknown.
	ModelDigest string
}

// member is an engine that joined an external pool for a while.
type member struct {
	replica *replica
	until   time.Time     // the end of its lease; guarded by the Manager's mutex
	renewed chan struct{} // capacity 1: somebody changed until
}

// Join takes an engine that somebody else runs, perhaps on another host, into an external pool for the time of the lease. A further
// call renews the lease. When it ends, the engine is drained. Join returns the replica's id. It fails with NOT_FOUND, with
// INVALID_PARAMS if the pool runs its own workers or has another model, and with CONFLICT if the name or the URL is taken. An
// engine that joins a drained pool is drained, too, until the pool comes back.
func (m *Manager) Join(poolID string, a Announced, lease time.Duration) (replicaID string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.notReloading(poolID)
	if err != nil {
		return "", err
	}
	if !m.started {
		return "", unavailable("the pools have not been started yet").Retry(time.Second)
	}
	if g.spec.Mode != External {
		return "", task.Errorf(task.InvalidParams, "pool '%s' runs its own workers; register with a pool of provisioning mode external", poolID)
	}
	id, base := poolID+"-"+a.Name, sameURL(a.URL)
	now := m.layout.Load()
	if known := m.members[id]; known != nil && known.replica.spec.ID == poolID && now.replicas[id] == known.replica {
		if was := known.replica.spec; was.URLs[0] != base || was.ModelDigest != a.ModelDigest {
			return "", conflict(poolID, "worker %s is registered with another URL or model; take another worker_id, or come back once its lease of %s has ended", a.Name, lease).Retry(lease)
		}
		known.until = m.now().Add(lease)
		select {
		case known.renewed <- struct{}{}:
		default: // it has not noticed the last change yet
		}
		return id, nil
	}
	if err := now.admits(g, id, base, a); err != nil {
		return "", err
	}
	spec := g.spec
	spec.URLs, spec.Replicas, spec.ModelDigest = []string{base}, 1, a.ModelDigest
	r := newReplica(m, spec, 0, id, len(g.replicas) == 0 || g.wanted())
	joined := &group{configured: g.configured, spec: g.spec, replicas: append(append([]*replica(nil), g.replicas...), r)}
	m.layout.Store(now.with(joined))
	known := &member{replica: r, until: m.now().Add(lease), renewed: make(chan struct{}, 1)}
	m.life.Go(func(context.Context) { r.supervise() })
	m.life.Go(func(ctx context.Context) {
		contain.Loop(ctx, m.log, "the lease of a worker that joined panicked, and is looked at again",
			func(ctx context.Context) { m.holdLease(ctx, id, known, lease) }, zap.String("pool_id", poolID), zap.String("replica_id", id))
	})
	if m.members == nil {
		m.members = map[string]*member{}
	}
	m.members[id] = known
	m.log.Info("a worker joined a pool", zap.String("pool_id", poolID), zap.String("replica_id", id), zap.String("url", base))
	return id, nil
}

// sameURL brings a base URL into the form in which URLs are compared.
func sameURL(base string) string {
	base = strings.TrimRight(base, "/")
	if u, err := url.Parse(base); err == nil {
		u.Host = strings.ToLower(u.Host)
		return u.String()
	}
	return base
}

// admits refuses an engine that cannot become a replica of the group.
func (l *layout) admits(g *group, id, base string, a Announced) error {
	poolID := g.spec.ID
	if l.replicas[id] != nil {
		return conflict(poolID, "the name %s is taken, because there is a replica %s already; take another worker_id", a.Name, id)
	}
	for _, other := range l.replicas {
		if other.spec.Mode != External {
			continue
		}
		if sameURL(other.spec.URLs[other.index]) == base {
			return conflict(poolID, "that engine is in pool '%s' already, as %s; one engine serves one pool, under one name", other.spec.ID, other.id)
		}
		if theirs := other.spec.ModelDigest; other.spec.ID == poolID && theirs != "" && theirs != a.ModelDigest {
			return task.Errorf(task.InvalidParams, "the workers of pool '%s' have the model %s, not %.80q: give this one the same, or register it with another pool", poolID, theirs, a.ModelDigest)
		}
	}
	if len(l.replicas) >= maxReplicas {
		return conflict(poolID, "the pools have %d replicas, as many as there can be; free one first", maxReplicas)
	}
	return nil
}

// holdLease waits until a member's lease ends, however often that is renewed, and then drains the member.
func (m *Manager) holdLease(ctx context.Context, id string, known *member, lease time.Duration) {
	for {
		until, left := m.leave(id, known)
		if left {
			m.opts.OnChange(known.replica.spec.ID)
		}
		if until.IsZero() {
			return
		}
		begun, lasts := time.Now(), until.Sub(m.now())
		over, stop := m.opts.Clock.Until(until)
		select {
		case <-over:
			if awake.Late(time.Since(begun), lasts) { // nobody could renew it while this process did not run (LO-836)
				m.extend(known, lease)
			}
		case <-known.renewed:
		case <-ctx.Done():
		}
		stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// extend gives a member a whole lease again.
func (m *Manager) extend(known *member, lease time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known.until = m.now().Add(lease)
}

// leave drains a member whose lease has ended, and reports whether it did. Else it returns when the lease ends, or the zero time if there
// is nothing left to drain.
func (m *Manager) leave(id string, known *member) (until time.Time, left bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.members[id] != known || m.stopping {
		return time.Time{}, false
	}
	now := m.now()
	if known.until.After(now) {
		return known.until, false
	}
	shown := m.layout.Load()
	poolID := known.replica.spec.ID
	m.log.Warn("a worker that registered was not heard of again and leaves its pool", zap.String("pool_id", poolID), zap.String("replica_id", id))
	if g := shown.pools[poolID]; g != nil && shown.replicas[id] == known.replica {
		rest := make([]*replica, 0, len(g.replicas))
		for _, r := range g.replicas {
			if r != known.replica {
				rest = append(rest, r)
			}
		}
		m.layout.Store(shown.with(&group{configured: g.configured, spec: g.spec, replicas: rest}))
	}
	known.replica.tell(func(o *desired) { o.gone, o.cut = true, now.Add(m.opts.ReloadDeadline) })
	delete(m.members, id) // last: what panics before is done anew
	return time.Time{}, true
}
