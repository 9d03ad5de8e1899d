// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"context"
	"errors"
	"net/http"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
)

// Load reads /metrics. A llama-server has them where it was started with --metrics, as those of ours are; of another one the busy slots are counted.
// How full the KV is nobody tells.
func (e *Engine) Load(ctx context.Context) (engine.Load, error) {
	all, err := e.c.Metrics(ctx, "/metrics")
	if status, ok := errors.AsType[*httpsse.StatusError](err); ok && status.Status == http.StatusNotImplemented {
		busy, err := e.Busy(ctx)
		return engine.Load{Running: busy, KV: -1}, err
	}
	if err != nil {
		return engine.Load{}, err
	}
	running, told := all.Sum("llamacpp:requests_processing")
	if !told {
		return engine.Load{}, e.c.Reset(errors.New("/metrics names no requests"))
	}
	waiting, _ := all.Sum("llamacpp:requests_deferred")
	l := engine.Load{Running: int(running), Waiting: int(waiting), KV: -1}
	if err := l.Believe(); err != nil {
		return engine.Load{}, e.c.Reset(err)
	}
	return l, nil
}
