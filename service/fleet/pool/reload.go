// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/awake"
	"github.com/llama-orch/llama-orch/service/task"
)

// Model is what Reload puts in the place of a pool's model.
type Model struct {
	ID     string // empty: the pool's model keeps its id
	Ref    string
	Path   string
	Digest string // expected, "sha256:<hex>"; empty: none
}

// portTries is how often a new worker may find its port taken before the reload fails.
const portTries = 3

// Reload gives a pool another model (ORCH-2102). If there is memory for both, the new workers start beside the old ones, and take
// their place after they have answered a probe. Else the old ones are drained first. After any failure the old model serves, or
// serves again, and the error says why. The tasks of an old worker get ReloadDeadline to end. Reload returns when the pool serves
// one of the two models; the end of ctx counts as a failure. It brings a drained pool back, unless that is loaded on demand. The model
// of an on-demand pool that is not loaded is tried too, in the memory that is free, and let go again.
func (m *Manager) Reload(ctx context.Context, poolID string, model Model) error {
	m.mu.Lock()
	old, err := m.notReloading(poolID)
	if err == nil && !m.started {
		err = unavailable("the pools have not been started yet").Retry(time.Second)
	}
	if err != nil {
		m.mu.Unlock()
		return err
	}
	m.reloading[poolID] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.reloading, poolID)
	}()

	spec := old.spec
	if spec.ModelRef, spec.ModelPath, spec.ModelDigest = model.Ref, model.Path, model.Digest; model.ID != "" {
		spec.ModelID = model.ID
	}
	if err := m.checkModel(ctx, spec); err != nil {
		err.Engine, err.PoolID = spec.Engine, poolID
		return err
	}
	log := m.log.With(zap.String("pool_id", poolID), zap.String("model_id", spec.ModelID))
	unloaded := spec.OnDemand && !old.wanted()
	next := m.successors(old, spec, true, nil)
	next.keepCtx(old)
	m.launch(next)
	why := m.firstTries(ctx, next)
	if why == nil {
		if unloaded { // its model was only tried
			next.unload(m.now())
		}
		m.replace(old, next)
		log.Info("the pool was reloaded, the new model beside the old one")
		return nil
	}
	next.dismiss(m.now())
	next.wait()
	if unloaded {
		return reloadFailed(spec, why, "the pool keeps the old one")
	}
	if !why.short && why.reason != oomVRAM && why.reason != oomHost {
		return reloadFailed(spec, why, "the old one still serves")
	}
	log.Info("the memory does not hold both models: the old one goes first", zap.Error(why))
	return m.reloadInPlace(ctx, old, spec, log)
}

// reloadInPlace ends the old workers before it starts the new ones. If those fail, it starts the old ones again.
func (m *Manager) reloadInPlace(ctx context.Context, old *group, spec Spec, log *zap.Logger) error {
	var served, wanted []*replica
	cut := m.now().Add(m.opts.ReloadDeadline)
	for _, r := range old.replicas {
		if r.info().State == Ready {
			served = append(served, r)
		}
		if o, _ := r.watchDesired(); o.wanted {
			wanted = append(wanted, r)
		}
		r.tell(func(o *desired) { o.wanted, o.cut = false, cut })
	}
	for _, r := range old.replicas {
		if r.await(m.run, func(i Info) bool { return i.State == Stopped }) != nil {
			return task.Errorf(task.ShuttingDown, "the orchestrator is stopping")
		}
	}
	next := m.successors(old, spec, true, nil)
	m.show(next)
	m.launch(next)
	why := m.firstTries(ctx, next)
	if why == nil {
		old.dismiss(m.now())
		log.Info("the pool was reloaded, the new model after the old one")
		return nil
	}
	next.dismiss(m.now())
	next.wait()
	m.show(old)
	for _, r := range wanted {
		r.tell(func(o *desired) { o.wanted = true })
	}
	back, cancel := awake.WithTimeout(m.run, m.opts.LoadTimeout+m.opts.ProbeTimeout)
	defer cancel()
	for _, r := range served {
		if r.await(back, func(i Info) bool { return i.State == Ready }) != nil {
			return reloadFailed(spec, why, "the old one does not come back either, and the pool's health says why")
		}
	}
	log.Warn("a reload failed, and the old model is back", zap.Error(why))
	return reloadFailed(spec, why, "the old one is back")
}

