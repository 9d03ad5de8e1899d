// SPDX-License-Identifier: GPL-3.0-or-later

package stream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// A client that holds tokens of a task that was lost with its process hears why, and not that it made its id up.
// LO-201, LO-202
func TestClientsOfALostTaskHearWhy(t *testing.T) {
	lost := task.Errorf(task.WorkerReset, "the task's worker was lost: send the task again").Retry(0)
	for name, log := range map[string]*Log{
		"replayed":  Rebuild(first(), task.Record{Err: lost}),
		"recovered": Recover(first(), task.Checkpoint{}, time.Now),
	} {
		if name == "recovered" {
			log.Fail(task.Errorf(task.Canceled, "the task was canceled by its client"))
			log.Publish()
		}
		s, err := log.Subscribe("9-00000000", 0)
		require.NoError(t, err, name)
		_, err = s.Next(t.Context(), nil)
		require.Equal(t, log.failure, task.AsError(err), name)
		s.Close()
	}
	ended := Rebuild(first(), task.Record{Err: task.Errorf(task.Canceled, "the task was canceled by its client")})
	_, err := ended.Subscribe("9-00000000", 0)
	require.True(t, task.HasCode(err, task.InvalidParams))
	require.ErrorContains(t, err, "valid are 0 to 1")
}

// A client that is ahead of a log that is decoded again is told when the orchestrator stops, so that it comes back.
// LO-202
func TestReadersAheadAreToldOfAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := Recover(first(), task.Checkpoint{}, time.Now)
		s, err := log.Subscribe("9-00000000", 0)
		require.NoError(t, err)
		defer s.Close()
		ended := make(chan error)
		go func() {
			_, err := s.Next(t.Context(), nil)
			ended <- err
		}()
		synctest.Wait()
		log.Detach()
		require.ErrorIs(t, <-ended, ErrDetached)
	})
}

// Whatever ends a task with an error, its event is numbered like all others.
// LO-827, LO-201
func TestEveryTerminalErrorHasAnID(t *testing.T) {
	for _, code := range task.Codes() {
		why := &task.Error{Code: code, Message: "why"}
		live := New(first(), time.Now)
		live.Fail(why)
		live.Publish()
		for name, log := range map[string]*Log{"live": live, "replayed": Rebuild(first(), task.Record{Err: why})} {
			s, err := log.Subscribe("", 0)
			require.NoError(t, err)
			frames, err := s.Next(t.Context(), nil)
			require.NoError(t, err)
			require.Regexp(t, `(^|\n\n)id: 1-[0-9a-f]{8}\nevent: error\ndata: \{"code":"`+string(code)+`"[^\n]*\n\n$`, string(frames), name)
			s.Close()
		}
	}
}
