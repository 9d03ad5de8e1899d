// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// maxReplicas bounds the replicas of all pools together, as the metrics contract counts on.
const maxReplicas = 64

// member is an engine on another host that joined an external pool for a while.
type member struct {
	replica *replica
	url     string
	lease   *time.Timer
}

// Join takes an engine that somebody else runs, perhaps on another host, into an external pool for the time of the lease, and
// renews that when it is called again. It returns the replica's id. When the lease ends the engine is drained. It fails with
// NOT_FOUND, with INVALID_PARAMS for a pool that runs its own workers, and with CONFLICT where the name or the URL is taken.
func (m *Manager) Join(_ context.Context, poolID, name, url string, lease time.Duration) (replicaID string, err error) {
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
	id := poolID + "-" + name
	now := m.layout.Load()
	if known := m.members[id]; known != nil && now.replicas[id] == known.replica {
		if known.url != url {
			return "", conflict(poolID, "worker %s is registered with another URL; take another worker_id, or come back once its lease of %s has ended", name, lease).Retry(lease)
		}
		known.lease.Reset(lease)
		return id, nil
	}
	switch {
	case now.replicas[id] != nil:
		return "", conflict(poolID, "the name %s is taken by one of the pool's own replicas; take another worker_id", name)
	case slices.ContainsFunc(g.replicas, func(r *replica) bool { return r.spec.URLs[r.index] == url }):
		return "", conflict(poolID, "the engine at %s is in pool '%s' already", url, poolID)
	case len(now.replicas) >= maxReplicas:
		return "", conflict(poolID, "the pools have %d replicas, as many as there can be; free one first", maxReplicas)
	}
	spec := g.spec
	spec.URLs, spec.Replicas = []string{url}, 1
	r := newReplica(m, spec, 0, id, true)
	joined := &group{configured: g.configured, spec: g.spec, replicas: append(slices.Clone(g.replicas), r)}
	m.layout.Store(now.with(joined))
	m.wg.Go(r.supervise)
	known := &member{replica: r, url: url}
	known.lease = time.AfterFunc(lease, func() { m.leave(id, known) })
	if m.members == nil {
		m.members = map[string]*member{}
	}
	m.members[id] = known
	m.log.Info("a worker joined a pool", zap.String("pool_id", poolID), zap.String("replica_id", id), zap.String("url", url))
	return id, nil
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
	if m.members[id] != known || m.stopping {
		return false
	}
	delete(m.members, id)
	now := m.layout.Load()
	poolID := known.replica.spec.ID
	if g := now.pools[poolID]; g != nil && now.replicas[id] == known.replica {
		rest := slices.DeleteFunc(slices.Clone(g.replicas), func(r *replica) bool { return r == known.replica })
		m.layout.Store(now.with(&group{configured: g.configured, spec: g.spec, replicas: rest}))
	}
	known.replica.tell(func(o *order) { o.gone, o.cut = true, time.Now().Add(m.opts.ReloadDeadline) })
	m.log.Warn("a worker that registered was not heard of again and leaves its pool", zap.String("pool_id", poolID), zap.String("replica_id", id))
	return true
}
