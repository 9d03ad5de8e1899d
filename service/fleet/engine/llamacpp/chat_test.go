// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
	"github.com/llama-orch/llama-orch/service/task"
)

// conformance serves a scripted engine.
func conformance(t testing.TB, o scripted.Options, script string) (*llamacpp.Engine, *scripted.Engine) {
	t.Helper()
	s, err := scripted.Parse([]byte(script))
	require.NoError(t, err)
	o.Script = s
	server := scripted.New(o)
	at := httptest.NewServer(server)
	e := llamacpp.New(engine.Endpoint{URL: at.URL})
	t.Cleanup(func() { e.Close(); at.Close() })
	return e, server
}

// pieces gathers what a job gives. Every piece is whole runes.
func pieces(t testing.TB, e engine.Engine, j engine.Job) ([]task.Piece, engine.Result, error) {
	t.Helper()
	var all []task.Piece
	r, err := e.Generate(t.Context(), j, func(p task.Piece) error {
		if !utf8.ValidString(p.Text) || p.Text == "" && p.Kind != task.EventToolCall {
			return errors.New("emit was called with no text, or with half a rune")
		}
		all = append(all, p)
		return nil
	})
	return all, r, err
}

var write = task.Tool{Name: "write", Description: "writes", Parameters: json.RawMessage(`{"type":"object"}`)}

// chatJob is a chat that may call a tool.
func chatJob(change func(*engine.Job)) engine.Job {
	return job(func(j *engine.Job) {
		j.Prompt, j.Messages = "", []task.Message{{Role: "user", Content: "write it"}}
		j.Chat = &task.Chat{Tools: []task.Tool{write, {Name: "read"}}, Reasoning: task.Reasoning{Split: true}}
		j.CallID = func(n int) string { return engine.CallID("digest", n) }
		if change != nil {
			change(j)
		}
	})
}

// asked is the body of the last request on a path.
func asked(t testing.TB, s *scripted.Engine, path string) (body map[string]any) {
	t.Helper()
	for _, r := range s.Requests() {
		require.Empty(t, r.Refused, "%s %s", r.Path, r.Body)
		if r.Path == path {
			body = nil
			require.NoError(t, json.Unmarshal(r.Body, &body))
		}
	}
	return body
}

const completions = "/v1/chat/completions"

// LO-411: text, thinking and calls come as pieces of their own, in the engine's order; the ids of calls are made from the digest; the end says that calls were made.
func TestAChatComesInPieces(t *testing.T) {
	e, s := conformance(t, scripted.Options{Thinks: true}, `{"rules": [{"play": [
		{"reasoning": "I thínk.", "cut": 3}, {"ping": true}, {"text": "I wríte."},
		{"call": {"n": 0, "name": "write", "arguments": "{\"a\":1}"}, "cut": 4}, {"call": {"n": 1, "name": "read"}}]}]}`)
	var cached []int
	got, r, err := pieces(t, e, chatJob(func(j *engine.Job) { j.Cached = func(n int) { cached = append(cached, n) } }))
	require.NoError(t, err)
	call := func(n int, id, name, text string) task.Piece {
		return task.Piece{Kind: task.EventToolCall, Text: text, Call: task.CallPart{N: n, ID: id, Name: name}}
	}
	first, second := engine.CallID("digest", 0), engine.CallID("digest", 1)
	require.Regexp(t, `^[0-9A-Za-z]{9}$`, first)
	require.NotEqual(t, first, second)
	require.Equal(t, []task.Piece{
		{Kind: task.EventReasoning, Text: "I t"},
		{Kind: task.EventReasoning, Text: "hín"},
		{Kind: task.EventReasoning, Text: "k."},
		task.TextPiece("I wríte."), call(0, first, "write", `{"a"`), call(0, "", "", `:1}`), call(1, second, "read", ""),
	}, got)
	require.Equal(t, task.FinishToolCalls, r.Finish)
	require.Positive(t, r.TokensIn)
	require.Equal(t, 7, r.TokensOut)
	require.Equal(t, r.TokensIn+r.TokensOut, r.Cells)
	require.Equal(t, []int{0}, cached)

	body := asked(t, s, completions)
	for _, parameter := range []string{
		"seed", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "samplers", "stop", "n_predict", "cache_prompt",
		"dry_multiplier", "xtc_probability", "typical_p", "mirostat", "n_probs", "ignore_eos", "logit_bias",
	} {
		require.Contains(t, body, parameter, "what the native endpoint is told, this one is told too")
	}
	require.Equal(t, "deepseek", body["reasoning_format"])

	again, _, err := pieces(t, e, chatJob(nil))
	require.NoError(t, err)
	require.Equal(t, got, again, "the engine's own ids are random")
}

