// SPDX-License-Identifier: GPL-3.0-or-later

package client_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/client"
)

const started = `{"task_id":"x","queue_position":0,"predicted_start_ms":0,"seed":7,"determinism":"strict"}`

// end is the data of an `end` whose receipt names the SHA-256 of a text.
func end(tokens int, text string) string {
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf(`{"tokens_in":1,"tokens_out":%d,"decode_time_ms":2,"finish_reason":"stop","receipt":{"seed":7,"determinism":"strict",`+
		`"fingerprint":"f","request_digest":"d","transcript_sha256":"%s","transcript_form":"text","replica_id":"r","engine_version":"v","model_digest":"m"}}`,
		tokens, hex.EncodeToString(sum[:]))
}

// frames writes events as a daemon would, with the right ids.
func frames(events ...[2]string) string {
	var b strings.Builder
	running := sha256.New()
	for i, e := range events {
		_, _ = io.WriteString(running, e[0]+"\n"+e[1]+"\n")
		b.WriteString(client.Event{ID: fmt.Sprintf("%d-%s", i, hex.EncodeToString(running.Sum(nil)[:4])), Name: e[0], Data: e[1]}.Frame())
	}
	return b.String()
}

var good = frames([2]string{"started", started}, [2]string{"token", `{"t":"a ","i":0}`}, [2]string{"token", `{"t":"b","i":1}`}, [2]string{"end", end(2, "a b")})

// read takes a stream to its end.
func read(t *testing.T, body string) (*client.Log, error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, body)
	}))
	defer server.Close()
	c := client.New(server.URL, "")
	defer c.Close()
	s, err := c.Open(t.Context(), "x")
	require.NoError(t, err)
	err = s.Rest()
	return s.Log, err
}

// ORCH-3029, LO-201, LO-204
func TestAStreamIsReadToItsReceipt(t *testing.T) {
	metrics := "event: metrics\ndata: {}\n\n"
	first, rest, _ := strings.Cut(good, "\n\n")
	log, err := read(t, ": hello\n\n"+first+"\n\n"+metrics+": still here\n\n"+rest)
	require.NoError(t, err)
	require.Equal(t, "a b", log.Text())
	require.Equal(t, []string{"a ", "b"}, log.Tokens)
	require.Len(t, log.Events, 4)
	require.Equal(t, "f", log.End.Receipt.Fingerprint)

	log, err = read(t, frames([2]string{"started", started}, [2]string{"error", `{"code":"CANCELED","message":"m","retriable":false}`}))
	require.NoError(t, err)
	require.Equal(t, "CANCELED", log.Fail.Code)
}

// LO-416
func TestAStreamOfPartsIsReadToItsReceipt(t *testing.T) {
	part := func(kind, text string) string {
		return kind + "\x00\x00\x00\x00\x00\x00\x00" + string(rune(len(text))) + text
	}
	whole := "llorch-transcript-2\n" + part("a", "yes") + part("r", "hm") + part("i", "c") + part("n", "look") + part("j", "{}")
	done := strings.Replace(strings.Replace(end(4, whole), `"text"`, `"parts"`, 1), `"receipt"`, `"tool_calls":[{"id":"c","name":"look","arguments":"{}"}],"receipt"`, 1)
	events := func(end string) string {
		return frames([2]string{"started", started}, [2]string{"token", `{"t":"hm","i":0,"channel":"reasoning"}`}, [2]string{"tool_call", `{"n":0,"id":"c","name":"look","arguments":""}`},
			[2]string{"token", `{"t":"yes","i":1}`}, [2]string{"tool_call", `{"n":0,"arguments":"{}"}`}, [2]string{"end", end})
	}
	log, err := read(t, events(done))
	require.NoError(t, err)
	require.Equal(t, []string{"yes", "hm"}, []string{log.Answer, log.Thinking})
	require.Equal(t, []client.Call{{ID: "c", Name: "look", Arguments: "{}"}}, log.Calls)
	_, err = read(t, events(strings.Replace(done, `"parts"`, `"text"`, 1)))
	require.ErrorContains(t, err, "transcript_form")
}

