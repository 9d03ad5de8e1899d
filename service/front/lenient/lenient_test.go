// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-403: templates take one system message, at the beginning.
func TestOneSystem(t *testing.T) {
	user, system := task.Message{Role: "user", Content: "u"}, task.Message{Role: "system", Content: "s"}
	of := func(messages ...task.Message) (t Turns) {
		for i, m := range messages {
			t.Add(At("m", i), m)
		}
		t.OneSystem()
		return t
	}
	require.Equal(t, Turns{[]task.Message{user}, []string{"m[0]"}}, of(user))
	require.Equal(t, Turns{[]task.Message{{Role: "system", Content: "s\n\ns"}, user, user}, []string{"m[1]", "m[0]", "m[2]"}}, of(user, system, user, system))
	require.Empty(t, of().Messages)
}

// LO-403, OC-ADAPT-OAI-6000: images and schemas, and what is none.
func TestImagesAndSchemas(t *testing.T) {
	image, err := DataImage("p", "data:image/png;base64,aGk=")
	require.NoError(t, err)
	require.Equal(t, &task.Image{MIME: "image/png", Data: []byte("hi")}, image)
	image, err = DataImage("p", "data:image/jpg;base64,aGk")
	require.NoError(t, err)
	require.Equal(t, "image/jpeg", image.MIME)
	for _, uri := range []string{"http://127.0.0.1/a.png", "data:image/png,hi", "data:image/png;base64", "data:image/png;base64,%%", "data:text/html;base64,aGk=", ""} {
		_, err := DataImage("p", uri)
		wrong, ok := errors.AsType[*ParamError](err)
		require.True(t, ok, uri)
		require.Equal(t, "p", wrong.Param)
		require.True(t, task.HasCode(err, task.InvalidParams))
	}
	for raw, want := range map[string]string{"": "", "null": "", ` {"type":"object"}`: `{"type":"object"}`} {
		schema, err := Schema("p", json.RawMessage(raw))
		require.NoError(t, err)
		require.Equal(t, want, string(schema))
	}
	for _, raw := range []string{"1", `"x"`, "[]", "true"} {
		_, err := Schema("p", json.RawMessage(raw))
		require.True(t, task.HasCode(err, task.InvalidParams), raw)
	}
}

// LO-403: what is no character becomes U+FFFD, also where JSON is handed on as it came. Everything else stays, to the byte.
func TestReadable(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":"b\\u0041"}`:        `{"a":"b\\u0041"}`,
		"{\"\xff\":\"a\xc3\"}":    "{\"\ufffd\":\"a\ufffd\"}",
		`"\ud83d\ude00"`:          `"\ud83d\ude00"`,
		`"\ud83d"`:                `"\ufffd"`,
		`"\ud83d\ud83d\ude00"`:    `"\ufffd\ud83d\ude00"`,
		`"\ude00\ud83d"`:          `"\ufffd\ufffd"`,
		`"\ud83dx\u0041\uD83D\n"`: `"\ufffdx\u0041\ufffd\n"`,
		`"\\ud83d"`:               `"\\ud83d"`, // a backslash, and letters
		`"\\\ud83d"`:              `"\\\ufffd"`,
		`"\uzzzz\u1"`:             `"\uzzzz\u1"`, // no JSON, and not for this to say
		`"\u`:                     `"\u`,
		"\"\\\xff\"":              "\"\\\ufffd\"",
		`"é😀"`:                    `"é😀"`,
	} {
		require.Equal(t, want, string(Readable([]byte(in))), "%q", in)
	}
}

// LO-403: a call in a conversation has an object as its arguments, also where it has none or was cut off.
func TestWholeArguments(t *testing.T) {
	for in, want := range map[string]string{
		"": "{}", " \n": "{}", "null": "{}", ` {"a": 1} `: `{"a": 1}`, `{"a":"\ud800"}`: `{"a":"\ufffd"}`,
		`{"a":"b`: `{"_arguments":"{\"a\":\"b"}`, "[1]": `{"_arguments":"[1]"}`, "a\xff": `{"_arguments":"a\ufffd"}`,
	} {
		require.Equal(t, want, WholeArguments(in), "%q", in)
	}
}

// LO-403: a bound that is larger than any answer is no reason to refuse.
func TestBound(t *testing.T) {
	for in, want := range map[float64]int{1: 1, 32000: 32000, 1e12: math.MaxInt32, 1e300: math.MaxInt32} {
		got, err := Bound("max_tokens", &in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, in := range []float64{0, -1, 1.5, -1e300} {
		_, err := Bound("max_tokens", &in)
		require.True(t, task.HasCode(err, task.InvalidParams), in)
	}
	none, err := Bound("max_tokens", nil)
	require.NoError(t, err)
	require.Zero(t, none)
}

// LO-404: a value of the wrong type is told with the type that is wanted, and no longer than a line.
func TestWrongTypes(t *testing.T) {
	for body, want := range map[string]string{
		`{"text":1}`:       "`text`: it must be a text, not a JSON number",
		`{"number":"1"}`:   "`number`: it must be a number, not a JSON string",
		`{"number":1e400}`: "`number`: the number 1e400 is out of range",
		`{"flag":"yes"}`:   "`flag`: it must be true or false, not a JSON string",
		`{"list":{}}`:      "`list`: it must be a list, not a JSON object",
		`{"list":["a"]}`:   "`list`: it must be an object, not a JSON string",
		`[]`:               "the body must be a JSON object, not a JSON array",
		`{"number":` + strings.Repeat("9", 5000) + `}`: "`number`: the number 999999",
	} {
		var in struct {
			Text   string     `json:"text"`
			Number *float64   `json:"number"`
			Flag   bool       `json:"flag"`
			List   []struct{} `json:"list"`
		}
		_, err := Decode(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)), &in)
		require.True(t, task.HasCode(err, task.InvalidParams), body)
		require.Contains(t, err.Error(), want)
		require.Less(t, len(err.Error()), 200)
	}
}
