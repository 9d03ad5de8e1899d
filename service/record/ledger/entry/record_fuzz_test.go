// SPDX-License-Identifier: GPL-3.0-or-later

package entry

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// FuzzRecord: whatever the file has of a task, its end and a batch's line, it is read or refused.
//
// LO-834, LO-861
func FuzzRecord(f *testing.F) {
	text, err := EncodeTask(task.Task{Prompt: "p", Request: task.Request{ID: "t1", Prompt: "q", Messages: []task.Message{{Role: task.RoleUser, Content: "a"}}}})
	require.NoError(f, err)
	outcome, err := EncodeOutcome(task.Record{End: &task.End{TokensIn: 3}, Err: task.Errorf(task.Internal, "no")})
	require.NoError(f, err)
	f.Add(text, outcome)
	f.Add([]byte(`{"request":{"body_sha256":"00"}}`), []byte(`{"deleted":{"tokens_in":-1},"status":7}`))
	f.Fuzz(func(t *testing.T, text, outcome []byte) {
		var whole task.Task
		if decodeTask(text, &whole) == nil {
			again, err := EncodeTask(whole)
			require.NoError(t, err)
			var back task.Task
			require.NoError(t, decodeTask(again, &back))
			require.Equal(t, whole.Request.BodySHA256, back.Request.BodySHA256)
			require.Equal(t, whole.Prompt, back.Prompt)
		}
		var r task.Record
		if decodeOutcome(outcome, &r) == nil {
			_, err := EncodeOutcome(r)
			require.NoError(t, err)
		}
		_ = DecodeLine(outcome, &task.Line{})
	})
}

// FuzzEnds: whatever the file has, what is read are places in the text, in their order.
//
// LO-861
func FuzzEnds(f *testing.F) {
	f.Add([]byte{1, 0, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		ends, err := decodeEnds(in)
		if err != nil {
			return
		}
		last := 0
		for _, end := range ends {
			require.GreaterOrEqual(t, end, last)
			last = end
		}
	})
}
