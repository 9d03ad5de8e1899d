// SPDX-License-Identifier: GPL-3.0-or-later

package policy

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// newCounters registers the policy's series of the metrics contract (ORCH-3028) and makes all of its few counters.
func newCounters(r prometheus.Registerer) (map[Action]map[decision]prometheus.Counter, error) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "llorch_policy_decisions_total",
		Help: "Outbound calls that the policy decided: allow, deny, or would_deny, which a dry run let go.",
	}, []string{"action", "decision"})
	if err := r.Register(vec); err != nil {
		return nil, fmt.Errorf("register the policy's metrics: %w", err)
	}
	all := map[Action]map[decision]prometheus.Counter{}
	for _, a := range Actions() {
		all[a] = map[decision]prometheus.Counter{}
		for _, d := range decisions() {
			all[a][d] = vec.WithLabelValues(string(a), string(d))
		}
	}
	return all, nil
}
