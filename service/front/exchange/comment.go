// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"strconv"

	"github.com/llama-orch/llama-orch/service/task"
)

// LookEvery is how many seconds pass until a client that waits is told its place in line again (LO-406).
const LookEvery = 10

// AppendPlace appends a comment of a stream of server-sent events: what a task waits for, and its place in line.
func AppendPlace(b []byte, m task.Metrics) []byte {
	b = append(b, ": "...)
	b = append(b, m.Phase...)
	b = append(b, " queue_position="...)
	b = strconv.AppendInt(b, int64(m.QueuePosition), 10)
	b = append(b, " predicted_start_ms="...)
	b = strconv.AppendInt(b, m.PredictedStartMS, 10)
	return append(b, "\n\n"...)
}

// AppendReceipt appends a comment of a stream of server-sent events: what proves the answer (LO-402).
func AppendReceipt(b []byte, r *task.Receipt) []byte {
	b = append(b, ": receipt"...)
	for _, part := range ReceiptParts(r) {
		b = append(b, ' ')
		b = append(b, part[0]...)
		b = append(b, '=')
		b = append(b, part[1]...)
	}
	return append(b, "\n\n"...)
}
