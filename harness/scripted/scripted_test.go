// SPDX-License-Identifier: GPL-3.0-or-later

package scripted_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/scripted"
)

func serve(t *testing.T, o scripted.Options, script string) (*scripted.Engine, string) {
	t.Helper()
	if script != "" {
		s, err := scripted.Parse([]byte(script))
		require.NoError(t, err)
		o.Script = s
	}
	e := scripted.New(o)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return e, server.URL
}

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return answer.StatusCode, string(data) + "<cut>"
	}
	return answer.StatusCode, string(data)
}

type delta struct {
	Role      string `json:"role"`
	Content   string `json:"content"`
	Reasoning string `json:"reasoning_content"`
	ToolCalls []struct {
		Index    int    `json:"index"`
		ID       string `json:"id"`
		Function struct{ Name, Arguments string }
	} `json:"tool_calls"`
}

// deltas reads a chat's stream: the deltas, and the finish reason.
func deltas(t *testing.T, stream string) (all []delta, finish string) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(stream))
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var chunk struct {
			Choices []struct {
				Delta  delta
				Finish string `json:"finish_reason"`
			}
		}
		require.NoError(t, json.Unmarshal([]byte(data), &chunk), data)
		for _, c := range chunk.Choices {
			all = append(all, c.Delta)
			if c.Finish != "" {
				finish = c.Finish
			}
		}
	}
	return all, finish
}

const agent = `{"rules": [
	{"match": "write it", "role": "user", "tools": true, "play": [
		{"reasoning": "I think."}, {"text": "I write."}, {"call": {"n": 0, "name": "write", "arguments": "{\"path\":\"a.txt\"}"}, "cut": 5}]},
	{"match": "written", "role": "tool", "play": [{"text": "It is done.", "cut": 4}]}
]}`

const tools = `"tools":[{"type":"function","function":{"name":"write","parameters":{"type":"object"}}}]`

// LO-414: an agent's requests are answered by what their last message is.
func TestAnAgentsTurnsArePlayed(t *testing.T) {
	_, url := serve(t, scripted.Options{}, agent)
	status, stream := post(t, url+"/v1/chat/completions", `{"stream":true,"reasoning_format":"deepseek","messages":[{"role":"user","content":[{"type":"text","text":"write it"}]}],`+tools+`}`)
	require.Equal(t, 200, status, stream)
	all, finish := deltas(t, stream)
	require.Equal(t, "tool_calls", finish)
	require.Equal(t, "assistant", all[0].Role)
	require.Equal(t, "I think.", all[1].Reasoning)
	require.Equal(t, "I write.", all[2].Content)
	require.Equal(t, "write", all[3].ToolCalls[0].Function.Name)
	require.NotEmpty(t, all[3].ToolCalls[0].ID)
	arguments := ""
	for _, d := range all[3:] {
		for _, c := range d.ToolCalls {
			arguments += c.Function.Arguments
		}
	}
	require.JSONEq(t, `{"path":"a.txt"}`, arguments)

	status, stream = post(t, url+"/v1/chat/completions", `{"stream":true,"messages":[{"role":"user","content":"write it"},
		{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"write","arguments":"{}"}}]},
		{"role":"tool","tool_call_id":"1","content":"written"}],`+tools+`}`)
	require.Equal(t, 200, status, stream)
	all, finish = deltas(t, stream)
	require.Equal(t, "stop", finish)
	require.Equal(t, "It i", all[1].Content)
}

// LO-414: what llama-server does not document is refused, by name, and is found in the log of requests.
func TestWhatIsNotDocumentedIsRefused(t *testing.T) {
	e, url := serve(t, scripted.Options{}, "")
	for body, says := range map[string]string{
		`{"messages":[{"role":"user","content":"a"}],"temprature":1}`:                                                      "temprature",
		`{"messages":[{"role":"user","content":"a"}],"temperature":"hot"}`:                                                 "temperature",
		`{"messages":[{"role":"user","content":"a"}],"tool_choice":"write"}`:                                               "tool_choice",
		`{"messages":[{"role":"user","content":"a"}],"logit_bias":[{"token":1,"bias":2}]}`:                                 "logit_bias",
		`{"messages":[{"role":"user","content":"a"}],"grammar":"root ::= \"a\"",` + tools + `}`:                            "grammar",
		`{"messages":[{"role":"wizard","content":"a"}]}`:                                                                   "wizard",
		`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ=="}}]}]}`: "image",
		`{"messages":[{"role":"assistant","tool_calls":[{"name":"write"}]}]}`:                                              "tool call",
		`{"messages":[]}`: "messages",
		`[]`:              "parse error",
	} {
		status, answer := post(t, url+"/v1/chat/completions", body)
		require.Equal(t, 400, status, body)
		require.Contains(t, answer, says, body)
	}
	status, answer := post(t, url+"/completion", `{"prompt":"a","messages":[]}`)
	require.Equal(t, 400, status)
	require.Contains(t, answer, "messages")
	for _, r := range e.Requests() {
		require.NotEmpty(t, r.Refused, r.Path)
	}
	require.Len(t, e.Requests(), 11)
}

