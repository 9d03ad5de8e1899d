// SPDX-License-Identifier: GPL-3.0-or-later

package dialect

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/dialects"
)

// The check refuses what the SDK's types have not, what they miss, and events in another order than the SDK takes.
//
// LO-419
func TestTheCheckOfAnthropic(t *testing.T) {
	d, err := LoadAnthropic()
	require.NoError(t, err)
	const model = `{"type":"model","id":"m","display_name":"m","created_at":"1970-01-01T00:00:00Z","max_input_tokens":null,"max_tokens":5,"capabilities":null,` +
		`"lifecycle":"active","line":null,"deprecated_at":null,"retires_at":null}`
	whole := func(path, body string) error { return d.Check(path, 200, "application/json", []byte(body)) }
	require.NoError(t, whole("/v1/models/org/m", model))
	require.Error(t, whole("/v1/models/m", strings.Replace(model, `"line":null,`, "", 1)))
	require.Error(t, whole("/v1/models/m", strings.Replace(model, `"line":null,`, `"line":null,"context_length":5,`, 1)))
	require.NoError(t, whole("/v1/models", `{"data":[`+model+`],"has_more":false,"first_id":"m","last_id":"m"}`))
	require.NoError(t, whole("/v1/messages/count_tokens", `{"input_tokens":5}`))
	require.Error(t, whole("/v1/messages/batches", `{}`), "there are none")
	for body, fits := range map[string]bool{
		`{"type":"error","error":{"type":"overloaded_error","message":"x"},"request_id":"r"}`:                                                            true,
		`{"type":"error","error":{"type":"request_too_large","message":"x"},"request_id":"r"}`:                                                           true,
		`{"type":"error","error":{"type":"invalid_request_error","message":"x","details":{"error_code":"thread_unsupported_request"}},"request_id":"r"}`: true,
		`{"type":"error","error":{"type":"invalid_request_error","message":"x","details":{"error_code":"another"}},"request_id":"r"}`:                    false,
		`{"type":"error","error":{"type":"server_error","message":"x"},"request_id":"r"}`:                                                                false,
		`{"type":"error","error":{"type":"api_error","message":"x"}}`:                                                                                    false,
		`{"type":"error","error":{"type":"api_error","message":"x","param":null},"request_id":"r"}`:                                                      false,
		model: false,
	} {
		err := d.Check("/v1/messages", 400, "application/json", []byte(body))
		require.Equal(t, fits, err == nil, "%s: %v", body, err)
	}
	const usage = `"input_tokens":0,"cache_creation_input_tokens":null,"cache_read_input_tokens":null,"output_tokens":0,"output_tokens_details":null,"server_tool_use":null`
	frame := func(kind, more string) string {
		return "event: " + kind + "\ndata: {\"type\":\"" + kind + "\"" + more + "}\n\n"
	}
	start := frame("message_start", `,"message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,`+
		`"stop_details":null,"container":null,"diagnostics":null,"usage":{`+usage+`,"cache_creation":null,"service_tier":null,"inference_geo":null,"speed":null}}`)
	open := func(index string) string {
		return frame("content_block_start", `,"index":`+index+`,"content_block":{"type":"text","text":"","citations":null}`)
	}
	delta := frame("content_block_delta", `,"index":0,"delta":{"type":"text_delta","text":"a"}`)
	stop := frame("content_block_stop", `,"index":0`)
	why := frame("message_delta", `,"delta":{"container":null,"stop_details":null,"stop_reason":"end_turn","stop_sequence":null},"usage":{`+usage+`}`)
	end, ping := frame("message_stop", ""), frame("ping", "")
	for what, c := range map[string]struct {
		body string
		fits bool
	}{
		"a message":                 {ping + start + open("0") + ": a comment\n\n" + delta + stop + why + ": receipt\n\n" + end, true},
		"an empty message":          {start + why + end, true},
		"one that was cut off":      {start + open("0") + delta + "event: content_block_st", true},
		"one that failed":           {start + frame("error", `,"error":{"type":"api_error","message":"x"},"request_id":null`), true},
		"no beginning":              {open("0"), false},
		"two beginnings":            {start + start, false},
		"a number left out":         {start + open("1"), false},
		"a delta of no block":       {start + delta, false},
		"a block that ends twice":   {start + open("0") + stop + stop, false},
		"a block that never ends":   {start + open("0") + why, false},
		"no reason":                 {start + end, false},
		"more behind the end":       {start + why + end + why, false},
		"a name that is not its":    {strings.Replace(start, "event: message_start", "event: message", 1), false},
		"an event that is no such":  {start + frame("message_pause", ""), false},
		"a delta of another kind":   {start + open("0") + strings.Replace(delta, "text_delta", "words_delta", 1), false},
		"a field that is not there": {start + strings.Replace(why, `"output_tokens":0`, `"output_tokens":0,"speed":null`, 1), false},
	} {
		err := d.Check("/v1/messages", 200, "text/event-stream; charset=utf-8", []byte(c.body))
		require.Equal(t, c.fits, err == nil, "%s: %v", what, err)
	}
}

// The types are those of the SDK that the suite of real clients runs: who raises one raises the other.
//
// LO-419
func TestTheTypesAreThePinnedSDKs(t *testing.T) {
	var types struct {
		Info struct{ Title, Version string }
	}
	require.NoError(t, json.Unmarshal(dialects.Anthropic, &types))
	data, err := os.ReadFile("../../ci/clients/package.json")
	require.NoError(t, err)
	var pinned struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(data, &pinned))
	require.Equal(t, pinned.Dependencies[types.Info.Title], types.Info.Version)
}