// LO-411: what is asked of a chat is what llama-server is told.
func TestWhatAChatAsksIsPassedOn(t *testing.T) {
	e, s := conformance(t, scripted.Options{Thinks: true, Vision: true}, `{"rules": [{"play": [{"text": "a"}]}]}`)
	yes, no := true, false
	for name, c := range map[string]struct {
		change func(*engine.Job)
		path   string
		want   map[string]any
	}{
		"a named tool": {func(j *engine.Job) { j.Chat.ToolChoice, j.Chat.ToolName = task.ChooseTool, "read" }, completions, map[string]any{
			"tool_choice": "required", "tools": []any{map[string]any{"type": "function", "function": map[string]any{"name": "read"}}},
		}},
		"any tool, one at a time": {func(j *engine.Job) { j.Chat.ToolChoice, j.Chat.ParallelCalls = task.ChooseRequired, &no }, completions, map[string]any{
			"tool_choice": "required", "parallel_tool_calls": false,
		}},
		"no call": {func(j *engine.Job) { j.Chat.ToolChoice, j.Chat.Reasoning.Split = task.ChooseNone, false }, "/completion", map[string]any{}},
		"any JSON": {func(j *engine.Job) { j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON}} }, completions, map[string]any{
			"json_schema": map[string]any{"type": "object"}, "reasoning_format": "none",
		}},
		"a schema": {func(j *engine.Job) {
			j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatJSON, Schema: json.RawMessage(`{"type":"array"}`)}}
		}, completions, map[string]any{"json_schema": map[string]any{"type": "array"}}},
		"a grammar": {func(j *engine.Job) {
			j.Chat = &task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: `root ::= "a"`}}
		}, completions, map[string]any{"grammar": `root ::= "a"`}},
		"a grammar of a prompt": {func(j *engine.Job) {
			j.Prompt, j.Messages, j.Chat = "hello", nil, &task.Chat{Format: &task.Format{Kind: task.FormatGrammar, Grammar: `root ::= "a"`}}
		}, "/completion", map[string]any{"grammar": `root ::= "a"`}},
		"biases": {func(j *engine.Job) { j.Chat = &task.Chat{LogitBias: []task.Bias{{Token: 7, Bias: -1.5}}} }, "/completion", map[string]any{
			"logit_bias": []any{[]any{7.0, -1.5}},
		}},
		"no thinking": {func(j *engine.Job) { j.Chat = &task.Chat{Reasoning: task.Reasoning{Enabled: &no}} }, "/apply-template", map[string]any{
			"chat_template_kwargs": map[string]any{"enable_thinking": false},
		}},
		"thinking": {func(j *engine.Job) {
			j.Chat = &task.Chat{Reasoning: task.Reasoning{Enabled: &yes, Effort: "high", Budget: 9}, TemplateArgs: json.RawMessage(`{"x":[1]}`)}
		}, completions, map[string]any{
			"chat_template_kwargs": map[string]any{"enable_thinking": true, "x": []any{1.0}}, "reasoning_effort": "high", "reasoning_budget_tokens": 9.0,
		}},
		"an image": {func(j *engine.Job) {
			j.Chat, j.Messages = nil, []task.Message{{Role: "user", Parts: []task.Part{{Text: "see"}, {Image: &task.Image{MIME: "image/png", Data: []byte("PNG")}}}}}
		}, completions, map[string]any{"messages": []any{map[string]any{"role": "user", "content": []any{
			map[string]any{"type": "text", "text": "see"}, map[string]any{"type": "image_url", "image_url": map[string]any{"url": "data:image/png;base64,UE5H"}},
		}}}}},
		"calls and results": {func(j *engine.Job) {
			j.Messages = append(j.Messages, task.Message{Role: "assistant", Reasoning: "hm", ToolCalls: []task.ToolCall{{ID: "c1", Name: "write", Arguments: "{}"}}},
				task.Message{Role: "tool", ToolCallID: "c1", Content: "written"})
		}, completions, map[string]any{"messages": []any{
			map[string]any{"role": "user", "content": "write it"},
			map[string]any{"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": []any{map[string]any{
				"id": "c1", "type": "function", "function": map[string]any{"name": "write", "arguments": "{}"},
			}}},
			map[string]any{"role": "tool", "content": "written", "tool_call_id": "c1", "name": "write"},
		}}},
	} {
		_, _, err := pieces(t, e, chatJob(c.change))
		require.NoError(t, err, name)
		body := asked(t, s, c.path)
		for field, want := range c.want {
			require.Equal(t, want, body[field], "%s: %s", name, field)
		}
	}
}