// Frames of other dialects are read as they are.
//
// LO-407
func TestFrames(t *testing.T) {
	body := ": queued\n\ndata: {}\n\nevent: ping\ndata: {}\n\n"
	in := client.NewScanner(strings.NewReader(body))
	var all strings.Builder
	for {
		frame, err := in.Frame()
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		require.True(t, strings.HasSuffix(frame, "\n\n"))
		all.WriteString(frame)
	}
	require.Equal(t, body, all.String())
	_, err := client.NewScanner(strings.NewReader("data: {}\n")).Frame()
	require.ErrorContains(t, err, "ended within a frame")
}

// A reader that takes anything proves nothing.
//
// LO-201, LO-204
func TestABreachOfTheStreamIsRefused(t *testing.T) {
	start, token := [2]string{"started", started}, [2]string{"token", `{"t":"a","i":0}`}
	call := [2]string{"tool_call", `{"n":0,"id":"c","name":"look","arguments":""}`}
	for name, body := range map[string]string{
		"should be":                 strings.Replace(good, `"b"`, `"B"`, 1),
		"carriage return":           strings.ReplaceAll(good, "\n", "\r\n"),
		"not UTF-8":                 strings.Replace(good, `"b"`, "\"\xff\"", 1),
		"ended within a frame":      good[:len(good)-5],
		"without a terminal event":  frames(start, token),
		"is the first event":        frames(token),
		"is not id, event, data":    strings.Replace(good, "event: token", "events: token", 1),
		"behind the terminal event": good + "event: metrics\ndata: {}\n\n",
		"carries an id":             frames(start, [2]string{"metrics", "{}"}),
		"there is no event":         frames(start, [2]string{"tokens", "{}"}),
		"unknown field":             frames(start, [2]string{"token", `{"t":"a","i":0,"x":1}`}),
		"`t` is empty":              frames(start, [2]string{"token", `{"t":"","i":0}`}),
		"`i` is 1":                  frames(start, [2]string{"token", `{"t":"a","i":1}`}),
		"more follows":              frames(start, [2]string{"token", `{"t":"a","i":0} {}`}),
		"transcript_sha256":         frames(start, token, [2]string{"end", end(1, "b")}),
		"`tokens_out` is 2":         frames(start, token, [2]string{"end", end(2, "a")}),
		"there is no channel":       frames(start, [2]string{"token", `{"t":"a","i":0,"channel":"song"}`}),
		"has no name":               frames(start, [2]string{"tool_call", `{"n":0,"id":"c","arguments":"{}"}`}),
		"names it again":            frames(start, call, [2]string{"tool_call", `{"n":0,"id":"c","arguments":"{}"}`}),
		"is empty":                  frames(start, call, [2]string{"tool_call", `{"n":0,"arguments":""}`}),
		"`tool_calls` are":          frames(start, call, [2]string{"end", end(1, "")}),
		"transcript_form":           frames(start, [2]string{"token", `{"t":"a","i":0,"channel":"reasoning"}`}, [2]string{"end", end(1, "a")}),
		"another seed":              frames([2]string{"started", strings.Replace(started, "7", "8", 1)}, token, [2]string{"end", end(1, "a")}),
	} {
		_, err := read(t, body)
		require.ErrorContains(t, err, name)
	}
}

// ORCH-3014
func TestARefusalIsTheEnvelope(t *testing.T) {
	answer := `{"code":"NOT_FOUND","message":"there is none","retriable":false}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	c := client.New(server.URL, "secret")
	defer c.Close()
	_, err := c.Get(t.Context(), "/x")
	var refused *client.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, &client.RefusedError{Status: 404, Code: "NOT_FOUND", Message: "there is none"}, refused)
	answer = "404 page not found"
	_, err = c.Open(t.Context(), "x")
	require.ErrorContains(t, err, "without the API's error envelope")
}
