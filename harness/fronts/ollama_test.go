// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"bufio"
	"context"
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

// The bundled model serves four pools: one as fast as it can, one at a reader's pace, one that embeds, and one that is loaded on demand.
const ollamaConfig = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
policy: {outbound: "off"}
aliases: {gemma3: haiku}
pools:
  - {id: fast, model: {id: haiku, ref: "file:%[1]s"}, device: cpu}
  - {id: slow, model: {id: slow-haiku, ref: "file:%[1]s"}, device: cpu, pace: 20}
  - {id: vectors, model: {id: vectors, ref: "file:%[1]s"}, device: cpu, workload: embedding}
  - {id: lazy, model: {id: lazy, ref: "file:%[1]s"}, device: cpu, lifecycle: on_demand}
`

// line is a line of any answer of this dialect.
type line struct {
	Model   string
	Message struct {
		Role, Content string
	}
	Response   string
	Done       bool
	DoneReason string `json:"done_reason"`
	Total      int64  `json:"total_duration"`
	Load       int64  `json:"load_duration"`
	Prompt     int    `json:"prompt_eval_count"`
	PromptTime int64  `json:"prompt_eval_duration"`
	Count      int    `json:"eval_count"`
	Time       int64  `json:"eval_duration"`
	Receipt    map[string]string
	Error      string
}

// lines reads a stream of lines to its end, and returns the text and the last one. Each is called with the number of lines so far.
func (b box) lines(path, body string, each func(n int)) (text string, last line) {
	b.Helper()
	in := bufio.NewScanner(b.ask(b.Context(), path, body).Body)
	for n := 1; in.Scan(); n++ {
		require.False(b, last.Done, "nothing follows the last line")
		last = line{}
		require.NoError(b, json.Unmarshal(in.Bytes(), &last))
		require.Empty(b, last.Error)
		text += last.Message.Content + last.Response
		if each != nil {
			each(n)
		}
	}
	require.NoError(b, in.Err())
	require.True(b, last.Done)
	return text, last
}

// inMemory lists what /api/ps says.
func (b box) inMemory() (names []string) {
	b.Helper()
	var ps struct {
		Models []struct{ Name string }
	}
	b.get("/api/ps", &ps)
	for _, m := range ps.Models {
		names = append(names, m.Name)
	}
	return names
}

func (b box) get(path string, into any) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, b.d.URL+path, http.NoBody)
	require.NoError(b, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(b, err)
	defer res.Body.Close()
	require.Equal(b, http.StatusOK, res.StatusCode)
	require.NoError(b, json.NewDecoder(res.Body).Decode(into))
}

// Ollama's dialect, as its clients use it.
//
// LO-402, LO-404, LO-405, LO-419, LO-424, LO-425
func TestOllama(t *testing.T) {
	document, err := dialect.LoadOllama()
	require.NoError(t, err)
	held(t, document.Check)
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, ollamaConfig, lab.Model), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
	require.NoError(t, err)
	b := box{t, d}
	b.idle()
	const ask = `"options":{"seed":7,"temperature":0.8,"num_ctx":131072}`
	chat := func(model, more string) string {
		return `{"model":"` + model + `","messages":[{"role":"user","content":"` + question + `"}],` + ask + more + `}`
	}

	t.Run("a chat, whole and streamed, and a completion, are the same bytes", func(t *testing.T) {
		b := box{t, d}
		var whole line
		res := b.whole("/api/chat", chat("haiku", `,"stream":false`), &whole)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.NotEmpty(t, whole.Message.Content)
		require.Equal(t, "stop", whole.DoneReason)
		require.Positive(t, whole.PromptTime)
		require.Positive(t, whole.Time)
		require.Equal(t, whole.Total, whole.Load+whole.PromptTime+whole.Time)
		text, last := b.lines("/api/chat", chat("gemma3:latest", ""), nil)
		require.Equal(t, whole.Message.Content, text)
		require.Equal(t, "gemma3:latest", last.Model)
		require.Equal(t, whole.Prompt, last.Prompt)
		require.Equal(t, whole.Count, last.Count)
		require.Equal(t, res.Header.Get("X-Receipt-Transcript-Sha256"), last.Receipt["Transcript-Sha256"])
		text, _ = b.lines("/api/generate", `{"model":"haiku","prompt":"`+question+`",`+ask+`}`, nil)
		require.Equal(t, whole.Message.Content, text)
		text, last = b.lines("/api/generate", `{"model":"haiku","prompt":"`+question+`","raw":true,"options":{"seed":7,"temperature":0.8,"num_predict":4}}`, nil)
		require.True(t, strings.HasPrefix(whole.Message.Content, text))
		require.Equal(t, "length", last.DoneReason)
	})
	t.Run("a worker that is killed in mid-answer is not noticed", func(t *testing.T) {
		b := box{t, d}
		want, _ := b.lines("/api/chat", chat("slow-haiku", ""), nil)
		killed := 0
		text, _ := b.lines("/api/chat", chat("slow-haiku", ""), func(n int) {
			for _, w := range d.Workers() {
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
	t.Run("embeddings, new and old", func(t *testing.T) {
		b := box{t, d}
		var now struct{ Embeddings [][]float32 }
		var old struct{ Embedding []float32 }
		b.whole("/api/embed", `{"model":"vectors","input":["tea","frogs"]}`, &now)
		b.whole("/api/embeddings", `{"model":"vectors","prompt":"tea"}`, &old)
		require.Len(t, now.Embeddings, 2)
		require.Equal(t, now.Embeddings[0], old.Embedding)
	})
	t.Run("models are shown", func(t *testing.T) {
		b := box{t, d}
		var tags struct {
			Models []struct {
				Name, Digest string
				Details      struct{ Family string }
			}
		}
		b.get("/api/tags", &tags)
		require.Len(t, tags.Models, 5)
		for _, m := range tags.Models {
			require.Len(t, m.Digest, 64, m.Name)
			require.Equal(t, "llama", m.Details.Family)
		}
		var shown struct {
			Info         map[string]any `json:"model_info"`
			Capabilities []string
			Template     string
		}
		b.whole("/api/show", `{"model":"gemma3"}`, &shown)
		require.InDelta(t, 256, shown.Info["llama.context_length"], 0)
		require.Contains(t, shown.Capabilities, "completion")
		require.Contains(t, shown.Template, "messages")
	})
	t.Run("a model is loaded and unloaded", func(t *testing.T) {
		b := box{t, d}
		gone := func() error {
			if names := b.inMemory(); len(names) != 3 {
				return fmt.Errorf("in memory are %v", names)
			}
			return nil
		}
		require.NoError(t, gone())
		var done line
		b.whole("/api/generate", `{"model":"lazy"}`, &done)
		require.Equal(t, "load", done.DoneReason)
		require.Contains(t, b.inMemory(), "lazy")
		b.whole("/api/chat", `{"model":"lazy","keep_alive":0}`, &done)
		require.Equal(t, "unload", done.DoneReason)
		require.NoError(t, watch.Poll(t.Context(), "the model to go", gone))
		_, last := b.lines("/api/chat", chat("lazy", `,"keep_alive":0`), nil)
		require.Equal(t, "stop", last.DoneReason)
		require.NoError(t, watch.Poll(t.Context(), "the model to go again", gone))
	})
	t.Run("refusals", func(t *testing.T) {
		b := box{t, d}
		for _, c := range []struct {
			path, body string
			status     int
			says       string
		}{
			{"/api/chat", chat("llama3.2", ""), http.StatusNotFound, "model 'llama3.2' not found"},
			{"/api/chat", chat("haiku", `,"top_logprobs":1`), http.StatusBadRequest, "`top_logprobs`"},
			{"/api/chat", strings.Replace(chat("haiku", ""), question, strings.Repeat("frog ", 400), 1), http.StatusBadRequest, "the input length exceeds the context length"},
			{"/api/pull", `{"model":"hf:org/repo/x.gguf"}`, http.StatusForbidden, "outbound off"},
			{"/api/generate", `{"model":"haiku","keep_alive":0}`, http.StatusConflict, "pinned"},
			{"/api/copy", `{"source":"haiku","destination":"x"}`, http.StatusNotImplemented, "aliases"},
		} {
			var got line
			res := b.whole(c.path, c.body, &got)
			require.Equal(t, c.status, res.StatusCode)
			require.Contains(t, got.Error, c.says)
		}
	})
	t.Run("a client that goes cancels its task", func(t *testing.T) {
		b := box{t, d}
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		res := b.ask(ctx, "/api/chat", chat("slow-haiku", ""))
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