// LO-412: the prompt that was recorded is what the engine decodes, though its template prints the date.
func TestTheDateOfTheAdmissionIsPrinted(t *testing.T) {
	e, s := conformance(t, scripted.Options{Date: "30 Nov 2026"}, `{"rules": [{"play": [{"text": "a"}]}]}`)
	ask := chatJob(nil)
	prompt, err := e.ApplyTemplate(t.Context(), ask.Messages, ask.Chat)
	require.NoError(t, err)
	require.Contains(t, prompt, "30 Nov 2026")
	s.SetDate("01 Dec 2026")
	again := chatJob(func(j *engine.Job) {
		j.Prompt, j.RenderedOn = prompt, time.Date(2026, 11, 30, 23, 59, 0, 0, time.UTC)
		j.Rendered = func(string) error { return errors.New("the prompt is another one") }
	})
	_, _, err = pieces(t, e, again)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"date_string": "30 Nov 2026", "datetime": "Nov 30 2026"}, asked(t, s, completions)["chat_template_kwargs"])
}

// LO-412: where the prompt cannot be made again, who runs the job is asked before anything is decoded.
func TestAnotherPromptIsForTheCallerToTake(t *testing.T) {
	e, s := conformance(t, scripted.Options{}, `{"rules": [{"play": [{"text": "a"}]}]}`)
	ask := chatJob(func(j *engine.Job) { j.Prompt, j.PromptTokens, j.RenderedOn = "an older one", 3, time.Now() })
	stop := errors.New("no")
	ask.Rendered = func(string) error { return stop }
	_, _, err := pieces(t, e, ask)
	require.ErrorIs(t, err, stop)
	require.Nil(t, asked(t, s, completions))
	told := ""
	ask.Rendered = func(prompt string) error { told = prompt; return nil }
	_, _, err = pieces(t, e, ask)
	require.NoError(t, err)
	want, err := e.ApplyTemplate(t.Context(), ask.Messages, ask.Chat)
	require.NoError(t, err)
	require.Equal(t, want, told)
}

