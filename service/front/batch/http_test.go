// SPDX-License-Identifier: GPL-3.0-or-later

package batch_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// served is a rig whose fronts are served, with tasks that take no time.
func served(t *testing.T) (*rig, string) {
	r := newRig(t)
	r.line.takes = 0
	r.start()
	t.Cleanup(r.stop)
	return r, r.serve()
}

// field is a part of a form.
type field struct{ name, file, value string }

func form(t *testing.T, fields ...field) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range fields {
		var part io.Writer
		var err error
		if f.file != "" {
			part, err = w.CreateFormFile(f.name, f.file)
		} else {
			part, err = w.CreateFormField(f.name)
		}
		require.NoError(t, err)
		_, err = io.WriteString(part, f.value)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return w.FormDataContentType(), b.Bytes()
}

func send(t *testing.T, url, contentType, encoding string, body io.Reader) (int, object) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/files", body)
	require.NoError(t, err)
	q.Header.Set("Content-Type", contentType)
	if encoding != "" {
		q.Header.Set("Content-Encoding", encoding)
	}
	res, err := http.DefaultClient.Do(q)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	var out object
	require.NoError(t, json.NewDecoder(res.Body).Decode(&out))
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	return res.StatusCode, out
}

// upload sends a file for a batch, and returns its id.
func upload(t *testing.T, url, content string) string {
	t.Helper()
	contentType, body := form(t, field{"file", "in.jsonl", content}, field{"purpose", "", "batch"})
	status, out := send(t, url, contentType, "", bytes.NewReader(body))
	require.Equal(t, http.StatusOK, status, out)
	return out["id"].(string)
}

