// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The check refuses what is not in the document, and what clients would miss.
//
// LO-419
func TestTheCheckOfOllama(t *testing.T) {
	d, err := LoadOllama()
	require.NoError(t, err)
	whole := func(path, body string) error { return d.Check(path, 200, "application/json", []byte(body)) }
	require.NoError(t, whole("/", "Ollama is running"))
	require.Error(t, whole("/", "Ollama"))
	require.NoError(t, whole("/api/delete", ""))
	require.Error(t, whole("/api/copy", "{}"), "it never succeeds here")
	require.NoError(t, whole("/api/embeddings", `{"embedding":[1]}`))
	require.Error(t, whole("/api/embeddings", `{"embeddings":[[1]]}`))
	require.NoError(t, whole("/api/version", `{"version":"1"}`))
	require.Error(t, whole("/api/version", `{}`))
	require.NoError(t, d.Check("/api/chat", 404, "application/json", []byte(`{"error":"no"}`)))
	require.Error(t, d.Check("/api/chat", 404, "application/json", []byte(`{"error":{"message":"no"}}`)))

	const head = `{"model":"m","created_at":"2023-11-14T22:13:20Z","message":{"role":"assistant","content":"a"`
	const figures = `,"total_duration":1,"load_duration":1,"prompt_eval_count":1,"prompt_eval_duration":1,"eval_count":1,"eval_duration":1`
	const piece, last = head + `},"done":false}`, head + `},"done":true,"done_reason":"stop"` + figures + `,"receipt":{"Seed":"1"}}`
	require.NoError(t, whole("/api/chat", head+`},"done":true,"done_reason":"stop"`+figures+`}`))
	require.Error(t, whole("/api/chat", head+`},"done":true}`), "no reason")
	stream := func(body string) error { return d.Check("/api/chat", 200, lineStream, []byte(body)) }
	require.NoError(t, stream(" "+piece+"\n"+last+"\n"))
	require.NoError(t, stream(piece+"\n"+`{"error":"the engine broke"}`+"\n"))
	require.NoError(t, stream(piece+"\n"+`{"model":"cut o`))
	require.Error(t, stream(strings.Replace(piece, `"content"`, `"text"`, 1)+"\n"))
	require.Error(t, stream(last+"\n"+piece+"\n"), "lines behind the last")
	require.Error(t, stream(strings.Replace(last, `"eval_count":1,`, "", 1)+"\n"))
	require.Error(t, stream("data: "+piece+"\n"))
	require.NoError(t, stream(head+`,"tool_calls":[{"id":"c","function":{"index":0,"name":"f","arguments":{}}}]},"done":false}`+"\n"))
	require.Error(t, stream(head+`,"tool_calls":[{"id":"c","function":{"index":0,"name":"f","arguments":"{}"}}]},"done":false}`+"\n"), "arguments are an object")
}
