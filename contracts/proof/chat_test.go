// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// conversation is an answer of all kinds of pieces.
func conversation() []Piece {
	return []Piece{
		{Kind: Reasoning, Text: "hm"},
		{Text: "Well"},
		{Kind: Call, ID: "c0", Name: "look", Text: ""},
		{Kind: Call, Text: "{}"},
		{Kind: Call, N: 1, ID: "c1", Name: "go", Text: "{\"a\":1}"},
	}
}

func bundleOfPieces(pieces []Piece, keep bool) *Bundle {
	b := bundleOf("completed", keep)
	var sum Sum
	for i, p := range pieces {
		sum.Add(p)
		b.Transcript.Bytes, b.Transcript.Tokens = b.Transcript.Bytes+len(p.Text), b.Transcript.Tokens+1
		if keep {
			b.Transcript.Text += p.Text
			b.Transcript.Ends = append(b.Transcript.Ends, len(b.Transcript.Text))
			if p.Kind != Answer {
				b.Transcript.Runs = append(b.Transcript.Runs, Run{From: i, Tokens: 1, Kind: p.Kind, N: p.N, ID: p.ID, Name: p.Name})
			}
		}
	}
	b.Transcript.SHA256, b.Transcript.Form = sum.Digest()
	return b
}

// LO-416, LO-301
func TestAnAnswerOfPartsIsCompared(t *testing.T) {
	was := conversation()
	for _, keep := range []bool{true, false} {
		b := bundleOfPieces(was, keep)
		require.Equal(t, FormParts, b.Transcript.Form)
		require.Equal(t, Verdict{Match: true, Token: -1}, b.Compare(conversation(), nil))
		text, err := b.Encode()
		require.NoError(t, err)
		back, err := Decode(text)
		require.NoError(t, err)
		require.Equal(t, b.Transcript, back.Transcript)
	}
	require.Equal(t, was, bundleOfPieces(was, true).Transcript.Pieces())

	for want, change := range map[string]func(p []Piece){
		"(thinking) hm":            func(p []Piece) { p[0].Kind = Answer },
		"Well":                     func(p []Piece) { p[1].Kind = Reasoning },
		"(call 0 c0 look) ":        func(p []Piece) { p[2].Name = "fly" },
		"(call 0) {}":              func(p []Piece) { p[3].Text = "{ }" },
		"(call 1 c1 go) {\"a\":1}": func(p []Piece) { p[4].ID = "c2" },
	} {
		now := conversation()
		change(now)
		v := bundleOfPieces(was, true).Compare(now, nil)
		require.False(t, v.Match)
		require.Equal(t, want, v.Want)
		require.NotEqual(t, v.Want, v.Got)
	}
	require.Equal(t, Verdict{Token: 4, Want: "(call 1 c1 go) {\"a\":1}"}, alone(bundleOfPieces(was, false).Compare(was[:4], was)))
}

// LO-416
func TestRunsThatDoNotFitAreRefused(t *testing.T) {
	text, err := bundleOfPieces(conversation(), true).Encode()
	require.NoError(t, err)
	for _, change := range [][2]string{
		{`"from":0`, `"from":1`},
		{`"from":0`, `"from":-1`},
		{`"from":4,"tokens":1`, `"from":4,"tokens":2`},
		{`"from":4,"tokens":1`, `"from":4,"tokens":0`},
		{`"from":4,"tokens":1`, `"from":3,"tokens":1`},
		{`"kind":"reasoning"`, `"kind":"singing"`},
		{`"kind":"reasoning"`, `"kind":"tool_call"`},
		{`"name":"go"`, `"name":"no"`},
	} {
		changed := strings.Replace(string(text), change[0], change[1], 1)
		require.NotEqual(t, string(text), changed, change)
		_, err := Decode([]byte(changed))
		require.Error(t, err, change)
	}
}

// What was sent and what the server recorded of it have the same digests.
//
// LO-416, LO-301
func TestTheWordsOfAChatAreFoundInWhatWasSent(t *testing.T) {
	recorded := []Message{
		{Role: "user", Parts: []Part{{Type: "text", Text: "ab"}, {Type: "image", MediaType: "image/png", Data: []byte("png")}}},
		{Role: "assistant", Reasoning: "hm", ToolCalls: []ToolCall{{ID: "c", Name: "look", Arguments: "{}"}}},
		{Role: "tool", ToolCallID: "c", Content: "cd"},
	}
	chat := Chat{Tools: []Tool{{Name: "look", Parameters: json.RawMessage(`{"b":"<","a":1}`)}}, LogitBias: map[string]float64{"20": 1, "3": -1}}
	b := bundleOf("completed", false)
	b.Request = Request{MessagesSHA256: DigestMessages(recorded), ChatSHA256: DigestChat(chat)}
	sent := `{"model_ref":"m","tool_choice":"auto","reasoning":{"split":false},"template_args":null,"logit_bias":{"3":-1,"20":1.0},
		"tools":[{"name":"look","parameters":{ "b": "<", "a": 1 }}],"messages":[
		{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"},{"type":"image","media_type":"image/png","data":"cG5n"}]},
		{"role":"assistant","content":null,"reasoning":"hm","tool_calls":[{"id":"c","name":"look","arguments":"{}"}]},
		{"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"c"},{"type":"text","text":"d"}]}]}`
	var w Words
	require.NoError(t, json.Unmarshal([]byte(sent), &w))
	require.True(t, b.Keep(w))
	require.Equal(t, recorded, b.Request.Messages)
	require.Equal(t, &chat, func() *Chat {
		c := *b.Request.Chat
		c.Tools[0].Parameters = json.RawMessage(`{"b":"<","a":1}`)
		return &c
	}())

	for _, change := range [][2]string{
		{`"cG5n"`, `"cG5o"`}, {`"image/png"`, `"image/gif"`}, {`"hm"`, `"hum"`}, {`"arguments":"{}"`, `"arguments":"{ }"`}, {`"a": 1`, `"a": 2`}, {`"auto"`, `"none"`}, {`"20":1.0`, `"20":2`},
	} {
		changed := strings.Replace(sent, change[0], change[1], 1)
		require.NotEqual(t, sent, changed)
		var w Words
		require.NoError(t, json.Unmarshal([]byte(changed), &w))
		require.False(t, b.Keep(w), change)
	}
	text, err := plainjson.Encode(recorded)
	require.NoError(t, err)
	require.Contains(t, string(text), `"data":"cG5n"`, "what is kept is whole")
}

// LO-416
func TestAMessageOfTextIsWhatItWas(t *testing.T) {
	text, err := plainjson.Encode(Message{Role: "user", Content: "<hi>"})
	require.NoError(t, err)
	require.Equal(t, Digest([]byte(`{"role":"user","content":"<hi>"}`)), Digest(text), "byte for byte")
	var m Message
	require.Error(t, json.Unmarshal([]byte(`{"role":"user","content":7}`), &m))
	require.Error(t, json.Unmarshal([]byte(`{"role":"user","content":[7]}`), &m))
	require.Error(t, json.Unmarshal([]byte(`{"role":7}`), &m))
	require.NoError(t, json.Unmarshal([]byte(`{"role":"user"}`), &m))
	require.Equal(t, Message{Role: "user"}, m)
}