// reloadFailed says why the new model does not serve. A file that the engine does not take is bad input, and not an outage (LO-806).
func reloadFailed(spec Spec, why *loss, now string) error {
	code := task.PoolUnavailable
	if why.reason == badModel {
		code = task.InvalidParams
	}
	if cause, ok := errors.AsType[*task.Error](why.err); ok && cause.Code != task.WorkerReset { // that code is only for streams
		code = cause.Code
	}
	err := task.Errorf(code, "the new model of pool '%s' was not loaded, and %s: %s", spec.ID, now, why.Error())
	err.Engine, err.PoolID = spec.Engine, spec.ID
	return err
}

// successors makes the group that is to take the place of another.
func (m *Manager) successors(old *group, spec Spec, wanted bool, after []*replica) *group {
	g := &group{configured: old.configured, spec: spec, expected: m.expect(spec)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.births++
	return m.newGroup(g, wanted, after)
}

// keepCtx makes replicas that are not launched yet ask for the contexts of the old ones: beside those they would fit smaller ones.
func (g *group) keepCtx(old *group) {
	for i, r := range g.replicas {
		if i < len(old.replicas) && r.fitsCtx() {
			r.kept = old.replicas[i].info().Ctx
		}
	}
}

func (m *Manager) launch(g *group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping { // nobody will run them, and whoever waits for their end must not hang
		for _, r := range g.replicas {
			close(r.done)
		}
	}
	m.begin(g.replicas)
}

// show makes the group the one that others see of its pool.
func (m *Manager) show(g *group) {
	m.mu.Lock()
	m.layout.Store(m.layout.Load().with(g))
	m.mu.Unlock()
	m.opts.OnChange(g.spec.ID)
}

// replace shows the successors, and makes the old replicas end.
func (m *Manager) replace(old, next *group) {
	m.show(next)
	old.dismiss(m.now().Add(m.opts.ReloadDeadline))
}

// unload makes replicas that nobody else sees yet give their workers up. They can be loaded again.
func (g *group) unload(now time.Time) {
	for _, r := range g.replicas {
		r.tell(func(o *desired) { o.wanted, o.cut = false, now })
	}
}

// firstTries waits until every replica of the group has got ready, or one has failed to.
func (m *Manager) firstTries(ctx context.Context, g *group) *loss {
	for _, r := range g.replicas {
		for try := 1; ; try++ {
			var why *loss
			select {
			case why = <-r.first:
			case <-ctx.Done():
				return &loss{reason: loadFailed, detail: "the reload was given up", err: context.Cause(ctx)}
			case <-m.run.Done():
				return &loss{reason: loadFailed, err: task.Errorf(task.ShuttingDown, "the orchestrator is stopping")}
			}
			if why == nil {
				break
			}
			if why.reason != portTaken || try == portTries {
				return why
			}
		}
	}
	return nil
}

func (g *group) wanted() bool {
	for _, r := range g.replicas {
		if o, _ := r.watchDesired(); o.wanted {
			return true
		}
	}
	return false
}

// dismiss makes the replicas end for good. Their leases have until cut.
func (g *group) dismiss(cut time.Time) {
	for _, r := range g.replicas {
		r.tell(func(o *desired) {
			o.gone = true
			if o.wanted || cut.Before(o.cut) {
				o.cut = cut
			}
		})
	}
}

func (g *group) wait() {
	for _, r := range g.replicas {
		<-r.done
	}
}

// Apply makes the pools those of the specs. It starts pools that are new, and drains those that are missing. A pool that was configured
// otherwise is drained and replaced; if only the number of its replicas differs, some are added or drained. All drains have
// ReloadDeadline. Other pools are left alone, even if they were reloaded. Apply returns at once. If it fails, nothing has changed.
func (m *Manager) Apply(specs []Spec) (changed, added, removed []string, err error) {
	if specs, err = m.check(specs); err != nil {
		return nil, nil, nil, fmt.Errorf("apply the pools' configuration: %w", err)
	}
	expected := map[string]int64{}
	for _, spec := range specs {
		expected[spec.ID] = m.expect(spec)
	}
	func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		changed, added, removed, err = m.apply(specs, expected)
	}()
	if err == nil {
		for _, id := range append(append(append([]string(nil), changed...), added...), removed...) {
			m.opts.OnChange(id)
		}
	}
	return changed, added, removed, err
}

