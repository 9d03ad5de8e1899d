// SPDX-License-Identifier: GPL-3.0-or-later

package fronts_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// A pinned server of speech with a place for one, an on-demand one that draws, and a language model.
const studios = `
bind_addr: 127.0.0.1:0
data_dir: state
auth: {optional_on_loopback: true}
limits: {body_bytes: 65536, file_bytes: 4194304}
aliases: {whisper-1: {model: voice}}
pools:
  - id: speech
    engine: command
    model: {id: voice, ref: the voice}
    device: cpu
    memory: 64MiB
    health: /well
    routes: ["/v1/audio/*", /voices]
    queue: {capacity: 1}
    provisioning: {mode: binary, path: %[1]q, args: ["--host", "{host}", "--port", "{port}", "--folder", %[2]q]}
  - id: drawing
    engine: command
    model: {id: pencil, ref: "file:%[4]s"}
    device: cpu
    lifecycle: on_demand
    health: /well
    routes: [/v1/images/generations, /v1/rerank]
    provisioning: {mode: binary, path: %[1]q, args: ["--host={host}", "--port={port}", "--model={model}", "--cards", "{mask}", "--folder", %[2]q]}
  - {id: fast, model: {id: haiku, ref: "file:%[3]s"}, device: cpu}
`

// atelier is a daemon with studios.
type atelier struct {
	box
	folder string
}

func studioed(t *testing.T) atelier {
	t.Helper()
	lab, err := daemon.NewLab(t.Context(), t.TempDir(), "../..", "./harness/studio/cmd/studio")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	file := filepath.Join(lab.Dir, "c.yaml")
	a := atelier{folder: t.TempDir()}
	pencil := filepath.Join(lab.Dir, "pencil.safetensors") // no GGUF file
	require.NoError(t, os.WriteFile(pencil, []byte("a pencil"), 0o600))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, studios, lab.Program("studio"), a.folder, lab.Model, pencil), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: file, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(lab.Dir, nil)}})
	require.NoError(t, err)
	a.box = box{t, d}
	for _, pool := range []string{"speech", "fast"} {
		_, err := d.Idle(t.Context(), pool)
		require.NoError(t, err)
	}
	return a
}

// send sends a request, and returns its answer once that has begun.
func (a atelier) send(ctx context.Context, method, path, kind string, body io.Reader, header ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, a.d.URL+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", kind)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err == nil {
		a.Cleanup(func() { _ = res.Body.Close() })
	}
	return res, err
}

func (a atelier) speech(query, text string) *http.Response {
	a.Helper()
	res, err := a.send(a.Context(), http.MethodPost, "/v1/audio/speech"+query, "application/json", strings.NewReader(`{"model":"voice","input":"`+text+`"}`))
	require.NoError(a, err)
	return res
}

func (a atelier) body(res *http.Response) string {
	a.Helper()
	b, err := io.ReadAll(res.Body)
	require.NoError(a, err)
	return string(b)
}

// live are the tasks that are listed, as their states by their ids.
func (a atelier) live() map[string]string {
	a.Helper()
	data, err := a.d.Client.Get(a.Context(), "/v1/tasks")
	require.NoError(a, err)
	var list struct {
		Tasks []struct {
			ID       string `json:"task_id"`
			State    string `json:"state"`
			Workload string `json:"workload"`
		} `json:"tasks"`
	}
	require.NoError(a, json.Unmarshal(data, &list))
	found := map[string]string{}
	for _, t := range list.Tasks {
		require.Equal(a, "opaque", t.Workload)
		found[t.ID] = t.State
	}
	return found
}

// comes waits until so many tasks are listed.
func (a atelier) comes(n int) (live map[string]string) {
	a.Helper()
	require.NoError(a, watch.Poll(a.Context(), "the tasks", func() error {
		if live = a.live(); len(live) != n {
			return fmt.Errorf("%d are listed", len(live))
		}
		return nil
	}))
	return live
}

// tell has the studios go on that wait, or has them wait: by a file in their folder.
func (a atelier) tell(there bool) {
	a.Helper()
	path := filepath.Join(a.folder, "go")
	if there {
		require.NoError(a, os.WriteFile(path, nil, 0o600))
	} else if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		require.NoError(a, err)
	}
}

