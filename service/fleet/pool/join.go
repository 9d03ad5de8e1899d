// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// maxReplicas bounds the replicas of all pools together, as the metrics contract counts on.
const maxReplicas = 64

// Announced is an engine that announces itself.
type Announced struct {
	Name string // among those of its pool
	URL  string // its base, absolute
	// ModelDigest is its model's, as it says. Empty: unknown.
	ModelDigest string
}

// member is an engine that joined an external pool for a while.
type member struct {
	replica *replica
	lease   *time.Timer
	until   time.Time // the lease's end; the timer may fire while it is renewed
}

// Join takes an engine that somebody else runs, perhaps on another host, into an external pool for the time of the lease, and
// renews that when it is called again. It returns the replica's id. When the lease ends the engine is drained. It fails with
// NOT_FOUND, with INVALID_PARAMS for a pool that runs its own workers or has another model, and with CONFLICT where the name or
// the URL is taken. An engine that joins a drained pool waits with it.
func (m *Manager) Join(poolID string, a Announced, lease time.Duration) (replicaID string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := m.settled(poolID)
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
		known.renew(lease)
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
	m.wg.Go(r.supervise)
	known := &member{replica: r}
	known.lease = time.AfterFunc(lease, func() { m.leave(id, known) })
	known.renew(lease)
	if m.members == nil {
		m.members = map[string]*member{}
	}
	m.members[id] = known
	m.log.Info("a worker joined a pool", zap.String("pool_id", poolID), zap.String("replica_id", id), zap.String("url", base))
	return id, nil
}

// renew wants m.mu.
func (k *member) renew(lease time.Duration) {
	k.until = time.Now().Add(lease)
	k.lease.Reset(lease)
}

// sameURL is a base URL in the form that is compared.
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

// leave drains a member whose lease has ended.
func (m *Manager) leave(id string, known *member) {
	if m.forget(id, known) {
		m.opts.OnChange(known.replica.spec.ID)
	}
}

func (m *Manager) forget(id string, known *member) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.members[id] != known || m.stopping || time.Now().Before(known.until) {
		return false
	}
	delete(m.members, id)
	now := m.layout.Load()
	poolID := known.replica.spec.ID
	m.log.Warn("a worker that registered was not heard of again and leaves its pool", zap.String("pool_id", poolID), zap.String("replica_id", id))
	if g := now.pools[poolID]; g != nil && now.replicas[id] == known.replica {
		rest := make([]*replica, 0, len(g.replicas))
		for _, r := range g.replicas {
			if r != known.replica {
				rest = append(rest, r)
			}
		}
		m.layout.Store(now.with(&group{configured: g.configured, spec: g.spec, replicas: rest}))
	}
	known.replica.tell(func(o *order) { o.gone, o.cut = true, time.Now().Add(m.opts.ReloadDeadline) })
	return true
}
