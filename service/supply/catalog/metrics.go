// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llama-orch/llama-orch/service/task"
)

// result and reason are the closed label values of the metrics contract.
type (
	result string
	reason string
)

const (
	pass result = "pass"
	warn result = "warn"
	fail result = "fail"

	none             reason = "none"
	digestMismatch   reason = "digest_mismatch"
	signatureMissing reason = "signature_missing"
	signatureInvalid reason = "signature_invalid"
)

// vllm is the engine label of a model that is no GGUF. No pool can have that engine yet, so package task does not name it.
const vllm = "vllm"

func newVerifications(r prometheus.Registerer) (*prometheus.CounterVec, error) {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "catalog_verifications_total", Help: "Models and engines that were checked against their digest and signature.",
	}, []string{"result", "reason", "engine"})
	if err := r.Register(c); err != nil {
		return nil, fmt.Errorf("register the catalog's metrics: %w", err)
	}
	return c, nil
}

func (c *Catalog) count(f finding, m *Metadata) {
	engine := vllm
	if m != nil {
		engine = task.LlamaCpp
	}
	c.verifications.WithLabelValues(string(f.result), string(f.reason), engine).Inc()
}

// EngineChecked counts that an engine's files were compared with their digest.
func (c *Catalog) EngineChecked(engine string, matches bool) {
	if matches {
		c.verifications.WithLabelValues(string(pass), string(none), engine).Inc()
		return
	}
	c.verifications.WithLabelValues(string(fail), string(digestMismatch), engine).Inc()
}
