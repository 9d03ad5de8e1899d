// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The check refuses what is not in the document: a check that takes everything would be none.
//
// LO-419
func TestTheCheckOfOpenAI(t *testing.T) {
	d, err := LoadOpenAI()
	require.NoError(t, err)
	const model = `{"id":"m","object":"model","created":1,"owned_by":"o","context_length":5}`
	require.NoError(t, d.Check("/v1/models/a", 200, "application/json", []byte(model)))
	require.Error(t, d.Check("/v1/models/a", 200, "application/json", []byte(strings.Replace(model, "owned_by", "owner", 1))))
	require.Error(t, d.Check("/v1/models/a", 404, "application/json", []byte(model)))
	require.NoError(t, d.Check("/v1/models/", 200, "application/json", []byte(`{"object":"list","data":[`+model+`]}`)))
	const chunk = `{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":null}],"usage":null}`
	const sse = "text/event-stream; charset=utf-8"
	chat := func(s string) error { return d.Check("/v1/chat/completions", 200, sse, []byte(s)) }
	require.NoError(t, chat(": hello\n\ndata: "+chunk+"\n\ndata: {\"error\":{\"message\":\"m\",\"type\":\"t\",\"param\":null,\"code\":null}}\n\ndata: [DONE]\n\n"))
	require.NoError(t, chat("data: "+chunk+"\n\ndata: {\"cut o"))
	require.Error(t, chat("data: "+strings.Replace(chunk, `"delta":{}`, `"delta":{"text":"x"}`, 1)+"\n\n"))
	require.Error(t, chat("data: "+strings.Replace(chunk, `"finish_reason":null`, `"finish_reason":"end"`, 1)+"\n\n"))
	const delta = `{"type":"response.output_text.delta","item_id":"i","output_index":0,"content_index":0,"delta":"x","logprobs":[],"sequence_number":0}`
	response := func(s string) error { return d.Check("/v1/responses", 200, sse, []byte(s)) }
	require.NoError(t, response("event: response.output_text.delta\ndata: "+delta+"\n\n"))
	require.Error(t, response("data: "+delta+"\n\n"), "without its name")
	require.Error(t, response("event: response.output_text.delta\ndata: "+strings.Replace(delta, `:0}`, `:1}`, 1)+"\n\n"), "with a number missing")
	require.Error(t, response("event: response.output_text.delta\ndata: "+strings.Replace(delta, `"logprobs":[],`, "", 1)+"\n\n"))
	const sign = `{"type":"keepalive","sequence_number":0}`
	require.NoError(t, response("event: response.output_text.delta\ndata: "+delta+"\n\nevent: keepalive\ndata: "+sign+"\n\n"))
	require.Error(t, response("event: response.output_text.delta\ndata: "+delta+"\n\nevent: keepalive\ndata: "+strings.Replace(sign, ":0}", ":1}", 1)+"\n\n"), "with a number of its own")
	resumed := func(s string) error { return d.Check("/v1/responses/resp_1", 200, sse, []byte(s)) }
	fifth, sixth := strings.Replace(delta, ":0}", ":5}", 1), strings.Replace(delta, ":0}", ":6}", 1)
	require.NoError(t, resumed("event: response.output_text.delta\ndata: "+fifth+"\n\nevent: response.output_text.delta\ndata: "+sixth+"\n\n"))
	require.Error(t, resumed("event: response.output_text.delta\ndata: "+fifth+"\n\nevent: response.output_text.delta\ndata: "+fifth+"\n\n"))
	later := func(more, body string) error {
		return d.Check("/v1/responses/resp_1"+more, 200, "application/json", []byte(body))
	}
	require.NoError(t, later("", `{"id":"resp_1","object":"response","deleted":true}`))
	require.Error(t, later("", `{"id":"resp_1","object":"response","deleted":false}`))
	require.Error(t, later("", `{"id":"resp_1","object":"response"}`))
	const item = `{"id":"fco_1","type":"function_call_output","status":"completed","call_id":"c","output":"x"}`
	require.NoError(t, later("/input_items", `{"object":"list","data":[`+item+`],"first_id":"fco_1","last_id":"fco_1","has_more":false}`))
	require.Error(t, later("/input_items", `{"object":"list","data":[`+strings.Replace(item, `"call_id":"c",`, `"call":1,`, 1)+`],"first_id":"fco_1","last_id":"fco_1","has_more":false}`))
	require.Error(t, response("event: response.refused\ndata: {\"type\":\"response.refused\",\"sequence_number\":0}\n\n"))
	require.Error(t, d.Check("/v1/responses", 200, "application/json", []byte(`{"id":"r"}`)))
}

// LO-419: a difference hangs on what the document has.
func TestADifferenceHasAPlace(t *testing.T) {
	schemas := func() map[string]any {
		return map[string]any{"A": map[string]any{"anyOf": []any{map[string]any{}}}}
	}
	require.NoError(t, put(schemas(), difference{"A/anyOf/0/b", `{}`}))
	for _, at := range []string{"B/c/d", "A/anyOf/1/b", "A/anyOf/x/b", "A/anyOf/b"} {
		require.Error(t, put(schemas(), difference{at, `{}`}), at)
	}
	require.Error(t, put(schemas(), difference{"A/b", `{`}))
}
