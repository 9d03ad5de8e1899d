// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/front/api"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// ReloadConfig implements api.Control. SIGHUP calls it too.
func (o *Operator) ReloadConfig(ctx context.Context) (_ api.ConfigChange, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() { o.reloads.read(err, o.now()) }()
	next, err := config.Load(o.file.Path, o.env)
	if err == nil {
		err = Check(next, o.changes)
	}
	if err == nil {
		err = o.findLibs(next)
	}
	if err != nil {
		o.log.Warn("the configuration was not read again, and nothing has changed", zap.Error(err))
		return api.ConfigChange{}, task.Errorf(task.InvalidParams, "the configuration is not valid, and nothing has changed: %s", err)
	}
	var change api.ConfigChange
	for _, path := range config.Diff(o.file, next) {
		if applies(path) {
			change.Changed = append(change.Changed, path)
		} else {
			change.RestartRequired = append(change.RestartRequired, path)
		}
	}
	if err := o.apply(next); err != nil {
		return api.ConfigChange{}, err
	}
	o.engines.found(ctx, o.file)
	o.log.Info("the configuration was read again", zap.Strings("changed", change.Changed), zap.Strings("restart_required", change.RestartRequired))
	return change, nil
}

// changes reports whether what a pool needs on this machine differs from what is in force. The files of other pools may be gone: those
// fail alone (LO-840). The caller holds mu.
func (o *Operator) changes(p config.Pool) bool {
	was, there := poolIn(o.file, p.ID)
	return !there || was.Model != p.Model || !reflect.DeepEqual(was.Provisioning, p.Provisioning)
}

// findLibs finds the libraries of the built-in worker, where this configuration is the first to need them. The caller holds mu.
func (o *Operator) findLibs(next config.Config) (err error) {
	if o.libsDir == "" && slices.ContainsFunc(next.Pools, func(p config.Pool) bool { return p.Provisioning.Mode == config.ModeBuiltin }) {
		o.libsDir, err = provision.LocateEngineLibs()
	}
	return err
}

// applies reports whether a setting takes effect without a restart. The policy does, and so does what makes up a pool's workers.
func applies(path string) bool {
	if strings.HasPrefix(path, "sampler_profiles.") || strings.HasPrefix(path, "policy.") || strings.HasPrefix(path, "aliases.") {
		return true
	}
	rest, isPool := strings.CutPrefix(path, "pools.")
	for _, fixed := range []string{"queue", "timeouts", "lifecycle", "idle_ttl", "engine"} {
		if strings.HasSuffix(rest, "."+fixed) || strings.Contains(rest, "."+fixed+".") {
			return false
		}
	}
	return isPool
}

// apply puts the pools, the sampler profiles, the aliases and the policy of a file into force. The caller holds mu.
func (o *Operator) apply(next config.Config) error {
	file, live, closing := o.file, o.config(), maps.Clone(o.closing)
	file.Pools, file.SamplerProfiles, file.Aliases, file.Policy = nil, next.SamplerProfiles, next.Aliases, next.Policy
	live.Pools, live.SamplerProfiles, live.Aliases, live.Policy = nil, next.SamplerProfiles, next.Aliases, next.Policy
	for _, p := range next.Pools {
		was, there := poolIn(o.file, p.ID)
		if !there {
			was, there = closing[p.ID]
		}
		if there { // only a restart can change these
			p.Queue, p.Timeouts, p.Lifecycle, p.IdleTTL, p.Engine = was.Queue, was.Timeouts, was.Lifecycle, was.IdleTTL, was.Engine
		}
		file.Pools = append(file.Pools, p)
		if now, ok := o.Setup.pool(p.ID); ok && was.Model == p.Model { // the pool keeps a model that a reload gave it, unless the file now names another one
			p.Model = now.Model
		}
		live.Pools = append(live.Pools, p)
		delete(closing, p.ID)
	}
	for _, p := range o.file.Pools {
		if _, stays := poolIn(next, p.ID); !stays {
			closing[p.ID] = p
		}
	}
	if _, _, _, err := o.manager.Apply(o.specs(file, closing)); err != nil {
		return err
	}
	if err := o.policy.Replace(PolicyRules(next)); err != nil {
		return err // Check finds such an error before
	}
	o.close(closing)
	for _, p := range live.Pools {
		o.schedule.AddPool(schedulerPool(p))
	}
	o.Setup.now.Store(&live)
	o.file = file
	return nil
}

// close notes which pools are no longer configured but still have tasks. The caller holds mu.
func (o *Operator) close(closing map[string]config.Pool) {
	o.closing = closing
	left := slices.Collect(maps.Values(closing))
	o.Setup.closing.Store(&left)
}

// specs returns the specs of the configured pools, and of those that are no longer configured but still have tasks.
func (o *Operator) specs(file config.Config, closing map[string]config.Pool) []pool.Spec {
	specs := make([]pool.Spec, 0, len(file.Pools)+len(closing))
	for _, p := range file.Pools {
		specs = append(specs, poolSpec(file, p, o.libsDir, o.engines))
	}
	for _, id := range slices.Sorted(maps.Keys(closing)) {
		specs = append(specs, poolSpec(file, closing[id], o.libsDir, o.engines))
	}
	return specs
}

func poolIn(c config.Config, id string) (config.Pool, bool) {
	return NewSetup(c).pool(id)
}

// tidy ends the pools that are no longer configured, once they have no task left.
func (o *Operator) tidy() {
	o.mu.Lock()
	defer o.mu.Unlock()
	gone, rest := []string{}, maps.Clone(o.closing)
	for id := range o.closing {
		if o.schedule.RemovePool(id) {
			delete(rest, id)
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return
	}
	if _, _, _, err := o.manager.Apply(o.specs(o.file, rest)); err != nil { // a pool is being reloaded, perhaps: it is tried again in a second
		o.log.Debug("pools that are no longer configured cannot be ended yet", zap.Strings("pools", gone), zap.Error(err))
		return
	}
	o.close(rest)
	o.log.Info("pools that are no longer configured have ended", zap.Strings("pools", gone))
}
