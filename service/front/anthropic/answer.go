// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"encoding/json"
	"net/http"

	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// messages serves /v1/messages.
func (f *Front) messages(w http.ResponseWriter, r *http.Request) error {
	var in messageRequest
	body, err := lenient.Decode(r, &in)
	if err != nil {
		return err
	}
	q, err := in.request()
	if err != nil {
		return err
	}
	a, err := f.x.Submit(w, r, q, body)
	if err != nil {
		return in.names.Err(err)
	}
	if in.Stream {
		id := gate.CallFrom(r.Context()).CorrelationID
		begin := answerOf(a.ID, in.Model)
		begin.Usage.Input = a.PromptTokens
		return a.Stream(w, r, newEvents(begin, a.ID, in.Thinking.hidden(), id), sse{id})
	}
	return a.Whole(w, r, func(t task.Transcript, end *task.End) any {
		return messageOf(a.ID, in.Model, in.Thinking.hidden(), t, end)
	})
}

// messageOf is the whole answer of a task. Hidden says that its client does not want to see what the model thought.
func messageOf(id, model string, hidden bool, t task.Transcript, end *task.End) any {
	out, parts := answerOf(id, model), t.Parts()
	if parts.Reasoning != "" {
		b := thinkingBlock{Type: "thinking", Thinking: parts.Reasoning, Signature: signature(id)}
		if hidden {
			b.Thinking = ""
		}
		out.Content = append(out.Content, b)
	}
	if parts.Answer != "" {
		out.Content = append(out.Content, textBlock{Type: "text", Text: parts.Answer})
	}
	for _, c := range parts.Calls {
		out.Content = append(out.Content, callBlock{Type: "tool_use", ID: c.ID, Caller: caller{"direct"}, Name: c.Name, Input: input(c.Arguments)})
	}
	why := stopReason(end, len(parts.Calls) > 0)
	out.StopReason, out.Usage.usage = &why, usageOf(end)
	return out
}

// answer is a message, with all the fields that the dialect's document has.
type answer struct {
	ID           string       `json:"id"`
	Type         string       `json:"type"`
	Role         string       `json:"role"`
	Model        string       `json:"model"`
	Content      []any        `json:"content"` // of the types of blocks
	StopReason   *string      `json:"stop_reason"`
	StopSequence *string      `json:"stop_sequence"`
	StopDetails  *string      `json:"stop_details"`
	Container    *string      `json:"container"`
	Diagnostics  *string      `json:"diagnostics"`
	Usage        messageUsage `json:"usage"`
}

func answerOf(id, model string) answer {
	return answer{ID: "msg_" + id, Type: "message", Role: task.RoleAssistant, Model: model, Content: []any{}}
}

// usage counts tokens, as the end of a stream tells it. Null is what nobody knows here. The input is what was read, and so without what came from KV.
type usage struct {
	Input         int  `json:"input_tokens"`
	CacheCreation *int `json:"cache_creation_input_tokens"`
	CacheRead     *int `json:"cache_read_input_tokens"`
	Output        int  `json:"output_tokens"`
	Details       *int `json:"output_tokens_details"`
	ServerTools   *int `json:"server_tool_use"`
}

func usageOf(end *task.End) usage {
	u := usage{Input: end.TokensIn, Output: end.TokensOut}
	if cached := min(end.Receipt.TokensCached, end.TokensIn); cached > 0 {
		u.Input, u.CacheRead = end.TokensIn-cached, &cached
	}
	return u
}

// messageUsage is the usage in a message, which has more fields.
type messageUsage struct {
	usage

	Cache *int    `json:"cache_creation"`
	Tier  *string `json:"service_tier"`
	Geo   *string `json:"inference_geo"`
	Speed *string `json:"speed"`
}

type textBlock struct {
	Type      string `json:"type"`
	Text      string `json:"text"`
	Citations []any  `json:"citations"`
}

type thinkingBlock struct {
	Type      string `json:"type"`
	Thinking  string `json:"thinking"`
	Signature string `json:"signature"`
}

type callBlock struct {
	Type   string          `json:"type"`
	ID     string          `json:"id"`
	Caller caller          `json:"caller"`
	Name   string          `json:"name"`
	Input  json.RawMessage `json:"input"`
}

type caller struct {
	Type string `json:"type"`
}

// signature stands where Anthropic proves that a thought is its own. When it comes back nobody looks at it.
func signature(id string) string { return "llama-orch-" + id }

// input is the input of a call: a JSON object.
func input(arguments string) json.RawMessage {
	return json.RawMessage(lenient.WholeArguments(arguments))
}

// stopReason is why an answer ended, in the dialect's words.
func stopReason(end *task.End, calls bool) string {
	switch {
	case end.FinishReason == task.FinishLength:
		return "max_tokens"
	case calls:
		return "tool_use"
	default:
		return "end_turn"
	}
}

// count serves /v1/messages/count_tokens (LO-422).
func (f *Front) count(w http.ResponseWriter, r *http.Request) error {
	var in messageRequest
	if _, err := lenient.Decode(r, &in); err != nil {
		return err
	}
	q, err := in.request()
	if err != nil {
		return err
	}
	n, err := f.x.Count(r.Context(), q)
	if err != nil {
		return in.names.Err(err)
	}
	f.x.Write(w, http.StatusOK, struct {
		Input int `json:"input_tokens"`
	}{n})
	return nil
}