// LO-414: faults come where the script has them, and those that happen once do not come back.
func TestFaultsAreInTheScript(t *testing.T) {
	_, url := serve(t, scripted.Options{}, `{"rules": [
		{"match": "error first", "play": [{"error": {"code": 503, "message": "busy"}}]},
		{"match": "error later", "play": [{"text": "a"}, {"error": {"code": 500, "message": "boom"}}, {"text": "b"}]},
		{"match": "cut", "play": [{"text": "a"}, {"die": true, "once": true}, {"text": "b"}]},
		{"match": "crash", "play": [{"text": "a"}, {"exit": 3, "once_file": "`+filepath.Join(t.TempDir(), "crashed")+`"}, {"ping": true}, {"text": "b"}]}
	]}`)
	ask := func(text string) (int, string) {
		return post(t, url+"/v1/chat/completions", `{"stream":true,"messages":[{"role":"user","content":"`+text+`"}]}`)
	}
	status, answer := ask("error first")
	require.Equal(t, 503, status)
	require.Contains(t, answer, "busy")
	status, answer = ask("error later")
	require.Equal(t, 200, status)
	require.Contains(t, answer, `"message":"boom"`)
	require.NotContains(t, answer, `"b"`)
	for _, fault := range []string{"cut", "crash"} {
		_, answer = ask(fault)
		require.Contains(t, answer, "<cut>")
		_, answer = ask(fault)
		require.Contains(t, answer, `"b"`)
		require.Contains(t, answer, "[DONE]")
	}
	require.Contains(t, answer, "\n:\n")
}

// LO-414: limits and stop strings end an answer as they do in llama-server.
func TestAnswersEndWhereTheyMay(t *testing.T) {
	_, url := serve(t, scripted.Options{Ctx: 64}, `{"rules": [{"play": [{"text": "one two three four", "cut": 3}]}]}`)
	for body, want := range map[string]string{
		`"n_predict":2`:   `"stop_type":"limit"`,
		`"stop":["hree"]`: `"stopping_word":"hree"`,
		`"n_predict":64`:  `"stop_type":"eos"`,
	} {
		status, answer := post(t, url+"/completion", `{"prompt":"hello","stream":true,`+body+`}`)
		require.Equal(t, 200, status)
		require.Contains(t, answer, want)
		require.NotContains(t, answer, "hree"+`","index"`)
	}
	status, answer := post(t, url+"/completion", `{"prompt":"`+strings.Repeat("long", 64)+`"}`)
	require.Equal(t, 400, status)
	require.Contains(t, answer, `"n_prompt_tokens":65`)
}

// LO-414: the template prints the date, and the one that it is told.
func TestTheTemplatePrintsTheDate(t *testing.T) {
	e, url := serve(t, scripted.Options{Date: "30 Nov 2026"}, "")
	_, answer := post(t, url+"/apply-template", `{"messages":[{"role":"user","content":"a"}]}`)
	require.Contains(t, answer, "Today is 30 Nov 2026.")
	e.SetDate("01 Dec 2026")
	_, answer = post(t, url+"/apply-template", `{"messages":[{"role":"user","content":"a"}]}`)
	require.Contains(t, answer, "Today is 01 Dec 2026.")
	_, answer = post(t, url+"/apply-template", `{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{"date_string":"30 Nov 2026"}}`)
	require.Contains(t, answer, "Today is 30 Nov 2026.")
}

// LO-414: a script that says what nobody can play is refused.
func TestAScriptIsRead(t *testing.T) {
	for script, says := range map[string]string{
		`{"rules": [{"play": [{}]}]}`:                         "says 0 things",
		`{"rules": [{"play": [{"text": "a", "die": true}]}]}`: "says 2 things",
		`{"rules": [{"finish": "bored", "play": []}]}`:        "bored",
		`{"rules": [{"plays": []}]}`:                          "plays",
		`{"rules": [{"play": [{"call": {"n": -1}}]}]}`:        "below 0",
		`{"rules": [{"play": [{"text": "a", "cut": -1}]}]}`:   "below 0",
	} {
		_, err := scripted.Parse([]byte(script))
		require.ErrorContains(t, err, says, script)
	}
}
