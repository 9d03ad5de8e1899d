// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/dialect"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// The bundled model serves three pools: one as fast as it can, one at a reader's pace, and one that embeds.
const config = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
pools:
  - {id: fast, model: {id: haiku, ref: "file:%[1]s"}, device: cpu}
  - {id: slow, model: {id: slow-haiku, ref: "file:%[1]s"}, device: cpu, pace: 20}
  - {id: vectors, model: {id: vectors, ref: "file:%[1]s"}, device: cpu, workload: embedding}
`

const question = `Write a haiku about tea containing \"ten past two\".\n\n`

// box is a daemon that serves.
type box struct {
	*testing.T

	d *daemon.Daemon
}

func serve(t *testing.T) box {
	t.Helper()
	b := box{t, starter(t)()}
	b.idle()
	return b
}

// starter starts the daemon, as often as it is called.
func starter(t *testing.T) func() *daemon.Daemon {
	t.Helper()
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, config, lab.Model), 0o600))
	return func() *daemon.Daemon {
		d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
		require.NoError(t, err)
		return d
	}
}

func (b box) idle() {
	b.Helper()
	for _, pool := range []string{"fast", "slow", "vectors"} {
		_, err := b.d.Idle(b.Context(), pool)
		require.NoError(b, err)
	}
}

