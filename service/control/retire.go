// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/supply/catalog"
)

// retire drains the pools whose model was retired, once its time is over, and brings them back when the model is active again (ORCH-3072).
func (o *Operator) retire() {
	for _, p := range o.config().Pools {
		m, known := o.shelf.Find(p.Model.Canonical)
		over := known && m.State == catalog.Retired && !o.now().Before(m.DrainBy)
		if over == o.retired[p.ID] {
			continue
		}
		log, err := o.log.With(zap.String("pool_id", p.ID), zap.String("model_id", m.ID)), error(nil)
		if over {
			if err = o.manager.Drain(p.ID, 0); err == nil {
				log.Info("a pool drains, because its model was retired")
				o.retired[p.ID] = true
			}
		} else if onDemand(p) { // the next task loads it
			delete(o.retired, p.ID)
		} else if err = o.manager.Load(p.ID); err == nil {
			log.Info("a pool is back, because its model was activated again")
			delete(o.retired, p.ID)
		}
		if err != nil { // a pool is being reloaded, perhaps: it is tried again in a second
			log.Debug("a pool does not follow its model yet", zap.Error(err))
		}
	}
}
