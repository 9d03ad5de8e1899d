// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// anthropicMessage is a message as it is answered, and the events of a stream, which have some of its fields.
type anthropicMessage struct {
	Type       string                  `json:"type"`
	ID         string                  `json:"id"`
	Content    []struct{ Text string } `json:"content"`
	StopReason string                  `json:"stop_reason"`
	Delta      struct {
		Type, Text string
		StopReason string `json:"stop_reason"`
	} `json:"delta"`
	Usage struct {
		Input  int `json:"input_tokens"`
		Cached int `json:"cache_read_input_tokens"`
		Output int `json:"output_tokens"`
	} `json:"usage"`
	Input   int `json:"input_tokens"` // of a count
	Message struct {
		Usage struct {
			Input int `json:"input_tokens"`
		}
	} // of the beginning of a stream
	Error     struct{ Type, Message string } `json:"error"`
	RequestID string                         `json:"request_id"`
}

func ask(model, more string) string {
	return fmt.Sprintf(`{"model":%q,"max_tokens":32000,"temperature":0,"messages":[{"role":"user","content":[{"type":"text","text":"%s","cache_control":{"type":"ephemeral"}}]}]%s}`,
		model, question, more)
}

// events reads a stream to its end. Each is called with the number of texts so far.
func (b box) events(body string, each func(n int)) (text string, all []anthropicMessage) {
	b.Helper()
	in := bufio.NewScanner(b.ask(b.Context(), "/v1/messages?beta=true", body).Body)
	name, n := "", 0
	for in.Scan() {
		if event, ok := strings.CutPrefix(in.Text(), "event: "); ok {
			name = event
		}
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		var e anthropicMessage
		require.NoError(b, json.Unmarshal([]byte(data), &e))
		require.Equal(b, name, e.Type, "the event has the name of its type")
		if e.Type == "ping" {
			continue
		}
		all = append(all, e)
		if e.Delta.Type == "text_delta" {
			text += e.Delta.Text
			if n++; each != nil {
				each(n)
			}
		}
	}
	require.NoError(b, in.Err())
	return text, all
}

