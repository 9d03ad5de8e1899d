// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-404: a refusal of what a front made of a body names the field that the client sent.
func TestARefusalNamesWhatTheClientSent(t *testing.T) {
	n := &Names{Messages: []string{"system", "", "messages[1]"}, Tools: []string{"tools[3].function"}}
	n.Call("messages[].tool_calls[].name", "tool_calls[].function.name")
	n.Call("messages[].content[]", "")
	n.Call("format.schema", "response_format.schema")
	for native, want := range map[string]string{
		"messages[2].tool_call_id":       "messages[1].tool_call_id",
		"messages[2].tool_calls[4].name": "messages[1].tool_calls[4].function.name",
		"messages[2].content[7]":         "messages[1]",
		"messages[1].role":               "role",
		"messages[0].content[0]":         "system",
		"messages[9].role":               "messages[9].role",
		"tools[0].name":                  "tools[3].function.name",
		"tools[1].name":                  "tools[1].name",
		"format.schema":                  "response_format.schema",
		"tool_choice":                    "tool_choice",
	} {
		err := n.Err(task.RefuseField(native, "is %s", "wrong"))
		refused(t, want, err)
		require.Equal(t, "`"+want+"` is wrong", task.AsError(err).Message)
	}
	for _, other := range []error{nil, io.EOF, task.Errorf(task.InvalidParams, "`messages[2].role` is text alone")} {
		require.Equal(t, other, n.Err(other))
	}
	require.ErrorIs(t, (&Names{}).Err(io.EOF), io.EOF)
}
