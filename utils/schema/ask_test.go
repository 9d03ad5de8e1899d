// SPDX-License-Identifier: GPL-3.0-or-later

package schema

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/sdk"
)

// answers is a caller that gives answers one after the other, and keeps what it was asked.
type answers struct {
	texts  []string
	finish sdk.FinishReason
	asked  []*sdk.TaskRequest
}

func (a *answers) Run(_ context.Context, r *sdk.TaskRequest) iter.Seq2[sdk.Event, error] {
	return func(yield func(sdk.Event, error) bool) {
		a.asked = append(a.asked, r)
		text := a.texts[0]
		a.texts = a.texts[1:]
		_ = yield(sdk.Started{TaskID: "t"}, nil) && yield(sdk.Token{Text: text}, nil) && yield(sdk.End{FinishReason: a.finish}, nil)
	}
}

const good = `{"findings": [{"file": "a", "severity": "low"}]}`

// LO-916
func TestAnAnswerOfAForm(t *testing.T) {
	for _, text := range []string{good, "```json\n" + good + "\n```", "<think>hm</think>Here: " + good} {
		a := &answers{texts: []string{text}}
		value, answer, err := Ask[review](t.Context(), a, &sdk.TaskRequest{ModelRef: "m", Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "x")}})
		require.NoError(t, err)
		require.Equal(t, review{Findings: []finding{{File: "a", Severity: "low"}}}, value)
		require.Equal(t, text, answer.Text)
		require.Len(t, a.asked, 1)
		require.Equal(t, sdk.FormatTypeJSONSchema, a.asked[0].Format.Type)
		require.Contains(t, string(a.asked[0].Format.Schema), `"severity"`)
	}
}

// LO-916
func TestAnAnswerThatDoesNotFitIsAskedForOnceMore(t *testing.T) {
	request := &sdk.TaskRequest{ModelRef: "m", TaskID: "first", Messages: []sdk.Message{sdk.Say(sdk.RoleUser, "x")}}
	a := &answers{texts: []string{`{"findings": [{"file": "a", "severity": "bad"}]}`, good}}
	value, _, err := Ask[review](t.Context(), a, request)
	require.NoError(t, err)
	require.Len(t, value.Findings, 1)
	require.Len(t, a.asked, 2)
	again := a.asked[1]
	require.Empty(t, again.TaskID)
	require.Len(t, again.Messages, 3)
	require.Equal(t, sdk.RoleAssistant, again.Messages[1].Role)
	require.Contains(t, again.Messages[2].Content.Text, "findings[0].severity: value must be one of 'low', 'high'")
	require.Len(t, request.Messages, 1, "the request is the caller's own")
	require.Nil(t, request.Format)

	a = &answers{texts: []string{"no", "{", ""}}
	_, _, err = Ask[review](t.Context(), a, &sdk.TaskRequest{ModelRef: "m", Prompt: "x"})
	wrong, ok := errors.AsType[*AnswerError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "{", wrong.Answer.Text)
	require.Len(t, a.asked, 2, "only once more")
	require.Contains(t, a.asked[1].Prompt, "xno\n\nThat is not what I asked for")

	a = &answers{texts: []string{"{", `{"findings": [`}, finish: sdk.FinishReasonLength}
	_, _, err = Ask[review](t.Context(), a, &sdk.TaskRequest{ModelRef: "m", Prompt: "x"})
	require.ErrorContains(t, err, "raise max_tokens")
}