// Anthropic's dialect, as its clients use it.
//
// LO-401, LO-402, LO-404, LO-405, LO-409, LO-419, LO-421, LO-422
func TestAnthropic(t *testing.T) {
	b := serve(t)
	types, err := dialect.LoadAnthropic()
	require.NoError(t, err)
	held(t, types.Check)
	const path = "/v1/messages?beta=true"
	t.Run("a message, whole and streamed, is the same bytes", func(t *testing.T) {
		b := box{t, b.d}
		var whole anthropicMessage
		res := b.whole(path, ask("haiku", ""), &whole)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, "end_turn", whole.StopReason)
		require.NotEmpty(t, whole.Content[0].Text)
		require.Equal(t, "msg_"+res.Header.Get("X-Task-Id"), whole.ID)
		text, all := b.events(ask("haiku", `,"stream":true`), nil)
		require.Equal(t, whole.Content[0].Text, text)
		require.Equal(t, "message_start", all[0].Type)
		require.Equal(t, whole.Usage.Input+whole.Usage.Cached, all[0].Message.Usage.Input)
		require.Equal(t, "content_block_start", all[1].Type)
		end := all[len(all)-2]
		require.Equal(t, "message_delta", end.Type)
		require.Equal(t, "end_turn", end.Delta.StopReason)
		require.Equal(t, whole.Usage.Input+whole.Usage.Cached, end.Usage.Input+end.Usage.Cached, "by then some of it is in the KV")
		require.Equal(t, whole.Usage.Output, end.Usage.Output)
		require.Equal(t, "message_stop", all[len(all)-1].Type)
		got, err := b.d.Client.Get(t.Context(), "/v1/tasks/"+res.Header.Get("X-Task-Id"))
		require.NoError(t, err)
		require.Contains(t, string(got), res.Header.Get("X-Receipt-Transcript-Sha256"), "the native API has the task")
	})
	t.Run("a worker that is killed in mid-answer is not noticed", func(t *testing.T) {
		b := box{t, b.d}
		want, _ := b.events(ask("slow-haiku", `,"stream":true`), nil)
		killed := 0
		text, all := b.events(ask("slow-haiku", `,"stream":true`), func(n int) {
			for _, w := range b.d.Workers() {
				if n == 5 {
					w.Kill()
					killed++
				}
			}
		})
		require.Positive(t, killed)
		require.Equal(t, want, text)
		require.Equal(t, "message_stop", all[len(all)-1].Type)
		b.idle()
	})
	t.Run("an answer that is cut says so", func(t *testing.T) {
		var got anthropicMessage
		box{t, b.d}.whole(path, strings.Replace(ask("haiku", ""), "32000", "3", 1), &got)
		require.Equal(t, "max_tokens", got.StopReason)
		require.Equal(t, 3, got.Usage.Output)
	})
	t.Run("a burst of counts is exact, and makes no task", func(t *testing.T) {
		b := box{t, b.d}
		var whole anthropicMessage
		b.whole(path, ask("slow-haiku", ""), &whole)
		before, err := b.d.Client.Get(t.Context(), "/v1/tasks")
		require.NoError(t, err)
		counts, statuses := make([]int, 40), make([]int, 40)
		var burst sync.WaitGroup
		for i := range counts {
			burst.Go(func() {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.d.URL+"/v1/messages/count_tokens?beta=true", strings.NewReader(ask("slow-haiku", "")))
				if err != nil {
					return
				}
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					return
				}
				defer res.Body.Close()
				var got anthropicMessage
				if json.NewDecoder(res.Body).Decode(&got) == nil {
					counts[i], statuses[i] = got.Input, res.StatusCode
				}
			})
		}
		burst.Wait()
		for i := range counts {
			require.Equal(t, http.StatusOK, statuses[i])
			require.Equal(t, whole.Usage.Input+whole.Usage.Cached, counts[i])
		}
		after, err := b.d.Client.Get(t.Context(), "/v1/tasks")
		require.NoError(t, err)
		require.Equal(t, strings.Count(string(before), `"task_id"`), strings.Count(string(after), `"task_id"`))
	})
	t.Run("models are in the shape of who asks", func(t *testing.T) {
		openAIs := new(http.Client) // whose shape is not held against Anthropic's types
		for version, c := range map[string]struct {
			client *http.Client
			want   string
		}{"": {openAIs, `"object":"list"`}, "2023-06-01": {http.DefaultClient, `"has_more":false`}} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.d.URL+"/v1/models", http.NoBody)
			require.NoError(t, err)
			r.Header.Set("Anthropic-Version", version)
			r.Header.Set("X-Api-Key", "sk-ant-any")
			res, err := c.client.Do(r)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Contains(t, string(body), c.want)
		}
	})
	t.Run("refusals", func(t *testing.T) {
		b := box{t, b.d}
		for body, want := range map[string]struct {
			status     int
			kind, says string
		}{
			ask("claude-9", ""):                 {http.StatusNotFound, "not_found_error", "haiku"},
			ask("haiku", `,"stop_sequences":3`): {http.StatusBadRequest, "invalid_request_error", "`stop_sequences`"},
			strings.Replace(ask("haiku", ""), question, strings.Repeat("frog ", 400), 1): {http.StatusBadRequest, "invalid_request_error", "> 256 maximum"},
		} {
			var got anthropicMessage
			res := b.whole(path, body, &got)
			require.Equal(t, want.status, res.StatusCode)
			require.Equal(t, "error", got.Type)
			require.Equal(t, want.kind, got.Error.Type)
			require.Contains(t, got.Error.Message, want.says)
			require.Equal(t, res.Header.Get("Request-Id"), got.RequestID)
		}
	})
	t.Run("a client that goes cancels its task", func(t *testing.T) {
		b := box{t, b.d}
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		res := b.ask(ctx, path, ask("slow-haiku", `,"stream":true`))
		_, err := io.ReadFull(res.Body, make([]byte, 1))
		require.NoError(t, err)
		leave()
		require.NoError(t, watch.Poll(t.Context(), "the task to be canceled", func() error {
			got, err := b.d.Client.Get(t.Context(), "/v1/tasks/"+res.Header.Get("X-Task-Id"))
			if err == nil && !strings.Contains(string(got), `"state":"canceled"`) {
				err = errors.New(string(got))
			}
			return err
		}))
	})
}

