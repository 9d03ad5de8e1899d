// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is not of its dialect is no answer.
//
// ORCH-3051, LO-404, LO-407
func TestAnswersAreReadAsTheirDialectHasThem(t *testing.T) {
	for says, c := range map[string]struct {
		kind  string
		frame string
	}{
		"a frame is":                        {chat, "datum: {}\n\n"},
		"a frame is \"data: {}\\n\"":        {chat, "data: {}\n"},
		"no such JSON":                      {chat, "data: {\n\n"},
		"no chunk of a chat":                {chat, "event: message\ndata: {\"object\":\"chat.completion.chunk\",\"choices\":[{}]}\n\n"},
		"with one choice":                   {chat, "data: {\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\n"},
		"lacks a message, a type or a code": {chat, "data: {\"error\":{\"message\":\"m\",\"type\":\"t\"}}\n\n"},
		"and its type":                      {message, "event: ping\ndata: {\"type\":\"message_stop\"}\n\n"},
		"or the request's id":               {message, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"t\",\"message\":\"m\"}}\n\n"},
		"it needs a number":                 {response, "event: response.created\ndata: {\"type\":\"response.created\"}\n\n"},
		"without an error":                  {response, eventOf(0, "response.failed", `,"response":{"status":"failed"}`)},
	} {
		require.ErrorContains(t, dialects[c.kind].read([]string{c.frame}).wrong, says)
	}
	for says, c := range map[string]struct{ kind, body string }{
		"a finish reason":    {chat, `{"choices":[{"message":{"content":"a"}}]}`},
		"with a stop reason": {message, `{"type":"message","content":[]}`},
		"no such JSON":       {response, `<html>`},
		"a type or a code":   {response, `{"error":{"message":"m","type":"t"}}`},
	} {
		require.ErrorContains(t, dialects[c.kind].readWhole(c.body).wrong, says)
	}
	s := dialects[response].read(responseStream("resp_x", statusFailed))
	require.NoError(t, s.wrong)
	require.True(t, s.fault.again)
	s = dialects[response].readWhole(responseBody("resp_x", statusInProgress, "a"))
	require.Equal(t, said{text: "a"}, s)
	require.True(t, dialects[message].read([]string{failedEvent}).fault.again)
	require.True(t, dialects[chat].readWhole(refusedBody).fault.again)
	require.False(t, dialects[chat].readWhole(`{"error":{"message":"m","type":"t","code":"c"}}`).fault.again)
	for frame, is := range map[string]bool{
		": queued queue_position=1\n\n": true, receiptFrame("a"): false, chunk("a"): false, "event: ping\ndata: {}\n\n": true, "event: keepalive\ndata: {}\n\n": true,
	} {
		require.Equal(t, is, sign(frame), frame)
	}
}

// An engine of the loose pool says the rest of an answer, wherever that was cut.
//
// ORCH-3051, LO-209
func TestALooseEngineGoesOn(t *testing.T) {
	rules := looseScript().Rules
	require.Len(t, rules, len(looseWords)+1)
	for i, rule := range rules {
		n := len(looseWords) - i
		rest := ""
		for _, step := range rule.Play {
			rest += step.Text
		}
		require.Equal(t, looseText, rule.Contains[len("<|im_start|>assistant\n"):]+rest)
		require.Len(t, rule.Play, 2*(len(looseWords)-n))
	}
}
