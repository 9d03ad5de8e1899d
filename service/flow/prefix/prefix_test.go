// SPDX-License-Identifier: GPL-3.0-or-later

package prefix

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// chat is the chain of a conversation: its turns are the user's and the assistant's by turns, behind what the system says.
func chat(turns ...string) Chain {
	r := task.Request{}
	for i, t := range turns {
		r.Messages = append(r.Messages, task.Message{Role: []string{"system", "user", "assistant"}[min(i, 1+(i+1)%2)], Content: t})
	}
	return Of(&r)
}

var alive = make(chan struct{})

// LO-442
func TestAConversationFindsTheReplicaOfItsLastTurn(t *testing.T) {
	var m Map
	require.Nil(t, m.Held(chat("be brief", "hello")))
	m.Left("a-0", alive, 1, chat("be brief", "tell me of rain"))
	m.Left("a-1", alive, 1, chat("be brief", "tell me of snow"))
	held := m.Held(chat("be brief", "tell me of snow", "it is white", "and then?"))
	require.Equal(t, map[string]int{"a-1": len("system" + "be brief" + "user" + "tell me of snow")}, held, "the other one begins with the same system prompt only")
	require.Nil(t, m.Held(chat("be brief", "tell me of fog")), "no conversation is displaced for a system prompt")
	require.Nil(t, m.Held(chat("be verbose", "tell me of snow")))

	m.Left("a-0", alive, 1, chat("be brief", "tell me of snow", "it is white", "and then?"))
	held = m.Held(chat("be brief", "tell me of snow", "it is white", "and then?", "it melts", "when?"))
	require.Greater(t, held["a-0"], held["a-1"], "the longest beginning is there")
	require.Positive(t, held["a-1"])
	// What a slot was asked is forgotten with the next task there.
	m.Left("a-0", alive, 1, chat("something else entirely"))
	require.NotContains(t, m.Held(chat("be brief", "tell me of snow", "it is white")), "a-0")
}

// LO-442
func TestALostWorkerHoldsNothing(t *testing.T) {
	var m Map
	lost := make(chan struct{})
	c := chat("be brief", "hello")
	m.Left("a-0", lost, 1, c)
	require.Contains(t, m.Held(c), "a-0")
	close(lost)
	require.Nil(t, m.Held(c))
	m.Left("a-0", alive, 1, c)
	require.Contains(t, m.Held(c), "a-0")
	m.Emptied("a-0")
	require.Nil(t, m.Held(c))
}

// LO-442
func TestTheMapIsOfWorkersThatLive(t *testing.T) {
	var m Map
	for i := range 100 {
		lost := make(chan struct{})
		m.Left(fmt.Sprint("a-", i), lost, 1, chat("be brief", "hello"))
		close(lost)
	}
	require.Len(t, m.replicas, 1, "the others are found to be gone when something new is left")
}

// LO-442
func TestAWorkerOfSeveralSlotsHoldsAsManyConversations(t *testing.T) {
	var m Map
	for _, about := range []string{"rain", "snow", "fog"} {
		m.Left("a-0", alive, 2, chat(about, "hello"))
	}
	require.Nil(t, m.Held(chat("rain", "hello")), "two slots hold two")
	require.NotNil(t, m.Held(chat("snow", "hello")))
	m.Left("a-0", alive, 2, chat("snow", "hello", "hi", "more")) // it goes on in its own slot
	require.NotNil(t, m.Held(chat("fog", "hello")))
	require.NotNil(t, m.Held(chat("snow", "hello")))
}

// Everything that stands at the beginning of a prompt makes another chain, and what no prompt shows makes none.
// LO-442
func TestAChainIsOfWhatAPromptBeginsWith(t *testing.T) {
	base := func() *task.Request {
		return &task.Request{
			Chat: &task.Chat{Tools: []task.Tool{{Name: "look"}}},
			Messages: []task.Message{
				{Role: "user", Content: "hello"},
				{Role: "assistant", Reasoning: "hm", ToolCalls: []task.ToolCall{{ID: "1", Name: "look", Arguments: "{}"}}},
				{Role: "tool", Parts: []task.Part{{Text: "a cat", Image: &task.Image{Data: []byte("png")}}}},
			},
		}
	}
	first := Of(base())
	require.Len(t, first, 4)
	for name, change := range map[string]func(*task.Request){
		"tools":     func(r *task.Request) { r.Chat.Tools[0].Description = "around" },
		"role":      func(r *task.Request) { r.Messages[0].Role = "system" },
		"content":   func(r *task.Request) { r.Messages[0].Content = "hellp" },
		"call":      func(r *task.Request) { r.Messages[1].ToolCalls[0].Name = "listen" },
		"arguments": func(r *task.Request) { r.Messages[1].ToolCalls[0].Arguments = "{ }" },
		"text":      func(r *task.Request) { r.Messages[2].Parts[0].Text = "a dog" },
		"image":     func(r *task.Request) { r.Messages[2].Parts[0].Image.Data = []byte("pnh") },
	} {
		r := base()
		change(r)
		require.Less(t, first.shared(Of(r)), first.bytes(), name)
	}
	r := base()
	r.Messages[1].Reasoning, r.Messages[1].ToolCalls[0].ID, r.Seed = "", "2", nil
	require.Equal(t, first, Of(r))

	long := &task.Request{Messages: slices.Repeat([]task.Message{{Role: "user", Content: "hello"}}, 5000)}
	require.Len(t, Of(long), maxLinks)
	prompt := &task.Request{Prompt: strings.Repeat("x", 3*block+1)}
	require.Len(t, Of(prompt), 3)
	other := &task.Request{Prompt: strings.Repeat("x", 2*block) + "y" + strings.Repeat("x", block)}
	require.Equal(t, 2*block, Of(prompt).shared(Of(other)))
	require.Empty(t, Of(&task.Request{Prompt: "short"}))
}