// scriptedConfig has one pool, whose engine says what a script says.
const scriptedConfig = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
aliases: {claude-any: coder}
pools:
  - {id: only, model: {id: coder, ref: x}, provisioning: {mode: external, urls: ["%s"]}}
`

// A conversation with a tool: the call and the thinking before it go back with the tool's result. Counts are what the messages then have,
// images too.
//
// LO-419, LO-421, LO-422
func TestAnthropicTools(t *testing.T) {
	types, err := dialect.LoadAnthropic()
	require.NoError(t, err)
	held(t, types.Check)
	engine := scripted.New(scripted.Options{Thinks: true, Vision: true, Script: scripted.Script{Rules: []scripted.Rule{
		{Role: "tool", Match: "ten past two", Play: []scripted.Step{{Text: "It says: ten past two."}}},
		{Match: "read", Play: []scripted.Step{
			{Reasoning: "I read the file.", Cut: 3},
			{Call: &scripted.Call{Name: "Read"}},
			{Call: &scripted.Call{Arguments: `{"path":"note.txt"}`}, Cut: 4},
		}},
		{Play: []scripted.Step{{Text: "Hello."}}},
	}}})
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, scriptedConfig, server.URL), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
	require.NoError(t, err)
	_, err = d.Idle(t.Context(), "only")
	require.NoError(t, err)
	b := box{t, d}

	const head = `{"model":"claude-any","max_tokens":32000,"thinking":{"type":"adaptive"},"tools":[{"name":"Read","description":"reads","input_schema":{"type":"object","properties":{"path":{"type":"string"}}}},
		{"type":"web_search_20250305","name":"web_search"}],"messages":[{"role":"user","content":"read the note"}`
	type block struct {
		Type      string          `json:"type"`
		Thinking  string          `json:"thinking,omitempty"`
		Signature string          `json:"signature,omitempty"`
		ID        string          `json:"id,omitempty"`
		Name      string          `json:"name,omitempty"`
		Input     json.RawMessage `json:"input,omitempty"`
		Text      string          `json:"text,omitempty"`
	}
	type message struct {
		Content    []block `json:"content"`
		StopReason string  `json:"stop_reason"`
	}
	var first message
	require.Equal(t, http.StatusOK, b.whole("/v1/messages", head+`]}`, &first).StatusCode)
	require.Equal(t, "tool_use", first.StopReason)
	require.Len(t, first.Content, 2)
	require.Equal(t, "I read the file.", first.Content[0].Thinking)
	require.JSONEq(t, `{"path":"note.txt"}`, string(first.Content[1].Input))

	answer, err := json.Marshal(first.Content)
	require.NoError(t, err)
	second := head + `,{"role":"assistant","content":` + string(answer) + `},{"role":"user","content":[{"type":"tool_result","tool_use_id":"` + first.Content[1].ID + `","content":"ten past two"}]}`
	var last message
	require.Equal(t, http.StatusOK, b.whole("/v1/messages", second+`]}`, &last).StatusCode)
	require.Equal(t, "end_turn", last.StopReason)
	require.Equal(t, "It says: ten past two.", last.Content[0].Text)

	const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
	for name, body := range map[string]string{
		"tools": head + `]}`, "a result": second + `]}`,
		"an image": `{"model":"coder","max_tokens":100,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + png + `"}}]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := box{t, d}
			var counted, answered anthropicMessage
			require.Equal(t, http.StatusOK, b.whole("/v1/messages/count_tokens", body, &counted).StatusCode)
			require.Equal(t, http.StatusOK, b.whole("/v1/messages", body, &answered).StatusCode)
			require.Positive(t, counted.Input)
			require.Equal(t, answered.Usage.Input+answered.Usage.Cached, counted.Input)
		})
	}

	t.Run("streamed", func(t *testing.T) {
		_, all := box{t, d}.events(head+`],"stream":true}`, nil)
		names := make([]string, 0, len(all))
		for _, e := range all {
			names = append(names, cmp.Or(e.Delta.Type, e.Type))
		}
		require.Equal(t, []string{"message_start", "content_block_start", "thinking_delta", "signature_delta", "content_block_stop", "content_block_start", "input_json_delta", "content_block_stop", "message_delta", "message_stop"}, slices.Compact(names))
	})
}
