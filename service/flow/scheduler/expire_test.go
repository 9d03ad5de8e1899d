// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-426: the text of a front's task goes when its time is over, at most a minute late. Who reads it then reads it to its end.
func TestTextsWhoseTimeIsOverGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, nil)
		defer r.stop()
		r.must("kept")
		r.must("front", func(t *task.Task) { t.Request.KeepText = 10 * time.Minute })
		r.read("kept")
		want := r.read("front")
		time.Sleep(9 * time.Minute)
		require.Equal(t, want, r.read("front"), "until then it can be read again")
		reading, err := r.s.Subscribe(t.Context(), "front", "")
		require.NoError(t, err)
		defer reading.Close()
		time.Sleep(2*time.Minute + time.Second)
		_, err = r.s.Subscribe(t.Context(), "front", "")
		require.True(t, task.HasCode(err, task.Deleted), "%v", err)
		frames, err := reading.Next(t.Context(), nil)
		require.NoError(t, err)
		require.NotEmpty(t, frames)
		reading.Written()
		require.NotEmpty(t, r.read("kept"))
	})
}
