// SPDX-License-Identifier: GPL-3.0-or-later

package batch_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/front/exchange/exchangetest"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-435: files come and go as OpenAI's clients send them.
func TestFiles(t *testing.T) {
	r, url := served(t)
	one := upload(t, url, completions(2))
	two := upload(t, url, completions(2))
	require.NotEqual(t, one, two, "two uploads are two files")
	contentType, body := form(t, field{"expires_after[seconds]", "", "3600"}, field{"purpose", "", "batch"}, field{"file", "other.jsonl", "x"})
	code, out := send(t, url, contentType, "", bytes.NewReader(body))
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "other.jsonl", out["filename"])
	require.InEpsilon(t, 1, out["bytes"], 0)
	other := out["id"].(string)

	code, out = call(t, http.MethodGet, url+"/v1/files/"+one, "")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "batch", out["purpose"])
	res := exchangetest.Do(t, http.MethodGet, url+"/v1/files/"+one+"/content", "")
	require.Equal(t, completions(2), exchangetest.Read(t, res.Body))

	list := func(query string) (ids []string, more any) {
		code, out := call(t, http.MethodGet, url+"/v1/files"+query, "")
		require.Equal(t, http.StatusOK, code, out)
		for _, f := range out["data"].([]any) {
			ids = append(ids, f.(map[string]any)["id"].(string))
		}
		return ids, out["has_more"]
	}
	ids, more := list("")
	require.Equal(t, []string{other, two, one}, ids)
	require.Equal(t, false, more)
	ids, more = list("?limit=1&after=" + other)
	require.Equal(t, []string{two}, ids)
	require.Equal(t, true, more)
	ids, _ = list("?order=asc&purpose=batch")
	require.Equal(t, []string{one, two, other}, ids)
	ids, _ = list("?purpose=batch_output")
	require.Empty(t, ids)
	for _, query := range []string{"?limit=0", "?limit=x", "?order=up"} {
		code, _ = call(t, http.MethodGet, url+"/v1/files"+query, "")
		require.Equal(t, http.StatusBadRequest, code)
	}
	code, _ = call(t, http.MethodGet, url+"/v1/files?after=file-gone", "")
	require.Equal(t, http.StatusNotFound, code)

	code, out = call(t, http.MethodDelete, url+"/v1/files/"+one, "")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, object{"id": one, "object": "file", "deleted": true}, out)
	require.Len(t, r.store.files, 2, "another file has the same bytes")
	code, _ = call(t, http.MethodDelete, url+"/v1/files/"+two, "")
	require.Equal(t, http.StatusOK, code)
	require.Len(t, r.store.files, 1)
	for _, path := range []string{one, one + "/content", "file-output-x", "file-error-x/content", other + "/more"} {
		code, out = call(t, http.MethodGet, url+"/v1/files/"+path, "")
		require.Equal(t, http.StatusNotFound, code, path)
		require.Contains(t, keys(out), "error")
	}
	code, _ = call(t, http.MethodDelete, url+"/v1/files/"+one, "")
	require.Equal(t, http.StatusNotFound, code)
}

