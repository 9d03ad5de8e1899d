// SPDX-License-Identifier: GPL-3.0-or-later

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/llama-orch/llama-orch/service/task"
)

// BenchmarkSessionTurn is a task's whole record without and with a session and budgets, in one run. The disk's fsync is
// left out: it is the same, since what is added is in the commits that are made anyway.
// ORCH-3021, ORCH-3099
func BenchmarkSessionTurn(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("session=%v", with), func(b *testing.B) {
			l := open(b, Options{offhand: true})
			var last atomic.Uint64
			b.ReportAllocs()
			b.SetParallelism(128) // callers that share commits
			b.RunParallel(func(pb *testing.PB) {
				s := session(fmt.Sprint("s", last.Add(1)))
				for pb.Next() {
					r := ended(sample(last.Add(1)), task.Completed, "a")
					if with {
						s.Turns++
						turn := s
						r.Task.Session = &turn
						r.Charge = &task.Charge{SessionID: s.ID, Account: "me", Window: epoch, Amount: task.Amount{Tokens: 5}}
					}
					if err := errors.Join(l.Accept(context.Background(), r.Task), l.Finish(context.Background(), r)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
