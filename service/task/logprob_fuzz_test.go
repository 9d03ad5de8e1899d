// SPDX-License-Identifier: GPL-3.0-or-later

package task_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// FuzzLogprobs: a list that is read is written as it is read.
//
// LO-450, LO-861
func FuzzLogprobs(f *testing.F) {
	f.Add(`[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[{"token":"b","logprob":-1,"bytes":[255]}]}]`)
	f.Add(`[{"bytes":[256]}]`)
	f.Fuzz(func(t *testing.T, list string) {
		all, err := task.DecodeLogprobs(list)
		if err != nil || len(all) == 0 {
			return
		}
		written := task.EncodeLogprobs(all)
		again, err := task.DecodeLogprobs(written)
		require.NoError(t, err)
		require.Equal(t, written, task.EncodeLogprobs(again))
		both, err := task.DecodeLogprobs(task.JoinLogprobs([]string{written, "", written}))
		require.NoError(t, err)
		require.Len(t, both, 2*len(all))
	})
}