// LO-412: a date that changes while the chat begins is seen, and the chat is begun again.
func TestTheDateChangesWhileAChatBegins(t *testing.T) {
	renders, chats := 0, 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/props":
			_, _ = w.Write([]byte(`{"total_slots":1,"default_generation_settings":{"n_ctx":256},"chat_template":"{{ strftime_now('%d') }}","chat_template_caps":{"supports_tools":true,"supports_tool_calls":true}}`))
		case "/apply-template":
			day := []string{"30", "01"}[min(renders, 1)]
			renders++
			_, _ = w.Write([]byte(`{"prompt":"day ` + day + `"}`))
		default:
			chats++
			_, _ = w.Write([]byte(`data: {"choices":[{"finish_reason":"stop","index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":2,"completion_tokens":1}}` + "\n\ndata: [DONE]\n\n"))
		}
	}))
	e := llamacpp.New(engine.Endpoint{URL: s.URL})
	t.Cleanup(func() { e.Close(); s.Close() })
	var told []string
	got, _, err := pieces(t, e, chatJob(func(j *engine.Job) {
		j.Prompt, j.PromptTokens = "day 30", 2
		j.MaxTokens = 4
		j.Rendered = func(p string) error { told = append(told, p); return nil }
	}))
	require.NoError(t, err)
	require.Equal(t, []task.Piece{task.TextPiece("a")}, got)
	require.Equal(t, []string{"day 01"}, told)
	require.Equal(t, 2, chats)
}

// LO-412: an image's marker is random in llama-server, and always the same in a recorded prompt. Its tokens count.
func TestAnImageInAPrompt(t *testing.T) {
	e, _ := conformance(t, scripted.Options{Vision: true}, `{"rules": []}`)
	see := []task.Message{{Role: "user", Parts: []task.Part{{Text: "see "}, {Image: &task.Image{MIME: "image/png", Data: []byte("PNG")}}}}}
	_, err := e.Props(t.Context())
	require.NoError(t, err)
	prompt, err := e.ApplyTemplate(t.Context(), see, nil)
	require.NoError(t, err)
	require.Contains(t, prompt, "see "+task.MediaMarker)
	with, err := e.CountChat(t.Context(), see, nil)
	require.NoError(t, err)
	without, err := e.CountChat(t.Context(), []task.Message{{Role: "user", Content: "see "}}, nil)
	require.NoError(t, err)
	require.Equal(t, without+16, with)
}

// LO-411: a model whose template knows neither tools nor thinking does not think. Its chats are decoded from the recorded prompt, which is not rendered again.
func TestAModelThatCannotThink(t *testing.T) {
	split := func(j *engine.Job) {
		j.Prompt, j.PromptTokens = "as recorded", 3
		j.Chat = &task.Chat{Reasoning: task.Reasoning{Split: true, Budget: 9}}
	}
	e, s := conformance(t, scripted.Options{NoTools: true}, `{"rules": [{"play": [{"text": "<think>"}]}]}`)
	got, _, err := pieces(t, e, chatJob(split))
	require.NoError(t, err)
	require.Equal(t, []task.Piece{task.TextPiece("<think>")}, got)
	require.Equal(t, "as recorded", asked(t, s, "/completion")["prompt"])
	require.Nil(t, asked(t, s, "/apply-template"))
	for name, o := range map[string]scripted.Options{"it may": {NoTools: true, Thinks: true}, "its tools may": {}} {
		e, s := conformance(t, o, `{"rules": [{"play": [{"text": "a"}]}]}`)
		_, _, err := pieces(t, e, chatJob(split))
		require.NoError(t, err, name)
		require.NotNil(t, asked(t, s, completions), name)
	}
}

// LO-410, LO-411: whether a model can think is told by its template, and where that is not known, it may.
func TestWhoseModelThinks(t *testing.T) {
	for template, thinks := range map[string]bool{
		`{{ messages[0].content }}`: false, ``: true, `{% if enable_thinking %}`: true, `<|channel|>analysis`: true, `{{ m.reasoning_content }}`: true,
		`<|START_THINKING|>`: true, `<start_of_thought>`: true,
	} {
		quoted, err := json.Marshal(template)
		require.NoError(t, err)
		told := `{"total_slots":1,"default_generation_settings":{"n_ctx":256},"chat_template":` + string(quoted) +
			`,"chat_template_caps":{"supports_tools":TOOLS,"supports_tool_calls":TOOLS}}`
		for _, tools := range []string{"false", "true"} {
			p, err := fake(t, map[string]string{"/props": strings.ReplaceAll(told, "TOOLS", tools)}).Props(t.Context())
			require.NoError(t, err)
			require.Equal(t, thinks || tools == "true", slices.Contains(p.Features, task.FeatureReasoning), "%s, tools %s", template, tools)
		}
	}
}

