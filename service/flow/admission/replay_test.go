// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-301: a replay asks what the recorded task was asked, by whatever front that came, and keeps it no longer.
func TestAReplayHasTheWordsOfItsTask(t *testing.T) {
	said := task.Request{
		ModelRef: "other", Workload: task.Completion, Messages: []task.Message{{Role: task.RoleUser, Content: "two words"}},
		Chat: &task.Chat{Reasoning: task.Reasoning{Split: true}}, Front: task.Front{Dialect: "openai"}, KeepText: 10 * time.Minute, Priority: task.Batch, SessionID: "s", ID: "was",
	}
	d := &desk{pools: []Pool{facts().Pool}, ready: true, ended: map[string]task.Request{"was": said}}
	s, _ := open(d)
	seed := uint32(9)
	req := task.Request{
		ModelRef: "haiku", Workload: task.Completion, Priority: task.Interactive, ReplayOf: "was", Seed: &seed, MaxTokens: 7,
		Placement: task.Placement{Mode: task.Auto},
	}
	_, err := s.Submit(t.Context(), req)
	require.NoError(t, err)
	want := req
	want.Messages, want.Chat, want.KeepText = said.Messages, said.Chat, said.KeepText
	require.Equal(t, want, d.enqueued[0].Request)
	require.Equal(t, "<user>two words", d.enqueued[0].Prompt)
	require.EqualValues(t, 9, d.enqueued[0].Seed)

	// The same submit again has its answer, though the recorded task is gone.
	d.ended, d.known = nil, map[string]task.Admission{"mine": {TaskID: "mine"}}
	req.ID = "mine"
	again, err := s.Submit(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, "mine", again.TaskID)

	req.ID = ""
	_, err = s.Submit(t.Context(), req)
	require.True(t, task.HasCode(err, task.NotFound), err)
	for name, change := range map[string]func(*task.Request){
		"prompt":   func(q *task.Request) { q.Prompt = "x" },
		"messages": func(q *task.Request) { q.Messages = said.Messages },
		"inputs":   func(q *task.Request) { q.Inputs = []string{"x"} },
		"chat":     func(q *task.Request) { q.Chat = &task.Chat{} },
	} {
		wrong := req
		change(&wrong)
		_, err := s.Submit(t.Context(), wrong)
		require.True(t, task.HasCode(err, task.InvalidParams), name)
		require.Contains(t, err.Error(), "leave out `replay_of`", name)
	}
}
