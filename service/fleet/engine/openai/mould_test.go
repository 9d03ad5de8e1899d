// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// frameTold is what a frame has, in a form that compares. What a frame had that could not be read does not count.
type frameTold struct {
	Content, Reasoning string
	Calls              [][3]any
	Ends, Failed, Bad  bool
}

func toldBy(f *Frame, data []byte) frameTold {
	if f.Read(data) != nil {
		return frameTold{Bad: true}
	}
	t := frameTold{Content: string(f.Content), Reasoning: string(f.Reasoning), Ends: f.Ends, Failed: f.Failed}
	for _, c := range f.Calls {
		t.Calls = append(t.Calls, [3]any{c.Index, string(c.Name), string(c.Arguments)})
	}
	return t
}

// frames are streams, a frame a line, in which a reader that remembers the frame before could go wrong.
var frames = []string{
	// The text alone differs, then it is written with a backslash, is empty, has a quote, and comes in another shape.
	`{"id":"1","choices":[{"index":0,"text":" a","finish_reason":null}]}
{"id":"1","choices":[{"index":0,"text":" bee","finish_reason":null}]}
{"id":"1","choices":[{"index":0,"text":"\n","finish_reason":null}]}
{"id":"1","choices":[{"index":0,"text":"c","finish_reason":null}]}
{"id":"1","choices":[{"index":0,"text":"","finish_reason":null}]}
{"id":"1","choices":[{"index":0,"text":"d","finish_reason":"x","finish_reason":null}]}
{"id":"1","choices":[{"index":0,"text":"蛙","finish_reason":null}]}
{"id":"1","choices":[{"index":0,"text":"e","finish_reason":"stop"}]}
{"id":"1","choices":[],"usage":{"prompt_tokens":1}}`,
	// The text stands elsewhere too.
	`{"model":"m","choices":[{"delta":{"content":"m"}}]}
{"model":"n","choices":[{"delta":{"content":"m"}}]}
{"model":"m","choices":[{"delta":{"content":"\u006d"}}]}
{"model":"n","choices":[{"delta":{"content":"\u006d"}}]}`,
	// Its quotes are those of its neighbours.
	`{"choices":[{"delta":{"content":","},"a":["b","c"]}]}
{"choices":[{"delta":{"content":","},"a":["b"x"c"]}]}`,
	// A frame has several texts, or calls beside an empty one.
	`{"m":"ab","choices":[{"text":"a"},{"text":"b"}]}
{"m":"xy","choices":[{"text":"a"},{"text":"b"}]}
{"choices":[{"delta":{"content":"","tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}}]}
{"choices":[{"delta":{"content":"x","tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}}]}
{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}},{"index":1,"function":{"arguments":"{"}}]}}]}
{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}},{"index":1,"function":{"arguments":"}"}}]}}]}
{"choices":[{"delta":{"reasoning":"hm","reasoning_content":"hm"}}]}
{"choices":[{"delta":{"reasoning":"so","reasoning_content":"so"}}]}
{"choices":[{"delta":{"reasoning":"hm"}}]}
{"choices":[{"delta":{"reasoning":"so"}}]}`,
	// An error, and what is no JSON, between two that are alike.
	`{"choices":[{"text":"a"}]}
{"error":{"message":"a"}}
{"choices":[{"text":"b"}]}
{"choices":[{"text":"c
{"choices":[{"text":"d"}]}`,
}

// alike holds a reader that has read the frames before to what a new one reads.
func alike(t *testing.T, stream []byte) {
	t.Helper()
	var f Frame
	for line := range bytes.SplitSeq(stream, []byte("\n")) {
		require.Equal(t, toldBy(new(Frame), slices.Clone(line)), toldBy(&f, line), "%s", line)
	}
}

// A frame says the same whatever came before it.
//
// OC-ADAPT-OAI-6000
func FuzzFrames(f *testing.F) {
	for _, stream := range frames {
		f.Add([]byte(stream))
	}
	f.Fuzz(alike)
}

// What is alike is not read again.
//
// OC-ADAPT-OAI-6000
func TestAFrameLikeTheOneBeforeIsFilledIn(t *testing.T) {
	var f Frame
	for i, c := range []struct {
		frame string
		alike bool
	}{
		{`{"choices":[{"text":"a"}]}`, false},
		{`{"choices":[{"text":"bb"}]}`, true},
		{`{"choices":[{"text":"b\n"}]}`, false},
		{`{"choices":[{"text":"c"}]}`, false},
		{`{"choices":[{"text":"d"}]}`, true},
	} {
		require.Equal(t, c.alike, f.mould.fill([]byte(c.frame)), i)
		require.NoError(t, f.Read([]byte(c.frame)))
	}
	for i := range 20 { // then it is not worth it any more
		require.NoError(t, f.Read(fmt.Appendf(nil, `{"created":%d,"choices":[{"text":"a"}]}`, i)))
		require.Equal(t, i < enough, f.mould.into != nil)
	}
}