// LO-410: what an engine lacks is refused by its name before anything is decoded.
func TestWhatTheEngineLacksIsRefused(t *testing.T) {
	e, s := conformance(t, scripted.Options{NoTools: true}, `{"rules": []}`)
	p, err := e.Props(t.Context())
	require.NoError(t, err)
	require.Equal(t, []task.Feature{task.FeatureFormats, task.FeatureGrammars, task.FeatureArguments, task.FeatureBias, task.FeatureLogprobs}, p.Features)
	for says, change := range map[string]func(*engine.Job){
		"takes no tools":  nil,
		"takes no images": func(j *engine.Job) { j.Chat, j.Messages[0].Parts = nil, []task.Part{{Image: &task.Image{}}} },
	} {
		_, _, err := pieces(t, e, chatJob(change))
		require.True(t, task.HasCode(err, task.InvalidParams), "%v", err)
		require.ErrorContains(t, err, says)
	}
	require.Nil(t, asked(t, s, completions))
	old := fake(t, map[string]string{"/props": props})
	p, err = old.Props(t.Context())
	require.NoError(t, err)
	require.Empty(t, p.Features, "a server that tells nothing of it has none")
	_, _, err = pieces(t, old, chatJob(func(j *engine.Job) { j.Chat = &task.Chat{LogitBias: []task.Bias{{}}} }))
	require.ErrorContains(t, err, "takes no logit bias")
}

// delta is a frame of the chat endpoint.
func delta(d string) string {
	return `data: {"choices":[{"finish_reason":null,"index":0,"delta":` + d + `}]}` + "\n\n"
}

const (
	chatProps = `{"total_slots":1,"default_generation_settings":{"n_ctx":256},"chat_template_caps":{"supports_tools":true,"supports_tool_calls":true}}`
	chatLast  = `data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"__verbose":{"id_slot":3,"tokens_cached":9}}` + "\n\n" +
		`data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2},"timings":{"prompt_ms":1.5,"predicted_ms":2.5,"cache_n":1}}` + "\n\ndata: [DONE]\n\n"
)