// LO-435: files and results are one list, which can be read in pages of any size, from either end.
func TestAListOfFilesGoesOn(t *testing.T) {
	r, url := served(t)
	file := upload(t, url, completions(2)+"no JSON")
	for range 3 {
		until(t, url+"/v1/batches/"+createBatch(t, url, file, "/v1/completions"), status("completed"))
	}
	f, _, err := r.l.File(t.Context(), file)
	require.NoError(t, err)
	for n := range 600 {
		f.ID, f.CreatedAt = fmt.Sprint("file-more-", n), f.CreatedAt.Add(time.Millisecond)
		require.NoError(t, r.l.KeepFile(t.Context(), f))
	}
	list := func(query string) (ids []string, more bool) {
		t.Helper()
		code, out := call(t, http.MethodGet, url+"/v1/files?"+query, "")
		require.Equal(t, http.StatusOK, code, out)
		for _, f := range out["data"].([]any) {
			ids = append(ids, f.(map[string]any)["id"].(string))
		}
		return ids, out["has_more"].(bool)
	}
	for _, c := range []struct {
		query  string
		counts int
	}{{"", 607}, {"purpose=batch", 601}, {"purpose=batch_output", 6}, {"purpose=other", 0}} {
		all, more := list(c.query)
		require.Len(t, all, c.counts)
		require.False(t, more)
		for _, order := range []string{"desc", "asc"} {
			want := slices.Clone(all)
			if order == "asc" {
				slices.Reverse(want)
			}
			for _, limit := range []int{7, 256, 300} {
				var got []string
				for after, more := "", len(want) > 0; more; after = got[len(got)-1] {
					var some []string
					some, more = list(fmt.Sprintf("%s&order=%s&limit=%d&after=%s", c.query, order, limit, after))
					got = append(got, some...)
				}
				require.Equal(t, want, slices.Concat([]string{}, got))
			}
		}
	}
	results, _ := list("purpose=batch_output")
	none, more := list("purpose=batch&order=asc&after=" + results[0])
	require.False(t, more)
	for _, id := range none {
		require.NotContains(t, results, id)
	}
}

// removal deletes what is at a URL when it is called, on any goroutine, and tells the status of the answer.
func removal(t *testing.T, url string) (do func(), status chan int) {
	q, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, url, http.NoBody)
	require.NoError(t, err)
	status = make(chan int, 1)
	return func() {
		res, err := http.DefaultClient.Do(q)
		if err != nil {
			status <- 0
			return
		}
		_ = res.Body.Close()
		status <- res.StatusCode
	}, status
}

// LO-435: a file that is deleted at the moment of its batch's end takes its bytes with it.
func TestAFileIsDeletedAtTheEndOfItsBatch(t *testing.T) {
	r, url := served(t)
	file := upload(t, url, completions(2))
	deletes, deleted := removal(t, url+"/v1/files/"+file)
	r.keeps.Store(&deletes)
	createBatch(t, url, file, "/v1/completions")
	require.Equal(t, http.StatusOK, <-deleted)
	require.Empty(t, r.store.files)
}

// LO-435: what is no file for a batch is refused, and nothing of it is left.
func TestBadUploads(t *testing.T) {
	r, url := served(t)
	long := strings.Repeat("x", 200_000)
	var squeezed bytes.Buffer
	bombType, bomb := form(t, field{"file", "x", strings.Repeat("0", 20_000_000)}, field{"purpose", "", "batch"})
	z := gzip.NewWriter(&squeezed)
	_, err := z.Write(bomb)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.Less(t, squeezed.Len(), 100_000)
	for name, c := range map[string]struct {
		fields   []field
		raw      string // in place of a form
		kind     string
		encoding string
		code     int
		param    any
	}{
		"another purpose":        {fields: []field{{"purpose", "", "fine-tune"}, {"file", "x", "x"}}, code: 400, param: "purpose"},
		"another purpose behind": {fields: []field{{"file", "x", "x"}, {"purpose", "", "assistants"}}, code: 400, param: "purpose"},
		"no purpose":             {fields: []field{{"file", "x", "x"}}, code: 400, param: "purpose"},
		"no file":                {fields: []field{{"purpose", "", "batch"}}, code: 400, param: "file"},
		"two files":              {fields: []field{{"purpose", "", "batch"}, {"file", "x", "x"}, {"file", "y", "y"}}, code: 400, param: "file"},
		"a long field":           {fields: []field{{"purpose", "", long}, {"file", "x", "x"}}, code: 400, param: "purpose"},
		"too large":              {fields: []field{{"purpose", "", "batch"}, {"file", "x", long}}, code: 413},
		"far too large":          {fields: []field{{"purpose", "", "batch"}, {"file", "x", strings.Repeat(long, 10)}}, code: 413},
		"no form":                {raw: `{"purpose":"batch"}`, kind: "application/json", code: 400},
		"a form that is cut":     {raw: "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nhal", kind: "multipart/form-data; boundary=b", code: 400},
		"no parts":               {raw: "", kind: "multipart/form-data; boundary=b", code: 400, param: "file"},
		"a bomb":                 {raw: squeezed.String(), kind: bombType, encoding: "gzip", code: 413},
	} {
		t.Run(name, func(t *testing.T) {
			kind, body := c.kind, []byte(c.raw)
			if c.fields != nil {
				kind, body = form(t, c.fields...)
			}
			code, out := send(t, url, kind, c.encoding, bytes.NewReader(body))
			require.Equal(t, c.code, code, out)
			e := out["error"].(map[string]any)
			require.Equal(t, c.param, e["param"])
			if c.code == 413 {
				require.Equal(t, "request_too_large", e["code"])
			}
			require.Empty(t, r.store.files)
			require.Empty(t, must(r.l.Files(t.Context(), task.FileFilter{Sent: true})))
		})
	}
	var many []field
	for range 40 {
		many = append(many, field{"other", "", "x"})
	}
	kind, body := form(t, many...)
	code, _ := send(t, url, kind, "", bytes.NewReader(body))
	require.Equal(t, http.StatusBadRequest, code)
}

