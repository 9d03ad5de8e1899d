// SPDX-License-Identifier: GPL-3.0-or-later

package tool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// model answers with calls or texts, one after the other.
type model struct {
	turns []any // []sdk.Call or string
	asked []*sdk.TaskRequest
}

func (m *model) Run(_ context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		m.asked = append(m.asked, r)
		turn := m.turns[0]
		if len(m.turns) > 1 {
			m.turns = m.turns[1:]
		}
		if !yield(sdk.Started{TaskID: fmt.Sprint("t", len(m.asked))}, nil) {
			return
		}
		if calls, ok := turn.([]sdk.Call); ok {
			yield(sdk.End{FinishReason: sdk.FinishReasonToolCalls, ToolCalls: calls}, nil)
			return
		}
		_ = yield(sdk.Token{Text: fmt.Sprint(turn)}, nil) && yield(sdk.End{FinishReason: sdk.FinishReasonStop}, nil)
	}
}

type addIn struct {
	A int `json:"a" jsonschema:"description=the first"`
	B int `json:"b"`
}

var add = New("add", "Adds two numbers.", func(_ context.Context, in addIn) (map[string]int, error) {
	if in.A == 13 {
		return nil, errors.New("no luck with 13")
	}
	if in.A == 99 {
		panic("too much")
	}
	return map[string]int{"sum": in.A + in.B}, nil
})

func call(id, name, arguments string) sdk.Call {
	return sdk.Call{ID: id, Name: name, Arguments: arguments}
}

func ask(text string) *sdk.TaskRequest {
	return &sdk.TaskRequest{ModelRef: "m", TaskID: "mine", Messages: []sdk.Message{sdk.Say(sdk.RoleUser, text)}}
}

// LO-917
func TestAModelCallsAGoFunction(t *testing.T) {
	m := &model{turns: []any{[]sdk.Call{call("1", "add", `{"a": 1, "b": 2}`), call("2", "add", `{"a": 3, "b": 4}`)}, "It is 3 and 7."}}
	request := ask("What is 1+2, and 3+4?")
	events := 0
	r, err := (&Loop{Tools: []Tool{add}, Each: func(sdk.Event) error { events++; return nil }}).Run(t.Context(), m, request)
	require.NoError(t, err)
	require.Equal(t, "It is 3 and 7.", r.Answer.Text)
	require.Len(t, r.Messages, 5)
	require.Equal(t, sdk.Result("1", `{"sum":3}`), r.Messages[2])
	require.Equal(t, sdk.Result("2", `{"sum":7}`), r.Messages[3])
	require.Equal(t, 5, events)
	require.Equal(t, []Done{{Call: call("1", "add", `{"a": 1, "b": 2}`), Result: `{"sum":3}`}, {Call: call("2", "add", `{"a": 3, "b": 4}`), Result: `{"sum":7}`}}, r.Calls)
	require.Len(t, m.asked[0].Tools, 1)
	require.Equal(t, "Adds two numbers.", m.asked[0].Tools[0].Description)
	require.Contains(t, string(m.asked[0].Tools[0].Parameters), `"description":"the first"`)
	require.Equal(t, "mine", m.asked[0].TaskID)
	require.Empty(t, m.asked[1].TaskID)
	require.Len(t, request.Messages, 1)
	require.Empty(t, request.Tools)
}

// LO-917
func TestWhatIsWrongGoesBackToTheModel(t *testing.T) {
	for _, c := range []struct{ name, arguments, says string }{
		{"add", `{"a": "1"}`, "The arguments of add are wrong: b: this field is missing; a: got string, want integer. Call it again"},
		{"add", `{"a": 1, "b": 2, "c": 3}`, "c: there is no such field"},
		{"add", `{"a": 1`, "this is not JSON"},
		{"add", ``, "a: this field is missing"},
		{"ad", `{}`, `There is no tool "ad". There are: add. Did you mean "add"?`},
		{"add", `{"a": 13, "b": 0}`, "add failed: no luck with 13"},
		{"add", `{"a": 99, "b": 0}`, "the tool add broke: too much"},
	} {
		m := &model{turns: []any{[]sdk.Call{call("1", c.name, c.arguments)}, "Well."}}
		r, err := (&Loop{Tools: []Tool{add}}).Run(t.Context(), m, ask("x"))
		require.NoError(t, err)
		require.Len(t, r.Calls, 1)
		require.True(t, r.Calls[0].Failed)
		for part := range strings.SplitSeq(c.says, "; ") {
			require.Contains(t, r.Calls[0].Result, strings.TrimSuffix(part, ". Call it again"))
		}
		require.Equal(t, sdk.RoleTool, m.asked[1].Messages[2].Role)
		require.Equal(t, r.Calls[0].Result, m.asked[1].Messages[2].Content.Text)
	}
}