// LO-411: whatever the chat endpoint sends, pieces are whole and in order, and what it may not send ends the run.
func TestBrokenChats(t *testing.T) {
	text := func(s string) task.Piece { return task.TextPiece(s) }
	reason := func(s string) task.Piece { return task.Piece{Kind: task.EventReasoning, Text: s} }
	call := func(n int, name, s string) task.Piece {
		p := task.Piece{Kind: task.EventToolCall, Text: s, Call: task.CallPart{N: n, Name: name}}
		if name != "" {
			p.Call.ID = engine.CallID("digest", n)
		}
		return p
	}
	for name, c := range map[string]struct {
		stream string
		want   []task.Piece
		says   string
	}{
		"whole":               {delta(`{"role":"assistant","content":null}`) + delta(`{"content":"a"}`) + ":\n\n" + delta(`{"content":"b"}`) + chatLast, []task.Piece{text("a"), text("b")}, ""},
		"all in one frame":    {delta(`{"content":"b","reasoning_content":"a","tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}},{"index":1,"function":{"name":"g"}}]}`) + chatLast, []task.Piece{reason("a"), text("b"), call(0, "f", "{}"), call(1, "g", "")}, ""},
		"runes that are cut":  {delta("{\"content\":\"\xc3\"}") + delta("{\"content\":\"\xa9\"}") + delta("{\"content\":\"\xc3\"}") + delta(`{"reasoning_content":"x"}`) + delta("{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"\xc3\"}}]}") + chatLast, []task.Piece{text("é"), text("\uFFFD"), reason("x"), call(0, "f", "\uFFFD")}, ""},
		"a name that grows":   {delta(`{"tool_calls":[{"index":0,"id":"x","function":{"name":"fo"}}]}`) + delta(`{"tool_calls":[{"index":0,"id":"x","function":{"name":"foo","arguments":""}}]}`) + delta(`{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}`) + chatLast, []task.Piece{call(0, "foo", "{}")}, ""},
		"a call without name": {delta(`{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}`), nil, "no name"},
		"a call that skips":   {delta(`{"tool_calls":[{"index":1,"function":{"name":"f"}}]}`), nil, "call 1 as the next of 0"},
		"a call below 0":      {delta(`{"tool_calls":[{"index":-1,"function":{"name":"f"}}]}`), nil, "call -1"},
		"ends early":          {delta(`{"content":"a"}`), []task.Piece{text("a")}, "unexpected EOF"},
		"no JSON":             {"data: nonsense\n\n", nil, "frame"},
		"content of a number": {delta(`{"content":1}`), nil, "frame"},
		"no reason":           {delta(`{"content":"a"}`) + "data: [DONE]\n\n", []task.Piece{text("a")}, "without a reason"},
		"no usage":            {strings.Split(chatLast, "\n\n")[0] + "\n\ndata: [DONE]\n\n", nil, "without its usage"},
		"an unknown reason":   {strings.Replace(chatLast, "stop", "boredom", 1), nil, "boredom"},
		"a server error":      {delta(`{"content":"a"}`) + `data: {"error":{"code":500,"message":"boom","type":"server_error"}}` + "\n\n", []task.Piece{text("a")}, "boom"},
	} {
		e := fake(t, map[string]string{"/props": chatProps, "/apply-template": `{"prompt":"p"}`, "/tokenize": `{"tokens":[1,2,3]}`, completions: c.stream})
		got, r, err := pieces(t, e, chatJob(nil))
		require.Equal(t, c.want, got, name)
		if c.says != "" {
			require.True(t, task.HasCode(err, task.WorkerReset), "%s: %v", name, err)
			require.ErrorContains(t, err, c.says, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, engine.Result{TokensIn: 5, TokensOut: 2, Prefill: 1500e3, Decode: 2500e3, Finish: task.FinishStop, Slot: 3, Cells: 9, Cached: 1}, r)
	}
}

// LO-801, LO-411
func TestImpossibleFiguresOfAChatAreNotBelieved(t *testing.T) {
	for _, at := range []string{`"id_slot":3`, `"tokens_cached":9`, `"prompt_tokens":5`, `"completion_tokens":2`, `"prompt_ms":1.5`, `"predicted_ms":2.5`, `"cache_n":1`} {
		for _, figure := range impossible {
			name, _, _ := strings.Cut(at, ":")
			e := fake(t, map[string]string{
				"/props": chatProps, "/apply-template": `{"prompt":"p"}`, completions: strings.Replace(chatLast, at, name+":"+figure, 1),
			})
			_, _, err := pieces(t, e, chatJob(nil))
			require.True(t, task.HasCode(err, task.WorkerReset), "%s %s: %v", name, figure, err)
		}
	}
}

// LO-411: a token of a chat costs its text, as one of a completion does.
func BenchmarkGenerateChatToken(b *testing.B) {
	for name, d := range map[string]string{
		"text": `{"content":" kernels"}`, "reasoning": `{"reasoning_content":" kernels"}`,
		"call": `{"tool_calls":[{"index":0,"id":"x","type":"function","function":{"name":"f","arguments":" kernels"}}]}`,
	} {
		b.Run(name, func(b *testing.B) {
			e := streamOf(b, chatProps, delta(d))
			b.ReportAllocs()
			b.ResetTimer()
			n, done := 0, errors.New("enough")
			_, err := e.Generate(b.Context(), chatJob(func(j *engine.Job) { j.PromptTokens, j.Prompt = 1, "" }), func(task.Piece) error {
				if n++; n >= b.N {
					return done
				}
				return nil
			})
			if !errors.Is(err, done) {
				b.Fatal(err)
			}
		})
	}
}