func createBatch(t *testing.T, url, file, endpoint string) string {
	t.Helper()
	status, b := call(t, http.MethodPost, url+"/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":%q,"completion_window":"24h","metadata":{"of":"me"}}`, file, endpoint))
	require.Equal(t, http.StatusOK, status, b)
	require.Equal(t, "validating", b["status"])
	require.Equal(t, object{"of": "me"}, object(b["metadata"].(map[string]any)))
	return b["id"].(string)
}

// until polls until what an object at a URL says is so.
func until(t *testing.T, url string, so func(object) bool) object {
	t.Helper()
	for {
		status, b := call(t, http.MethodGet, url, "")
		require.Equal(t, http.StatusOK, status, b)
		if so(b) {
			return b
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func status(want string) func(object) bool {
	return func(b object) bool { return b["status"] == want }
}

// content are the lines of a file of results, by the custom_id.
func content(t *testing.T, url string) map[string]object {
	t.Helper()
	res := exchangetest.Do(t, http.MethodGet, url, "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	out := map[string]object{}
	for line := range strings.Lines(exchangetest.Read(t, res.Body)) {
		var o object
		require.NoError(t, json.Unmarshal([]byte(line), &o), line)
		require.NotContains(t, out, o["custom_id"])
		out[o["custom_id"].(string)] = o
	}
	return out
}

// LO-436, LO-439: a batch from its file to its results, in OpenAI's words.
func TestABatchInOpenAIsWords(t *testing.T) {
	r, url := served(t)
	r.line.ends = func(q task.Request) *task.Error {
		if q.Prompt == "p3" {
			return task.Errorf(task.DecodeTimeout, "too slow")
		}
		return nil
	}
	file := upload(t, url, completions(4)+`{"custom_id":"bad","method":"POST","url":"/v1/completions","body":{"model":"m","prompt":"x","best_of":9}}`+"\nno JSON")
	id := createBatch(t, url, file, "/v1/completions")
	b := until(t, url+"/v1/batches/"+id, status("completed"))
	require.Equal(t, map[string]any{"total": 6.0, "completed": 3.0, "failed": 3.0}, b["request_counts"])
	require.Equal(t, file, b["input_file_id"])
	for _, at := range []string{"created_at", "in_progress_at", "finalizing_at", "completed_at", "expires_at"} {
		require.NotZero(t, b[at], at)
	}
	require.NotContains(t, b, "cancelling_at")

	out := content(t, url+"/v1/files/"+b["output_file_id"].(string)+"/content")
	require.Equal(t, []string{"c1", "c2", "c4"}, keys(out))
	response := out["c2"]["response"].(map[string]any)
	require.InEpsilon(t, 200, response["status_code"], 0)
	require.Equal(t, id+"-2", response["request_id"])
	answer := response["body"].(map[string]any)
	require.Equal(t, "cmpl-"+id+"-2", answer["id"])
	require.Equal(t, "re: p2", answer["choices"].([]any)[0].(map[string]any)["text"])
	require.Equal(t, "m", answer["model"])

	failed := content(t, url+"/v1/files/"+b["error_file_id"].(string)+"/content")
	require.Equal(t, []string{"", "bad", "c3"}, keys(failed))
	require.Equal(t, "invalid_json_line", failed[""]["error"].(map[string]any)["code"])
	require.InEpsilon(t, 400, failed["bad"]["response"].(map[string]any)["status_code"], 0)
	require.Contains(t, fmt.Sprint(failed["bad"]), "best_of")
	require.Contains(t, fmt.Sprint(failed["c3"]), "too slow")

	code, view := call(t, http.MethodGet, url+"/v1/files/"+b["output_file_id"].(string), "")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "batch_output", view["purpose"])
	res := exchangetest.Do(t, http.MethodGet, url+"/v1/files/"+b["output_file_id"].(string)+"/content", "")
	require.InEpsilon(t, len(exchangetest.Read(t, res.Body)), view["bytes"], 0)

	code, _ = call(t, http.MethodDelete, url+"/v1/files/"+file, "")
	require.Equal(t, http.StatusOK, code)
	require.Len(t, content(t, url+"/v1/files/"+b["output_file_id"].(string)+"/content"), 3, "results need no input")
	require.NoError(t, r.l.Delete(t.Context(), id+"-1", time.Now()))
	gone := content(t, url+"/v1/files/"+b["output_file_id"].(string)+"/content")["c1"]
	require.Equal(t, "deleted", gone["error"].(map[string]any)["code"])
	code, _ = call(t, http.MethodDelete, url+"/v1/files/"+b["output_file_id"].(string), "")
	require.Equal(t, http.StatusOK, code)
	record, _, err := r.l.Get(t.Context(), id+"-2")
	require.NoError(t, err)
	require.NotNil(t, record.Deleted)
	record, _, err = r.l.Get(t.Context(), id+"-3")
	require.NoError(t, err)
	require.Nil(t, record.Deleted)
	code, _ = call(t, http.MethodGet, url+"/v1/files/"+b["output_file_id"].(string), "")
	require.Equal(t, http.StatusNotFound, code)
	_, b = call(t, http.MethodGet, url+"/v1/batches/"+id, "")
	require.NotContains(t, b, "output_file_id")
	require.Contains(t, b, "error_file_id")
}

// LO-437, LO-439: the answers of each endpoint are those that its own path would have given.
func TestTheAnswersOfEachEndpoint(t *testing.T) {
	r, url := served(t)
	r.line.ends = nil
	for endpoint, c := range map[string]struct{ body, says string }{
		"/v1/chat/completions": {`{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}`, `"object":"chat.completion"`},
		"/v1/completions":      {`{"model":"m","prompt":"hi"}`, `"object":"text_completion"`},
		"/v1/responses":        {`{"model":"m","input":"hi","instructions":"be kind","metadata":{"a":"b"},"store":false}`, `"instructions":"be kind"`},
	} {
		file := upload(t, url, fmt.Sprintf(`{"custom_id":"a","method":"POST","url":%q,"body":%s}`, endpoint, c.body))
		id := createBatch(t, url, file, endpoint)
		b := until(t, url+"/v1/batches/"+id, status("completed"))
		out := content(t, url+"/v1/files/"+b["output_file_id"].(string)+"/content")["a"]
		text, err := json.Marshal(out["response"])
		require.NoError(t, err)
		require.Contains(t, string(text), c.says)
		require.Contains(t, string(text), "re: ")
		require.Contains(t, string(text), id+"-1")
	}
}

// LO-436: what cannot be a batch is refused by what is wrong.
func TestBadBatches(t *testing.T) {
	r, url := served(t)
	r.line.refuse = func(task.Request) error { return task.Errorf(task.PoolUnready, "loading").Retry(time.Minute) }
	file := upload(t, url, completions(1))
	for body, want := range map[string][2]any{
		`{`: {400, nil},
		`{"endpoint":"/v1/completions","completion_window":"24h"}`:                                                                                  {400, "input_file_id"},
		`{"input_file_id":"file-x","endpoint":"/v1/completions","completion_window":"24h"}`:                                                         {404, nil},
		`{"input_file_id":"` + file + `","endpoint":"/v1/rerank","completion_window":"24h"}`:                                                        {400, "endpoint"},
		`{"input_file_id":"` + file + `","endpoint":"/v1/completions"}`:                                                                             {400, "completion_window"},
		`{"input_file_id":"` + file + `","endpoint":"/v1/completions","completion_window":"31d"}`:                                                   {400, "completion_window"},
		`{"input_file_id":"` + file + `","endpoint":"/v1/completions","completion_window":"-1h"}`:                                                   {400, "completion_window"},
		`{"input_file_id":7,"endpoint":"/v1/completions","completion_window":"24h"}`:                                                                {400, "input_file_id"},
		`{"input_file_id":"` + file + `","endpoint":"/v1/completions","completion_window":"24h","metadata":{"a":1}}`:                                {400, "metadata"},
		`{"input_file_id":"` + file + `","endpoint":"/v1/completions","completion_window":"24h","metadata":{"` + strings.Repeat("k", 65) + `":""}}`: {400, "metadata"},
	} {
		code, out := call(t, http.MethodPost, url+"/v1/batches", body)
		require.Equal(t, want[0], code, "%s: %v", body, out)
		require.Equal(t, want[1], out["error"].(map[string]any)["param"], body)
	}
	for _, path := range []string{"/v1/batches/batch_x", "/v1/batches/x/y/z"} {
		code, _ := call(t, http.MethodGet, url+path, "")
		require.Equal(t, http.StatusNotFound, code)
	}
	code, _ := call(t, http.MethodPost, url+"/v1/batches/batch_x/cancel", "")
	require.Equal(t, http.StatusNotFound, code)
	code, _ = call(t, http.MethodGet, url+"/v1/batches?after=batch_x", "")
	require.Equal(t, http.StatusNotFound, code)

	id := createBatch(t, url, file, "/v1/completions")
	until(t, url+"/v1/batches/"+id, status("in_progress"))
	code, out := call(t, http.MethodDelete, url+"/v1/files/"+file, "")
	require.Equal(t, http.StatusConflict, code)
	require.Contains(t, fmt.Sprint(out), id)
	code, out = call(t, http.MethodPost, url+"/v1/batches/"+id+"/cancel", "{}")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, []any{"cancelling", "cancelled"}, out["status"])
	b := until(t, url+"/v1/batches/"+id, status("cancelled"))
	require.NotContains(t, b, "output_file_id")
	require.Equal(t, "batch_cancelled", content(t, url+"/v1/files/"+b["error_file_id"].(string)+"/content")["c1"]["error"].(map[string]any)["code"])
	code, out = call(t, http.MethodPost, url+"/v1/batches", `{"input_file_id":"`+b["error_file_id"].(string)+`","endpoint":"/v1/completions","completion_window":"24h"}`)
	require.Equal(t, http.StatusBadRequest, code)
	require.Contains(t, fmt.Sprint(out), "batch_output")

	empty := createBatch(t, url, upload(t, url, ""), "/v1/completions")
	b = until(t, url+"/v1/batches/"+empty, status("failed"))
	require.Contains(t, fmt.Sprint(b["errors"]), "empty_file")
	require.NotZero(t, b["failed_at"])
	code, list := call(t, http.MethodGet, url+"/v1/batches?limit=1", "")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, empty, list["first_id"])
	require.Equal(t, true, list["has_more"])
	code, list = call(t, http.MethodGet, url+"/v1/batches?after="+empty, "")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, id, list["last_id"])
}

// messages is the body of a message batch whose requests have these ids.
func messages(ids ...string) string {
	var all []string
	for _, id := range ids {
		all = append(all, fmt.Sprintf(`{"custom_id":%q,"params":{"model":"m","max_tokens":5,"messages":[{"role":"user","content":%q}]}}`, id, "ask "+id))
	}
	return `{"ignored":[1],"requests": [` + strings.Join(all, ", ") + `], "more":{}}`
}

// LO-440: message batches in Anthropic's words.
func TestMessageBatches(t *testing.T) {
	r, url := served(t)
	at := url + "/v1/messages/batches"
	body := strings.Replace(messages("a", "b", "c"), `"content":"ask b"`, `"content":7`, 1)
	code, b := call(t, http.MethodPost, at, body)
	require.Equal(t, http.StatusOK, code, b)
	id := b["id"].(string)
	require.Equal(t, "in_progress", b["processing_status"])
	require.InEpsilon(t, 3, b["request_counts"].(map[string]any)["processing"], 0)
	require.Nil(t, b["results_url"])
	b = until(t, at+"/"+id, func(b object) bool { return b["processing_status"] == "ended" })
	require.Equal(t, map[string]any{"processing": 0.0, "succeeded": 2.0, "errored": 1.0, "canceled": 0.0, "expired": 0.0}, b["request_counts"])
	require.Equal(t, at+"/"+id+"/results", b["results_url"])
	out := content(t, b["results_url"].(string))
	require.Equal(t, []string{"a", "b", "c"}, keys(out))
	require.Equal(t, "succeeded", out["a"]["result"].(map[string]any)["type"])
	require.Contains(t, fmt.Sprint(out["c"]), "msg_"+id+"-3")
	require.Equal(t, "errored", out["b"]["result"].(map[string]any)["type"])

	code, second := call(t, http.MethodPost, at, messages("x"))
	require.Equal(t, http.StatusOK, code)
	until(t, at+"/"+second["id"].(string), func(b object) bool { return b["processing_status"] == "ended" })
	_, list := call(t, http.MethodGet, at+"?limit=1", "")
	require.Equal(t, []any{second["id"], true}, []any{list["first_id"], list["has_more"]})
	_, list = call(t, http.MethodGet, at+"?before_id="+id, "")
	require.Equal(t, second["id"], list["last_id"])
	_, list = call(t, http.MethodGet, at+"?after_id="+second["id"].(string), "")
	require.Equal(t, []any{id, false}, []any{list["first_id"], list["has_more"]})

	code, _ = call(t, http.MethodPost, at+"/"+id+"/cancel", "")
	require.Equal(t, http.StatusConflict, code)
	require.Len(t, r.store.files, 2)
	code, gone := call(t, http.MethodDelete, at+"/"+id, "")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, object{"id": id, "type": "message_batch_deleted"}, gone)
	require.Len(t, r.store.files, 1, "its requests are gone")
	record, _, err := r.l.Get(t.Context(), id+"-1")
	require.NoError(t, err)
	require.NotNil(t, record.Deleted, "and so are its texts")
	for _, path := range []string{"/" + id, "/" + id + "/results", "/msgbatch_x", "/" + second["id"].(string) + "/more"} {
		code, _ = call(t, http.MethodGet, at+path, "")
		require.Equal(t, http.StatusNotFound, code)
	}
	code, _ = call(t, http.MethodGet, url+"/v1/batches/"+second["id"].(string), "")
	require.Equal(t, http.StatusNotFound, code, "it is no batch of the other dialect")
}

// LO-440: what is canceled, and what is asked before its time.
func TestAMessageBatchIsCanceled(t *testing.T) {
	r, url := served(t)
	r.line.set(func() { r.line.takes = time.Hour })
	at := url + "/v1/messages/batches"
	_, b := call(t, http.MethodPost, at, messages("a", "b", "c", "d", "e"))
	id := b["id"].(string)
	for len(r.line.accepted()) < 3 {
		time.Sleep(time.Millisecond)
	}
	for _, early := range []struct{ method, path string }{{http.MethodGet, "/" + id + "/results"}, {http.MethodDelete, "/" + id}} {
		code, out := call(t, early.method, at+early.path, "")
		require.Equal(t, http.StatusConflict, code, out)
	}
	code, b := call(t, http.MethodPost, at+"/"+id+"/cancel", "")
	require.Equal(t, http.StatusOK, code)
	require.NotNil(t, b["cancel_initiated_at"])
	b = until(t, at+"/"+id, func(b object) bool { return b["processing_status"] == "ended" })
	require.InEpsilon(t, 5, b["request_counts"].(map[string]any)["canceled"], 0)
	for _, one := range content(t, b["results_url"].(string)) {
		require.Equal(t, map[string]any{"type": "canceled"}, one["result"])
	}
}

// LO-440: a body that is no message batch is refused, and nothing of it is left.
func TestBadMessageBatches(t *testing.T) {
	r, url := served(t)
	large := `{"requests":[{"custom_id":"a","params":{"x":"` + strings.Repeat("x", 40_000) + `"}}]}`
	for body, code := range map[string]int{
		``: 400, `[]`: 400, `{}`: 400, `{"requests":{}}`: 400, `{"requests":[]}`: 400, `{"requests":[`: 400, `{"requests":[{"custom_id":"a"`: 400, `{"requests":[7]}`: 400,
		`{"requests":[{"params":{}}]}`: 400, `{"requests":[{"custom_id":"a b","params":{}}]}`: 400,
		messages("a", "a"): 400, messages("a") + "x": 400, messages("a") + messages("b"): 400, `{"requests":[],"requests":[]}`: 400,
		messages(strings.Repeat("a", 65)): 400, large: 413, strings.Repeat(" ", 200_000): 413,
	} {
		got, out := call(t, http.MethodPost, url+"/v1/messages/batches", body)
		require.Equal(t, code, got, "%.80s: %v", body, out)
		require.Equal(t, "error", out["type"])
		require.Empty(t, r.store.files)
	}
	require.Empty(t, must(r.l.Batches(t.Context(), task.BatchFilter{})))
	for _, query := range []string{"?limit=0", "?after_id=x", "?before_id=x"} {
		got, _ := call(t, http.MethodGet, url+"/v1/messages/batches"+query, "")
		require.Contains(t, []int{400, 404}, got)
	}
}
