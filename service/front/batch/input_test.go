// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-436: where the lines of a file are, with all the ends that editors write.
func TestRawLines(t *testing.T) {
	for content, want := range map[string][]string{
		"":                                  nil,
		"a":                                 {"a"},
		"a\n":                               {"a"},
		"a\r\nb\r\n":                        {"a", "b"},
		"\n\n a \n\r\n \t\nb":               {" a ", "b"},
		"\xef\xbb\xbfa\nb":                  {"a", "b"},
		"a\xef\xbb\xbf\n":                   {"a\xef\xbb\xbf"},
		"\xef\xbb\xbf\n":                    nil,
		"123456789\n12345678\n":             {"", "12345678"},
		"\xef\xbb\xbf12345678\r\n123456789": {"12345678", ""},
	} {
		var got []string
		for l, err := range rawLines(iotest.OneByteReader(strings.NewReader(content)), 8) {
			require.NoError(t, err)
			if l.text != nil {
				require.Equal(t, content[l.at:l.at+l.bytes], string(l.text))
			}
			got = append(got, string(l.text))
		}
		require.Equal(t, want, got, "%q", content)
	}
	for _, err := range rawLines(iotest.ErrReader(io.ErrNoProgress), 8) {
		require.ErrorIs(t, err, io.ErrNoProgress)
	}
}

// FuzzInput reads files: every line that is told is where it is told to be, no longer than it may be, and is a request or has its fault.
// LO-436
func FuzzInput(f *testing.F) {
	for _, seed := range []string{
		"\xef\xbb\xbf" + `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{}}` + "\r\n\n{", `[1]`, "{\"custom_id\":\"\xff\"}\n\n\n", strings.Repeat("x", 100),
	} {
		f.Add([]byte(seed))
	}
	const most = 80
	f.Fuzz(func(t *testing.T, content []byte) {
		end := int64(0)
		for l, err := range rawLines(bytes.NewReader(content), most) {
			require.NoError(t, err)
			require.GreaterOrEqual(t, l.at, end)
			if l.text == nil {
				require.Greater(t, l.bytes, int64(most))
				end = l.at
				continue
			}
			require.LessOrEqual(t, l.bytes, int64(most))
			require.Equal(t, string(content[l.at:l.at+l.bytes]), string(l.text))
			end = l.at + l.bytes
			for _, form := range forms {
				a, fault := form("/v1/completions", l.text)
				if fault == nil {
					require.NotEmpty(t, a.customID)
					require.True(t, json.Valid(a.body))
				} else {
					require.NotEmpty(t, fault.Message)
				}
			}
		}
		require.LessOrEqual(t, end, int64(len(content)))
	})
}

// FuzzRequests reads bodies of message batches: what is taken is lines of JSON, each with a custom_id of its own, and what is not is told.
// LO-440
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		`{"requests":[{"custom_id":"a","params":{"x":[1,{}]}},{"custom_id":"b","params":{}}],"more":1}`, `{"requests":[{"custom_id":"a"},{"custom_id":"a"}]}`, `{}`, `{"requests":[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		q := newRequests(bytes.NewReader(body), 1000)
		text, err := io.ReadAll(q)
		if err != nil {
			require.NotEqual(t, task.Internal, task.AsError(err).Code, "%v", err)
			return
		}
		require.True(t, json.Valid(body))
		require.Positive(t, q.total)
		require.Equal(t, q.total, bytes.Count(text, []byte("\n")))
		ids := map[string]bool{}
		for line := range bytes.Lines(text) {
			a, fault := anthropicLine("", bytes.TrimSuffix(line, []byte("\n")))
			require.Nil(t, fault)
			require.False(t, ids[a.customID])
			ids[a.customID] = true
		}
	})
}

// FuzzUpload reads forms: what is taken has one file and the purpose batch, and what is not is told.
// LO-435
func FuzzUpload(f *testing.F) {
	for _, seed := range []string{
		"--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nhello\r\n--b--\r\n",
		"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nhello\r\n--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b--",
		"--b--", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/v1/files", bytes.NewReader(body))
		r.Header.Set("Content-Type", mime.FormatMediaType("multipart/form-data", map[string]string{"boundary": "b"}))
		u, err := openUpload(r)
		if err == nil {
			_, err = io.Copy(io.Discard, u)
		}
		if err != nil {
			require.NotErrorIs(t, err, io.EOF)
			require.Equal(t, task.InvalidParams, task.AsError(err).Code, "%v", err)
			return
		}
		require.Equal(t, "batch", u.purpose)
	})
}