// differByReplicas reports whether two specs differ in nothing but the number of replicas.
func differByReplicas(a, b Spec) bool {
	a.Replicas = b.Replicas
	return a.Mode != External && reflect.DeepEqual(a, b)
}

// resize returns a group with as many replicas as the spec says. Existing replicas go on; surplus ones, from the end, drain. More are the
// new replicas, which the caller has to begin. The caller holds m.mu.
func (m *Manager) resize(old *group, spec Spec, cut time.Time) (g *group, more []*replica) {
	g = &group{configured: spec, spec: old.spec, expected: old.expected}
	g.spec.Replicas = spec.Replicas
	n := min(spec.Replicas, len(old.replicas))
	g.replicas = append(g.replicas, old.replicas[:n]...)
	over := &group{replicas: old.replicas[n:]}
	over.dismiss(cut)
	if m.started { // else they never ran, and nothing would ever end
		for _, r := range append(append([]*replica(nil), old.leaving...), over.replicas...) {
			select {
			case <-r.done:
			default:
				g.leaving = append(g.leaving, r)
			}
		}
	}
	more = m.grow(g, old.wanted(), func(id string) (after []*replica) {
		for _, r := range g.leaving {
			if r.id == id {
				after = append(after, r)
			}
		}
		return after
	})
	return g, more
}

// apply does the work of Apply. Expected is what workers of on-demand pools should take, by pool. The caller holds m.mu.
func (m *Manager) apply(specs []Spec, expected map[string]int64) (changed, added, removed []string, err error) {
	for id := range m.reloading {
		return nil, nil, nil, conflict(id, "pool '%s' is being reloaded; try again when that has ended", id).Retry(time.Second)
	}
	if m.stopping {
		return nil, nil, nil, task.Errorf(task.ShuttingDown, "the orchestrator is stopping")
	}
	now, next := m.layout.Load(), newLayout()
	cut := m.now().Add(m.opts.ReloadDeadline)
	var begin []*replica
	m.births++
	for _, spec := range specs {
		old := now.pools[spec.ID]
		if old != nil && reflect.DeepEqual(old.configured, spec) {
			next.add(old)
			continue
		}
		if old != nil && differByReplicas(old.configured, spec) {
			resized, more := m.resize(old, spec, cut)
			next.add(resized)
			begin, changed = append(begin, more...), append(changed, spec.ID)
			continue
		}
		wanted, after := !spec.OnDemand, []*replica(nil)
		if old == nil {
			added = append(added, spec.ID)
		} else {
			changed = append(changed, spec.ID)
			wanted = wanted || old.wanted()
			if m.started { // else they never ran, and nothing would ever end
				after = old.replicas
			}
			old.dismiss(cut)
		}
		g := m.newGroup(&group{configured: spec, spec: spec, expected: expected[spec.ID]}, wanted, after)
		next.add(g)
		begin = append(begin, g.replicas...)
	}
	for _, id := range now.ids {
		if next.pools[id] == nil {
			removed = append(removed, id)
			now.pools[id].dismiss(cut)
		}
	}
	m.layout.Store(next)
	m.begin(begin)
	return changed, added, removed, nil
}