// served waits until the studios have noted so many lines, and returns them.
func (a atelier) served(n int) (lines []string) {
	a.Helper()
	require.NoError(a, watch.Poll(a.Context(), "what was served", func() error {
		data, err := os.ReadFile(filepath.Join(a.folder, "served"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return watch.Never(err)
		}
		if lines = strings.Fields(strings.ReplaceAll(string(data), "left ", "left:")); len(lines) < n {
			return fmt.Errorf("%d lines", len(lines))
		}
		return nil
	}))
	return lines
}

func (a atelier) failure(res *http.Response, status int) (e struct{ Message, Type, Code string }) {
	a.Helper()
	text := a.body(res)
	require.Equal(a, status, res.StatusCode, text)
	var in struct {
		Error struct{ Message, Type, Code string } `json:"error"`
	}
	require.NoError(a, json.Unmarshal([]byte(text), &in))
	return in.Error
}

// A real daemon starts real servers that are no engines, and passes them their requests through its line.
//
// LO-466, LO-467, LO-468
func TestServersOfAnyKind(t *testing.T) {
	a := studioed(t)
	t.Run("their answers", a.answers)
	t.Run("the line", a.line)
	t.Run("how a request is ended", a.ends)
	t.Run("a death", a.dies)
	t.Run("what shows of them", a.shows)
	data, err := a.d.Client.Get(t.Context(), "/v1/tasks")
	require.NoError(t, err)
	require.NotContains(t, string(data), "opaque", "nothing is kept")
	code, err := a.d.Stop(syscall.SIGTERM)
	require.NoError(t, err)
	require.Zero(t, code)
}

func (a atelier) answers(t *testing.T) {
	a.T = t
	res := a.speech("", "rain")
	require.Equal(t, "RIFFrain"+strings.Repeat("~", 64), a.body(res))
	for name, value := range map[string]string{"Content-Type": "audio/wav", "X-Durable": "no", "X-Replica-Id": "speech-0", "X-Queue-Position": "0"} {
		require.Equal(t, value, res.Header.Get(name), name)
	}
	require.NotEmpty(t, res.Header.Get("X-Task-Id"))

	// More than is read before the request is in the line, by a name that OpenAI's clients know.
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	require.NoError(t, w.WriteField("model", "whisper-1"))
	part, err := w.CreateFormFile("file", "a.wav")
	require.NoError(t, err)
	_, err = part.Write(bytes.Repeat([]byte("sound"), 200_000))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	whole := form.Bytes()
	res, err = a.send(t.Context(), http.MethodPost, "/v1/audio/transcriptions", w.FormDataContentType(), bytes.NewReader(whole))
	require.NoError(t, err)
	require.JSONEq(t, `{"text":"1000000 bytes of c5540696"}`, a.body(res))

	res, err = a.send(t.Context(), http.MethodGet, "/voices", "", http.NoBody)
	require.NoError(t, err)
	require.JSONEq(t, `{"voices":["low","high"]}`, a.body(res))

	// It is loaded by its first request, and by the only name with that route.
	res, err = a.send(t.Context(), http.MethodPost, "/v1/images/generations", "application/json", strings.NewReader(`{"prompt":"a frog"}`))
	require.NoError(t, err)
	require.Equal(t, "\x89PNGa frog"+strings.Repeat("#", 1<<16), a.body(res))
	require.Equal(t, "drawing-0", res.Header.Get("X-Replica-Id"))
	res, err = a.send(t.Context(), http.MethodPost, "/v1/rerank", "application/json", strings.NewReader(`{"model":"pencil","query":"q","documents":["d"]}`))
	require.NoError(t, err)
	require.Contains(t, a.body(res), "relevance_score")
	res, err = a.send(t.Context(), http.MethodPost, "/v1/rerank", "application/json", strings.NewReader(`{"model":"haiku","query":"q","documents":["d"]}`))
	require.NoError(t, err)
	require.Contains(t, a.failure(res, http.StatusBadRequest).Message, "serves completion tasks, not rerank", "it is a task, as ever")

	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"/v1/audio/speech", `{"model":"nobody"}`, 404, "no pool serves the model"},
		{"/v1/audio/speech", `{"model":"haiku"}`, 400, "takes no requests for /v1/audio/speech"},
		{"/v1/images/edits", `{"model":"pencil"}`, 400, "takes no requests for /v1/images/edits"},
		{"/v1/images/edits", `{}`, 404, "name the path under `routes`"},
		{"/v1/audio/speech", `no JSON`, 422, ""},
	} {
		res, err := a.send(t.Context(), http.MethodPost, c.path, "application/json", strings.NewReader(c.body))
		require.NoError(t, err)
		if c.says == "" { // it is the server's own refusal
			require.Equal(t, c.status, res.StatusCode)
			continue
		}
		require.Contains(t, a.failure(res, c.status).Message, c.says)
	}
	res, err = a.send(t.Context(), http.MethodPost, "/v1/tasks", "application/json", strings.NewReader(`{"model_ref":"voice","prompt":"x"}`))
	require.NoError(t, err)
	require.Contains(t, a.body(res), "serves opaque tasks")
}

// line fills the queue of the pool, which has one slot and one place.
func (a atelier) line(t *testing.T) {
	a.T = t
	a.tell(false)
	before := len(a.served(0))
	answers := make(chan string, 3)
	ask := func(text string) {
		res := a.speech("?wait=half", text)
		answers <- res.Header.Get("X-Queue-Position") + a.body(res)[4:8]
	}
	go ask("aaaa")
	for {
		if live := a.comes(1); slices.Contains([]string{"running"}, onlyOf(live)) {
			break
		}
	}
	go ask("bbbb")
	a.comes(2)
	res := a.speech("", "cccc")
	e := a.failure(res, http.StatusTooManyRequests)
	require.Equal(t, "overloaded", e.Code)
	require.Contains(t, e.Message, "the queue of pool 'speech' is full: 1 tasks wait")
	require.NotEmpty(t, res.Header.Get("Retry-After"))
	require.NotEmpty(t, res.Header.Get("X-Backoff-Ms"))
	a.tell(true)
	require.ElementsMatch(t, []string{"0aaaa", "0bbbb"}, []string{<-answers, <-answers})
	require.Len(t, a.served(before+2), before+2)
}

