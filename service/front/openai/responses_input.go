// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// turn is a message with one item's worth in it: a text, a thought, a call, or a result.
type turn struct {
	kind    turnKind
	message task.Message
}

type turnKind uint8

const (
	turnMessage turnKind = iota
	turnThought
	turnCall
	turnResult
)

// turnPrefixes are what the ids of items begin with.
var turnPrefixes = [...]string{turnMessage: "msg_", turnThought: "rs_", turnCall: "fc_", turnResult: "fco_"}

func (t *turn) prefix() string { return turnPrefixes[t.kind] }

// apart takes messages apart into what are items in this dialect.
func apart(messages []task.Message) (all []turn) {
	for _, m := range messages {
		switch m.Role {
		case task.RoleTool:
			all = append(all, turn{turnResult, m})
		case task.RoleAssistant:
			if m.Reasoning != "" {
				all = append(all, turn{turnThought, task.Message{Role: m.Role, Reasoning: m.Reasoning}})
			}
			if m.Content != "" || m.Reasoning == "" && len(m.ToolCalls) == 0 {
				all = append(all, turn{turnMessage, task.Message{Role: m.Role, Content: m.Content}})
			}
			for _, c := range m.ToolCalls {
				all = append(all, turn{turnCall, task.Message{Role: m.Role, ToolCalls: []task.ToolCall{c}}})
			}
		default:
			all = append(all, turn{turnMessage, m})
		}
	}
	return all
}

// join adds the turn to a conversation.
func (t *turn) join(c *conversation, param string) {
	switch m := &t.message; {
	case t.kind == turnThought:
		c.think(param, m.Reasoning)
	case t.kind == turnCall:
		c.call(param, m.ToolCalls[0])
	case m.Role == task.RoleAssistant:
		c.say(param, m.Content)
	default:
		c.Add(param, *m)
	}
}

// inputView is an item of the input, as the dialect has it.
type inputView struct {
	ID        string  `json:"id"`
	Type      string  `json:"type"`
	Status    string  `json:"status"`
	Role      string  `json:"role,omitempty"`
	Content   any     `json:"content,omitempty"`
	Summary   any     `json:"summary,omitempty"`
	CallID    string  `json:"call_id,omitempty"`
	Name      string  `json:"name,omitempty"`
	Arguments *string `json:"arguments,omitempty"`
	Output    any     `json:"output,omitempty"`
}

// textPart, saidPart and imagePart are parts of an item's content.
type textPart struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type saidPart struct {
	textPart

	Annotations []string `json:"annotations"`
	Logprobs    []string `json:"logprobs"`
}

type imagePart struct {
	Type   string  `json:"type"`
	Detail string  `json:"detail"`
	URL    *string `json:"image_url"`
}

// view is the turn as an item. The bytes of images are large, and only shown where they are asked for.
func (t *turn) view(id string, images bool) inputView {
	m := &t.message
	v := inputView{ID: id, Status: statusCompleted}
	switch t.kind {
	case turnThought:
		v.Type, v.Summary, v.Content = "reasoning", []string{}, []textPart{{"reasoning_text", m.Reasoning}}
	case turnCall:
		c := &m.ToolCalls[0]
		v.Type, v.CallID, v.Name, v.Arguments = "function_call", c.ID, c.Name, &c.Arguments
	case turnResult:
		v.Type, v.CallID, v.Output = "function_call_output", m.ToolCallID, m.Content
		if len(m.Parts) > 0 {
			v.Output = parts(m, images)
		}
	default:
		v.Type, v.Role, v.Content = "message", m.Role, parts(m, images)
		if m.Role == task.RoleAssistant {
			v.Content = []saidPart{{textPart{"output_text", m.Content}, []string{}, []string{}}}
		}
	}
	return v
}

// parts are those of what somebody else than the model said.
func parts(m *task.Message, images bool) (all []any) {
	if len(m.Parts) == 0 {
		return []any{textPart{"input_text", m.Content}}
	}
	for _, p := range m.Parts {
		if p.Image == nil {
			all = append(all, textPart{"input_text", p.Text})
			continue
		}
		image := imagePart{Type: "input_image", Detail: "auto"}
		if images {
			url := "data:" + p.Image.MIME + ";base64," + base64.StdEncoding.EncodeToString(p.Image.Data)
			image.URL = &url
		}
		all = append(all, image)
	}
	return all
}

type inputList struct {
	Object string      `json:"object"`
	Data   []inputView `json:"data"`
	First  string      `json:"first_id"`
	Last   string      `json:"last_id"`
	More   bool        `json:"has_more"`
}

// The bounds of a list, as OpenAI's document has them.
const (
	fewItems = 20
	maxItems = 100
)

// inputItems serves /v1/responses/{id}/input_items.
func (f *Front) inputItems(w http.ResponseWriter, r *http.Request, k *kept) error {
	query := r.URL.Query()
	limit, err := lenient.Limit(query, fewItems, maxItems)
	if err != nil {
		return err
	}
	up, err := lenient.Ascending(query)
	if err != nil {
		return err
	}
	all := apart(k.given())
	order := make([]int, len(all)) // of the turns in the list
	for i := range order {
		order[i] = i
	}
	if !up {
		slices.Reverse(order)
	}
	id := func(n int) string { return all[n].prefix() + k.Task.ID + inputMark + "_" + strconv.Itoa(n) }
	if after := query.Get("after"); after != "" {
		at := slices.IndexFunc(order, func(n int) bool { return id(n) == after })
		if at < 0 {
			return lenient.Bad("after", "the input has no item %q: send the id of one that was listed", task.Clip(after, maxID))
		}
		order = order[at+1:]
	}
	list := inputList{Object: "list", Data: []inputView{}}
	order, list.More = lenient.Page(order, limit)
	for _, n := range order {
		list.Data = append(list.Data, all[n].view(id(n), includes(query, "message.input_image.image_url")))
	}
	if n := len(list.Data); n > 0 {
		list.First, list.Last = list.Data[0].ID, list.Data[n-1].ID
	}
	w.Header().Set("X-Task-Id", k.Task.ID)
	f.x.Write(w, http.StatusOK, list)
	return nil
}

// maxQuote bounds what of a wrong value is told, in bytes.
const maxQuote = 40

// includes reports whether a query asks for something. SDKs write lists with brackets, and without.
func includes(query url.Values, what string) bool {
	return slices.Contains(query["include"], what) || slices.Contains(query["include[]"], what)
}