// LO-435, LO-440: an upload that cannot be recorded leaves nothing, and one whose bytes went with an equal one may be sent again.
func TestAnUploadThatCannotBeKeptLeavesNothing(t *testing.T) {
	r, url := served(t)
	kind, body := form(t, field{"file", "in.jsonl", completions(2)}, field{"purpose", "", "batch"})
	file := func() (int, object) { return send(t, url, kind, "", bytes.NewReader(body)) }
	messages := func() (int, object) {
		return call(t, http.MethodPost, url+"/v1/messages/batches", `{"requests":[{"custom_id":"a","params":{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}]}}]}`)
	}
	for name, sends := range map[string]func() (int, object){"file": file, "batch": messages} {
		t.Run(name, func(t *testing.T) {
			r.full.Store(true)
			code, out := sends()
			require.Equal(t, http.StatusServiceUnavailable, code, out)
			require.Empty(t, r.store.files)

			// While the one is on its way from the store to the record, an equal one fails.
			r.store.put = func() {
				r.store.put = nil
				code, _ := sends()
				require.Equal(t, http.StatusServiceUnavailable, code)
				r.full.Store(false)
			}
			code, out = sends()
			require.Equal(t, http.StatusConflict, code, out)
			require.Contains(t, fmt.Sprint(out), "send it again")
			require.Empty(t, r.store.files)

			code, out = sends()
			require.Equal(t, http.StatusOK, code, out)
			r.full.Store(true)
			code, _ = sends()
			require.Equal(t, http.StatusServiceUnavailable, code)
			require.Len(t, r.store.files, 1, "the equal one before has its bytes")
			r.full.Store(false)
			if at := url + "/v1/messages/batches/"; name == "batch" {
				until(t, at+out["id"].(string), func(b object) bool { return b["processing_status"] == "ended" })
				call(t, http.MethodDelete, at+out["id"].(string), "")
			} else {
				r.store.put = func() {
					r.store.put = nil
					call(t, http.MethodDelete, url+"/v1/files/"+out["id"].(string), "")
				}
				code, out = sends()
				require.Equal(t, http.StatusConflict, code, out)
			}
			require.Empty(t, r.store.files)
		})
	}
}

// LO-435: what is being recorded keeps its bytes, though an equal file is deleted at that moment.
func TestADeletionWaitsForAnEqualUpload(t *testing.T) {
	r, url := served(t)
	one := upload(t, url, completions(2))
	remove, deleted := removal(t, url+"/v1/files/"+one)
	deletes := func() {
		go remove()
		select {
		case code := <-deleted:
			deleted <- code
		case <-time.After(200 * time.Millisecond): // it waits, as it should
		}
	}
	r.keeps.Store(&deletes)
	two := upload(t, url, completions(2))
	require.Equal(t, http.StatusOK, <-deleted)
	res := exchangetest.Do(t, http.MethodGet, url+"/v1/files/"+two+"/content", "")
	require.Equal(t, completions(2), exchangetest.Read(t, res.Body))
}
