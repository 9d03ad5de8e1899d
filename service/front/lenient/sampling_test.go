// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

func refused(t *testing.T, param string, err error) {
	t.Helper()
	wrong, ok := errors.AsType[*ParamError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, param, wrong.Param)
	require.True(t, task.HasCode(err, task.InvalidParams))
}

// LO-403: numbers of the sampler within the native contract's bounds, and what stands for none.
func TestSampling(t *testing.T) {
	var q task.Request
	(&Sampling{new(0.0), new(1.0), new(5.0), new(0.1), new(1.1)}).Read("", &q)
	k := 5
	require.Equal(t, task.Request{Params: task.Params{Temperature: new(0.0), TopP: new(1.0), TopK: &k, MinP: new(0.1), RepeatPenalty: new(1.1)}}, q)
	q, k = task.Request{}, 0
	(&Sampling{TopK: new(-1.0), RepeatPenalty: new(0.0)}).Read("", &q)
	require.Equal(t, task.Request{Params: task.Params{TopK: &k}}, q, "all tokens, and the pool's penalty")
	for param, s := range map[string]Sampling{
		"temperature": {Temperature: new(5.1)}, "top_p": {TopP: new(-0.1)}, "min_p": {MinP: new(1.1)}, "top_k": {TopK: new(0.5)},
		"repeat_penalty": {RepeatPenalty: new(0.05)},
	} {
		var q task.Request
		s.Read("options.", &q)
		require.Len(t, q.Unfit, 1)
		require.EqualValues(t, param, q.Unfit[0].Setting)
		refused(t, "options."+param, q.Unfit[0].Err)
	}
}

// LO-403: an empty text ends no answer, and more or longer ones than the native contract has are refused.
func TestStops(t *testing.T) {
	longest := strings.Repeat("é", maxStopLength)
	stops, err := Stops("stop", Texts{"", "a", "", longest})
	require.NoError(t, err)
	require.Equal(t, []string{"a", longest}, stops)
	_, err = Stops("stop", slices.Repeat(Texts{"a"}, maxStop+1))
	refused(t, "stop", err)
	_, err = Stops("stop", Texts{longest + "é"})
	refused(t, "stop", err)
}

// LO-403: a word for the template is one that the native contract takes.
func TestEffort(t *testing.T) {
	for _, word := range []string{"", "low", "x-high", strings.Repeat("x", 32)} {
		got, err := Effort("p", word)
		require.NoError(t, err)
		require.Equal(t, word, got)
	}
	for _, word := range []string{strings.Repeat("x", 33), "very high", "low\n", "{{x}}"} {
		_, err := Effort("p", word)
		refused(t, "p", err)
	}
}

// LO-403: tools, and the arguments of calls.
func TestToolsAndArguments(t *testing.T) {
	tool, err := Tool("tools[0]", "f", "d", "parameters", json.RawMessage(`{"type":"object"}`))
	require.NoError(t, err)
	require.Equal(t, task.Tool{Name: "f", Description: "d", Parameters: json.RawMessage(`{"type":"object"}`)}, tool)
	_, err = Tool("tools[0]", "", "", "parameters", nil)
	refused(t, "tools[0].name", err)
	_, err = Tool("tools[0]", "f", "", "parameters", json.RawMessage(`1`))
	refused(t, "tools[0].parameters", err)
	for raw, want := range map[string]string{"": "{}", "null": "{}", " {\"a\": 1} ": `{"a":1}`} {
		got, err := Arguments("p", json.RawMessage(raw))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, raw := range []string{"[]", `"x"`, "{", "1"} {
		_, err := Arguments("p", json.RawMessage(raw))
		refused(t, "p", err)
	}
}

// LO-404: a refusal names a field as the client does, whatever type has it here.
func TestARefusalNamesTheField(t *testing.T) {
	type common struct{ Sampling }
	type body struct {
		common

		Options struct{ Sampling } `json:"options"`
	}
	for text, param := range map[string]string{`{"top_p":"x"}`: "top_p", `{"options":{"top_k":"x"}}`: "options.top_k", `{"options":3}`: "options"} {
		_, err := Decode(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(text)), new(body))
		refused(t, param, err)
	}
}