func onlyOf(live map[string]string) string {
	for _, state := range live {
		return state
	}
	return ""
}

// ends ends requests by a cancel, by a deletion, by the client's going, and by their deadline, in their slot and in the queue.
func (a atelier) ends(t *testing.T) {
	a.T = t
	_, err := a.d.Idle(t.Context(), "speech")
	require.NoError(t, err)
	for _, how := range []string{"cancel", "delete", "leave", "deadline"} {
		a.tell(false)
		before := len(a.served(0))
		ctx, leave := context.WithCancel(t.Context())
		header := []string{}
		if how == "deadline" {
			header = append(header, "X-Deadline-Ms", "1000")
		}
		res, err := a.send(ctx, http.MethodPost, "/v1/audio/speech?wait=half", "application/json", strings.NewReader(`{"input":"rain"}`), header...)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		id := res.Header.Get("X-Task-Id")
		require.Equal(t, "running", a.live()[id])
		switch how {
		case "cancel":
			_, err = a.d.Client.Post(t.Context(), "/v1/tasks/"+id+"/cancel", nil, http.StatusOK)
		case "delete":
			err = a.remove(id)
		case "leave":
			leave()
		}
		require.NoError(t, err)
		_, err = io.ReadAll(res.Body)
		require.Error(t, err, "the connection breaks off")
		leave()
		a.comes(0)
		require.Equal(t, "left:/v1/audio/speech", a.served(before + 1)[before], "the server's work is ended")
		_, err = a.d.Client.Get(t.Context(), "/v1/tasks/"+id)
		require.ErrorContains(t, err, "NOT_FOUND")
	}
}

func (a atelier) remove(id string) error {
	res, err := a.send(a.Context(), http.MethodDelete, "/v1/tasks/"+id, "", http.NoBody)
	if err == nil && res.StatusCode != http.StatusNoContent {
		err = errors.New(res.Status)
	}
	return err
}

// dies kills the server, before its answer and in the middle of it.
func (a atelier) dies(t *testing.T) {
	a.T = t
	res := a.speech("?die=begin", "rain")
	e := a.failure(res, http.StatusServiceUnavailable)
	require.Equal(t, "server_error", e.Type)
	require.Contains(t, e.Message, "send the request again")
	require.NotEmpty(t, res.Header.Get("Retry-After"))
	require.NotEqual(t, "false", res.Header.Get("X-Should-Retry"))
	a.restarted(1)
	a.tell(false)
	res = a.speech("?wait=half&die=half", "rain")
	require.Equal(t, http.StatusOK, res.StatusCode)
	a.tell(true)
	_, err := io.ReadAll(res.Body)
	require.Error(t, err)
	require.Contains(t, a.restarted(2), "the worker process ended (exit status 3); it said: studio: panic: asked to die")
	require.Contains(t, a.body(a.speech("", "rain")), "RIFFrain", "another worker serves")
}

// restarted waits until the pool's worker is another one, for the so manieth time, and returns its health.
func (a atelier) restarted(n int) (text string) {
	a.Helper()
	require.NoError(a, watch.Poll(a.Context(), "the next worker", func() error {
		data, err := a.d.Client.Get(a.Context(), "/v1/pools/speech/health")
		if err != nil {
			return watch.Never(err)
		}
		text = string(data)
		if !strings.Contains(text, fmt.Sprintf(`"state":"ready","restarts":%d`, n)) {
			return errors.New(text)
		}
		return nil
	}))
	return text
}

func (a atelier) shows(t *testing.T) {
	a.T = t
	data, err := a.d.Client.Get(t.Context(), "/v1/capabilities")
	require.NoError(t, err)
	var c struct {
		Pools []struct {
			ID, Engine, Workload string
			Routes               []string
		}
	}
	require.NoError(t, json.Unmarshal(data, &c))
	require.Equal(t, []string{"/v1/audio/*", "/voices"}, c.Pools[0].Routes)
	require.Equal(t, []string{"command", "opaque"}, []string{c.Pools[0].Engine, c.Pools[0].Workload})
	require.Nil(t, c.Pools[2].Routes)
	metrics, err := a.d.Client.Get(t.Context(), "/metrics")
	require.NoError(t, err)
	for _, line := range []string{
		`llorch_tasks_finished_total{outcome="canceled",pool_id="speech"} 3`, `llorch_worker_restarts_total{pool_id="speech",reason="exited",replica_id="speech-0"} 2`,
		`admission_backpressure_events_total{engine="command",policy="reject"} 1`, `llorch_tasks_finished_total{outcome="completed",pool_id="drawing"} 2`,
	} {
		require.Contains(t, string(metrics), line)
	}
}