// LO-917
func TestALoopHasABound(t *testing.T) {
	m := &model{turns: []any{[]sdk.Call{call("1", "add", `{"a": 1, "b": 2}`)}}}
	r, err := (&Loop{Tools: []Tool{add}, Most: 3}).Run(t.Context(), m, ask("x"))
	bound, ok := errors.AsType[*BoundError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, 3, bound.Most)
	require.Len(t, m.asked, 3)
	require.Len(t, r.Calls, 3)
	_, err = (&Loop{Tools: []Tool{add}}).Run(t.Context(), m, ask("x"))
	require.ErrorContains(t, err, "after 10 answers")
}

// LO-917
func TestEachCallPassesThePolicy(t *testing.T) {
	ran := 0
	counted := New("count", "Counts.", func(context.Context, struct{}) (string, error) { ran++; return "ok", nil })
	var seen []string
	l := &Loop{Tools: []Tool{counted}, Policy: func(_ context.Context, c sdk.Call) error {
		seen = append(seen, c.ID)
		switch c.ID {
		case "no":
			return errors.New("not on Sundays")
		case "stop":
			return fmt.Errorf("that is enough: %w", ErrStop)
		}
		return nil
	}}
	m := &model{turns: []any{[]sdk.Call{call("no", "count", "{}"), call("yes", "count", "")}, []sdk.Call{call("stop", "count", "{}")}, "never"}}
	r, err := l.Run(t.Context(), m, ask("x"))
	require.ErrorIs(t, err, ErrStop)
	require.Equal(t, []string{"no", "yes", "stop"}, seen)
	require.Equal(t, 1, ran)
	require.Equal(t, "This call was refused: not on Sundays", r.Calls[0].Result)
	require.Equal(t, "ok", r.Calls[1].Result)
}

// LO-917
func TestALoopEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	canceler := New("cancel", "Cancels.", func(context.Context, struct{}) (string, error) { stop(); return "", nil })
	_, err := (&Loop{Tools: []Tool{canceler}}).Run(ctx, &model{turns: []any{[]sdk.Call{call("1", "cancel", "{}")}}}, ask("x"))
	require.ErrorIs(t, err, context.Canceled)
}

// An MCP server's tools are used as ours are. The server is one of the protocol's own SDK.
//
// LO-917
func TestToolsOfAnMCPServer(t *testing.T) {
	server := mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	asked := 0
	mcp.AddTool(server, &mcp.Tool{Name: "shout", Description: "Says it loud."}, func(_ context.Context, _ *mcp.CallToolRequest, in struct {
		Text string `json:"text"`
	},
	) (*mcp.CallToolResult, any, error) {
		asked++
		if in.Text == "" {
			return nil, nil, errors.New("there is nothing to say")
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: strings.ToUpper(in.Text)}, &mcp.ImageContent{MIMEType: "image/png"}}}, nil, nil
	})
	ours, theirs := mcp.NewInMemoryTransports()
	running, err := server.Connect(t.Context(), theirs, nil)
	require.NoError(t, err)
	session, err := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "1"}, nil).Connect(t.Context(), ours, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close(); _ = running.Wait() })
	tools, err := FromMCP(t.Context(), session)
	require.NoError(t, err)
	require.Len(t, tools, 1)
	require.Equal(t, "Says it loud.", tools[0].Doc)

	m := &model{turns: []any{[]sdk.Call{call("1", "shout", `{"text": "hi"}`), call("2", "shout", `{"txt": 1}`), call("3", "shout", `{"text": ""}`)}, "Done."}}
	r, err := (&Loop{Tools: append(tools, add)}).Run(t.Context(), m, ask("x"))
	require.NoError(t, err)
	require.Equal(t, "HI\n(a part of the kind *mcp.ImageContent, which is not text)", r.Calls[0].Result)
	require.Contains(t, r.Calls[1].Result, "text: this field is missing")
	require.Equal(t, "shout failed: there is nothing to say", r.Calls[2].Result)
	require.Equal(t, 2, asked, "wrong arguments are not sent")
}