// ask posts a body as an SDK does, with a key that this server does not have.
func (b box) ask(ctx context.Context, path, body string) *http.Response {
	b.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.d.URL+path, strings.NewReader(body))
	require.NoError(b, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer sk-any")
	res, err := http.DefaultClient.Do(r)
	require.NoError(b, err)
	b.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// whole posts a body and returns its answer.
func (b box) whole(path, body string, into any) *http.Response {
	b.Helper()
	res := b.ask(b.Context(), path, body)
	data, err := io.ReadAll(res.Body)
	require.NoError(b, err)
	require.NoError(b, json.Unmarshal(data, into), "%s", data)
	return res
}

func chat(model, more string) string {
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"%s"}],"seed":7,"temperature":0.8,"max_completion_tokens":32000%s}`, model, question, more)
}

type answer struct {
	Choices []struct {
		Message struct{ Role, Content string } `json:"message"`
		Delta   struct{ Role, Content string } `json:"delta"`
		Text    string                         `json:"text"`
		Finish  string                         `json:"finish_reason"`
	} `json:"choices"`
	Usage struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	} `json:"usage"`
	Error struct{ Message, Type, Code string } `json:"error"`
}

type response struct {
	ID, Status string
	Output     []struct {
		Content []struct{ Text string }
	}
	Usage struct {
		Total int `json:"total_tokens"`
	}
}

type responseEvent struct {
	Type     string
	Response response
}

// responded reads a response's stream to its end, and returns its last event. Each is called with the number of events so far.
func (b box) responded(body string, each func(n int)) (last responseEvent) {
	b.Helper()
	in := bufio.NewScanner(b.ask(b.Context(), "/v1/responses", body).Body)
	for n := 0; in.Scan(); {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		last = responseEvent{}
		require.NoError(b, json.Unmarshal([]byte(data), &last))
		if n++; each != nil {
			each(n)
		}
	}
	require.NoError(b, in.Err())
	return last
}

// streamed reads a stream to its end. Each is called with the number of chunks so far.
func (b box) streamed(path, body string, each func(n int)) (text, finish string, usage int) {
	b.Helper()
	in := bufio.NewScanner(b.ask(b.Context(), path, body).Body)
	done := false
	for n := 0; in.Scan(); {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			continue
		}
		if done = data == "[DONE]"; done {
			break
		}
		var c answer
		require.NoError(b, json.Unmarshal([]byte(data), &c))
		require.Empty(b, c.Error.Message)
		if c.Usage.Total > 0 {
			usage = c.Usage.Total
		}
		for _, one := range c.Choices {
			require.Equal(b, n == 0 && strings.Contains(path, "chat"), one.Delta.Role != "", "the first delta has the role")
			text += one.Delta.Content + one.Text
			finish = one.Finish
		}
		if n++; each != nil {
			each(n)
		}
	}
	require.NoError(b, in.Err())
	require.True(b, done, "the stream ends with [DONE]")
	return text, finish, usage
}

// held holds every answer that the test gets by http.DefaultClient against a document.
func held(t *testing.T, check dialect.Check) {
	t.Helper()
	before := http.DefaultClient.Transport
	checked := &dialect.Checked{Next: http.DefaultTransport, Check: check}
	http.DefaultClient.Transport = checked
	t.Cleanup(func() {
		http.DefaultClient.Transport = before
		seen, err := checked.Result()
		require.NoError(t, err)
		require.Positive(t, seen)
	})
}

// likely is a token as chats and responses tell it.
type likely struct {
	Token   string
	Logprob float64
	Bytes   []int
	Top     []likely `json:"top_logprobs"`
}

// spelled is the text that tokens make up.
func spelled(tokens []likely) string {
	var text []byte
	for _, l := range tokens {
		for _, b := range l.Bytes {
			text = append(text, byte(b))
		}
	}
	return string(text)
}

// logprobs asks for the same log probabilities in each form: they are the same, and those of the text.
func (b box) logprobs() {
	b.Helper()
	var whole struct {
		Choices []struct {
			Message  struct{ Content string }
			Logprobs struct{ Content []likely }
		}
	}
	b.whole("/v1/chat/completions", chat("haiku", `,"logprobs":true,"top_logprobs":2`), &whole)
	text, told := whole.Choices[0].Message.Content, whole.Choices[0].Logprobs.Content
	require.Equal(b, text, spelled(told))
	require.Len(b, told[0].Top, 2)
	streamed, _, _ := b.streamed("/v1/chat/completions", chat("haiku", `,"logprobs":true,"top_logprobs":2,"stream":true`), nil)
	require.Equal(b, text, streamed)

	ask := `{"model":"haiku","input":"` + question + `","seed":7,"temperature":0.8,"include":["message.output_text.logprobs"],"top_logprobs":2`
	var response struct {
		ID     string
		Output []struct {
			Content []struct {
				Text     string
				Logprobs []likely
			}
		}
	}
	b.whole("/v1/responses", ask+`}`, &response)
	require.Equal(b, text, response.Output[0].Content[0].Text)
	require.Equal(b, told, response.Output[0].Content[0].Logprobs)
	last := b.responded(ask+`,"stream":true}`, nil)
	require.Equal(b, text, last.Response.Output[0].Content[0].Text)
	again, err := b.d.Client.Get(b.Context(), "/v1/responses/"+response.ID)
	require.NoError(b, err)
	require.NoError(b, json.Unmarshal(again, &response))
	require.Equal(b, told, response.Output[0].Content[0].Logprobs, "it is kept with them")

	var older struct {
		Choices []struct {
			Text     string
			Logprobs struct {
				Tokens  []string
				Told    []float64            `json:"token_logprobs"`
				Top     []map[string]float64 `json:"top_logprobs"`
				Offsets []int                `json:"text_offset"`
			}
		}
	}
	b.whole("/v1/completions", `{"model":"haiku","prompt":"`+question+`","temperature":0,"logprobs":2}`, &older)
	l := older.Choices[0].Logprobs
	require.Equal(b, older.Choices[0].Text, strings.Join(l.Tokens, ""))
	for i, token := range l.Tokens {
		require.Equal(b, strings.Join(l.Tokens[:i], ""), older.Choices[0].Text[:l.Offsets[i]], "the bundled model writes ASCII")
		for _, other := range l.Top[i] {
			require.LessOrEqual(b, other, l.Told[i], "a greedy run takes the likeliest: %q", token)
		}
	}
}

// OpenAI's dialect, as its clients use it.
//
// LO-301, LO-401, LO-402, LO-403, LO-404, LO-405, LO-408, LO-409, LO-418, LO-419, LO-452
func TestOpenAI(t *testing.T) {
	b := serve(t)
	document, err := dialect.LoadOpenAI()
	require.NoError(t, err)
	held(t, document.Check)
	const path = "/v1/chat/completions"
	t.Run("a chat, whole and streamed, is the same bytes", func(t *testing.T) {
		b := box{t, b.d}
		var whole answer
		res := b.whole(path, chat("haiku", ""), &whole)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.NotEmpty(t, whole.Choices[0].Message.Content)
		require.Equal(t, "stop", whole.Choices[0].Finish)
		require.Equal(t, "strict", res.Header.Get("X-Receipt-Determinism"))
		text, finish, usage := b.streamed(path, chat("haiku", `,"stream":true,"stream_options":{"include_usage":true}`), nil)
		require.Equal(t, whole.Choices[0].Message.Content, text)
		require.Equal(t, "stop", finish)
		require.Equal(t, whole.Usage.Total, usage)
		got, err := b.d.Client.Get(t.Context(), "/v1/tasks/"+res.Header.Get("X-Task-Id"))
		require.NoError(t, err)
		require.Contains(t, string(got), res.Header.Get("X-Receipt-Transcript-Sha256"), "the native API has the task")

		// It is asked again by its id alone (LO-301).
		replay, err := b.d.Client.Submit(t.Context(), fmt.Appendf(nil, `{"model_ref":"haiku","replay_of":%q,"seed":7,"params":{"temperature":0.8}}`, res.Header.Get("X-Task-Id")))
		require.NoError(t, err)
		said, err := b.d.Client.Get(t.Context(), "/v1/tasks/"+replay.TaskID+"/stream")
		require.NoError(t, err)
		require.Contains(t, string(said), res.Header.Get("X-Receipt-Transcript-Sha256"))
		require.Contains(t, string(said), res.Header.Get("X-Receipt-Request-Digest"))
	})
	t.Run("a worker that is killed in mid-answer is not noticed", func(t *testing.T) {
		b := box{t, b.d}
		want, _, _ := b.streamed(path, chat("slow-haiku", `,"stream":true`), nil)
		killed := 0
		text, _, _ := b.streamed(path, chat("slow-haiku", `,"stream":true`), func(n int) {
			for _, w := range b.d.Workers() {
				if n == 5 {
					w.Kill()
					killed++
				}
			}
		})
		require.Equal(t, 3, killed)
		require.Equal(t, want, text)
		b.idle()
	})
	t.Run("a completion", func(t *testing.T) {
		text, finish, _ := box{t, b.d}.streamed("/v1/completions", `{"model":"haiku","prompt":"`+question+`","max_tokens":8,"stream":true}`, nil)
		require.NotEmpty(t, text)
		require.Equal(t, "length", finish)
	})
	t.Run("a response, whole and streamed, is what a chat is", func(t *testing.T) {
		b := box{t, b.d}
		ask := `{"model":"haiku","input":"` + question + `","seed":7,"temperature":0.8,"max_output_tokens":32000`
		var chatted answer
		b.whole(path, chat("haiku", ""), &chatted)
		var whole response
		res := b.whole("/v1/responses", ask+`}`, &whole)
		require.Equal(t, "completed", whole.Status)
		require.Equal(t, chatted.Choices[0].Message.Content, whole.Output[0].Content[0].Text)
		require.Equal(t, "resp_"+res.Header.Get("X-Task-Id"), whole.ID)
		last := b.responded(ask+`,"stream":true}`, nil)
		require.Equal(t, "response.completed", last.Type)
		require.Equal(t, whole.Output[0].Content, last.Response.Output[0].Content)
		require.Equal(t, whole.Usage, last.Response.Usage)
		var cut response // how a client loads a model
		b.whole("/v1/responses", `{"model":"haiku","input":"","max_output_tokens":1}`, &cut)
		require.Equal(t, "incomplete", cut.Status)
	})
	t.Run("a response outlives its worker", func(t *testing.T) {
		b := box{t, b.d}
		ask := `{"model":"slow-haiku","input":"` + question + `","seed":7,"temperature":0.8,"stream":true}`
		want := b.responded(ask, nil)
		got := b.responded(ask, func(n int) {
			for _, w := range b.d.Workers() {
				if n == 10 {
					w.Kill()
				}
			}
		})
		require.Equal(t, want.Response.Output[0].Content, got.Response.Output[0].Content)
		b.idle()
	})
	t.Run("log probabilities are the same in every form", func(t *testing.T) { box{t, b.d}.logprobs() })
	t.Run("embeddings are the same as floats and as base64", func(t *testing.T) {
		b := box{t, b.d}
		var floats struct {
			Data []struct{ Embedding []float32 }
		}
		var encoded struct {
			Data []struct{ Embedding string }
		}
		b.whole("/v1/embeddings", `{"model":"vectors","input":["tea","frogs"],"encoding_format":"float"}`, &floats)
		b.whole("/v1/embeddings", `{"model":"vectors","input":["tea","frogs"],"encoding_format":"base64"}`, &encoded)
		require.Len(t, floats.Data, 2)
		raw, err := base64.StdEncoding.DecodeString(encoded.Data[1].Embedding)
		require.NoError(t, err)
		require.Len(t, raw, 4*len(floats.Data[1].Embedding))
	})
	t.Run("refusals", func(t *testing.T) {
		b := box{t, b.d}
		for body, want := range map[string]struct {
			status int
			code   string
			says   string
		}{
			chat("gpt-4o", ""):         {http.StatusNotFound, "model_not_found", "haiku"},
			chat("haiku", `,"n":2`):    {http.StatusBadRequest, "invalid_value", "`n`"},
			chat("haiku", `,"stop":3`): {http.StatusBadRequest, "invalid_value", "`stop`"},
			strings.Replace(chat("haiku", ""), question, strings.Repeat("frog ", 400), 1): {http.StatusBadRequest, "context_length_exceeded", "maximum context length is 256 tokens"},
		} {
			var got answer
			res := b.whole(path, body, &got)
			require.Equal(t, want.status, res.StatusCode)
			require.Equal(t, want.code, got.Error.Code)
			require.Contains(t, got.Error.Message, want.says)
		}
	})
	t.Run("a client that goes cancels its task", func(t *testing.T) {
		b := box{t, b.d}
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		res := b.ask(ctx, path, chat("slow-haiku", `,"stream":true`))
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
