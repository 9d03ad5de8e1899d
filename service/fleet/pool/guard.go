// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

// supervision is what the log says where what looks after a worker panicked.
const supervision = "the supervision of a worker panicked"

// panicked logs a panic of what looks after a worker. It returns the loss that the panic comes to: this worker goes, its replica tries
// again, and neither other pools nor the process are touched (LO-840).
func panicked(p any, log *zap.Logger) *loss {
	contain.Log(log, supervision, p)
	return &loss{reason: internal, err: task.Errorf(task.Internal,
		"something went wrong inside the orchestrator while it looked after this worker; its log has the cause under the replica's id")}
}

// contained is told, so that a panic in it ends nobody else's work.
func contained(told func(poolID string), log *zap.Logger) func(string) {
	return func(poolID string) {
		defer func() {
			if p := recover(); p != nil {
				_ = panicked(p, log.With(zap.String("pool_id", poolID)))
			}
		}()
		told(poolID)
	}
}
