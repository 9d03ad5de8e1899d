// SPDX-License-Identifier: GPL-3.0-or-later

package scripted

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	bytesPerToken  = 4
	tokensPerImage = 16
	beginToken     = 1
	// mediaMarker stands for an image in a prompt. A llama-server's is random.
	mediaMarker = "<__media_scripted__>"
)

func (e *Engine) getProps(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"default_generation_settings": map[string]any{"n_ctx": e.opts.Ctx},
		"total_slots":                 e.opts.Slots,
		"model_path":                  "scripted.gguf",
		"chat_template":               e.template(),
		"chat_template_caps": map[string]bool{
			"supports_tools": !e.opts.NoTools, "supports_tool_calls": !e.opts.NoTools, "supports_parallel_tool_calls": !e.opts.NoTools,
			"supports_system_role": true, "supports_string_content": true, "supports_typed_content": e.opts.Vision,
			"supports_object_arguments": false, "supports_preserve_reasoning": e.opts.Thinks, "supports_reasoning_effort": e.opts.Thinks,
		},
		"modalities":   map[string]bool{"vision": e.opts.Vision, "audio": false, "video": false},
		"media_marker": mediaMarker,
		"build_info":   e.opts.Build,
	})
}

// template is a text that says what the template knows.
func (e *Engine) template() string {
	if e.opts.Thinks {
		return "scripted, with enable_thinking"
	}
	return "scripted"
}

func (e *Engine) getSlots(w http.ResponseWriter, _ *http.Request) {
	var slots []map[string]any
	e.held.Look(func() {
		for i, busy := range e.busy {
			slots = append(slots, map[string]any{"id": i, "n_ctx": e.opts.Ctx, "is_processing": busy, "id_task": e.jobs[i]})
		}
	})
	writeJSON(w, http.StatusOK, slots)
}

func (e *Engine) eraseSlot(w http.ResponseWriter, r *http.Request) {
	var in struct{}
	if !e.take(w, r, eraseParameters, &in, nil) {
		return
	}
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 0 || id >= e.opts.Slots || r.URL.Query().Get("action") != "erase" {
		writeError(w, Failure{http.StatusBadRequest, "Invalid action or slot ID", "invalid_request_error"}, nil)
		return
	}
	writeJSON(w, http.StatusOK, map[string]int{"id_slot": id, "n_erased": 0})
}

// count is how many tokens a text has, the begin included.
func count(text string) int { return (len(text)+bytesPerToken-1)/bytesPerToken + 1 }

// countChat counts a rendered prompt, in which markers stand for images.
func countChat(prompt string, images int) int {
	return count(strings.ReplaceAll(prompt, mediaMarker, "")) + images*tokensPerImage
}

// tokenize gives a token for each 4 bytes: a number that is these bytes. The begin is 1.
func (e *Engine) tokenize(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Content string `json:"content"`
		Add     bool   `json:"add_special"`
	}
	if !e.take(w, r, tokenizeParameters, &in, nil) {
		return
	}
	tokens := []uint64{}
	if in.Add {
		tokens = append(tokens, beginToken)
	}
	for part := range slices.Chunk([]byte(in.Content), bytesPerToken) {
		token := uint64(0)
		for i, b := range part {
			token |= uint64(b) << (8 * i)
		}
		tokens = append(tokens, token)
	}
	for i, t := range tokens { // a token id has 31 bits
		tokens[i] = t & 0x7fffffff
	}
	writeJSON(w, http.StatusOK, map[string]any{"tokens": tokens})
}

// detokenize is the reverse for texts whose fourth bytes are ASCII.
func (e *Engine) detokenize(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Tokens []uint64 `json:"tokens"`
	}
	if !e.take(w, r, detokenizeParameters, &in, nil) {
		return
	}
	var text []byte
	for _, t := range in.Tokens {
		for ; t > 0 && t != beginToken; t >>= 8 {
			text = append(text, byte(t))
		}
	}
	writeJSON(w, http.StatusOK, map[string]string{"content": string(text)})
}

func (e *Engine) applyTemplate(w http.ResponseWriter, r *http.Request) {
	var in chatRequest
	if e.take(w, r, chatParameters, &in, func() error { return in.check(e.opts) }) {
		writeJSON(w, http.StatusOK, map[string]string{"prompt": e.render(&in)})
	}
}

func (e *Engine) inputTokens(w http.ResponseWriter, r *http.Request) {
	var in chatRequest
	if e.take(w, r, chatParameters, &in, func() error { return in.check(e.opts) }) {
		writeJSON(w, http.StatusOK, map[string]any{"input_tokens": countChat(e.render(&in), in.images()), "object": "response.input_tokens"})
	}
}

func (c *chatRequest) images() (n int) {
	for _, m := range c.Messages {
		n += m.images
	}
	return n
}

// render is the chat template.
func (e *Engine) render(c *chatRequest) string {
	var b strings.Builder
	turn := func(role, text string) { fmt.Fprintf(&b, "<|im_start|>%s\n%s<|im_end|>\n", role, text) }
	var date string
	e.held.Look(func() { date = e.date })
	if date != "" {
		if given, ok := c.Arguments["date_string"]; ok {
			_ = json.Unmarshal(given, &date) // another value is left out
		}
		turn("system", "Today is "+date+".")
	}
	if len(c.Tools) > 0 && !e.opts.NoTools {
		tools, _ := json.Marshal(c.Tools) // it came from JSON
		turn("system", "Tools: "+string(tools))
	}
	messages, begun := c.Messages, ""
	if c.Continues != "" {
		last := messages[len(messages)-1]
		messages, begun = messages[:len(messages)-1], last.text
		if last.Reasoning != "" {
			begun = "<think>" + last.Reasoning
		}
		if last.Reasoning != "" && c.Continues == "content" {
			begun += "</think>" + last.text
		}
	}
	for _, m := range messages {
		text := m.text
		if m.Reasoning != "" {
			text = "<think>" + m.Reasoning + "</think>" + text
		}
		for _, call := range m.ToolCalls {
			text += "<tool_call>" + call.Function.Name + string(call.Function.Arguments) + "</tool_call>"
		}
		turn(m.Role, text)
	}
	if e.opts.Thinks && c.Effort != "" {
		turn("system", "Effort: "+c.Effort)
	}
	b.WriteString("<|im_start|>assistant\n")
	if thinking, ok := c.Arguments["enable_thinking"]; ok && e.opts.Thinks && string(thinking) == "false" {
		b.WriteString("<think></think>")
	}
	b.WriteString(begun)
	return b.String()
}

// asked is what a rule is chosen by.
func (c *chatRequest) asked(prompt string) asked {
	a := asked{prompt: prompt, tools: c.callsTools()}
	for _, m := range slices.Backward(c.Messages) {
		if m.Role == "user" || m.Role == "tool" {
			a.last, a.role = m.text, m.Role
			break
		}
	}
	return a
}

// asked finds the last turn of a user or a tool in a prompt that the template made.
func (c *completionRequest) asked() asked {
	a := asked{prompt: c.Prompt, last: c.Prompt, role: "user"}
	at := -1
	for _, role := range []string{"user", "tool"} {
		if found := strings.LastIndex(c.Prompt, "<|im_start|>"+role+"\n"); found > at {
			at, a.role = found, role
		}
	}
	if at >= 0 {
		a.last, _, _ = strings.Cut(c.Prompt[at:], "<|im_end|>")
		_, a.last, _ = strings.Cut(a.last, "\n")
	}
	return a
}

// routeControl adds the control paths; see the package's comment.
func (e *Engine) routeControl() {
	body := func(w http.ResponseWriter, r *http.Request, use func([]byte) error) {
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
		if err == nil {
			err = use(data)
		}
		if err != nil {
			writeError(w, Failure{http.StatusBadRequest, err.Error(), "invalid_request_error"}, nil)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
	e.mux.HandleFunc("PUT /_scripted/script", func(w http.ResponseWriter, r *http.Request) {
		body(w, r, func(data []byte) error {
			s, err := Parse(data)
			if err == nil {
				e.SetScript(s)
			}
			return err
		})
	})
	e.mux.HandleFunc("PUT /_scripted/now", func(w http.ResponseWriter, r *http.Request) {
		body(w, r, func(data []byte) error {
			e.SetDate(string(data))
			return nil
		})
	})
	e.mux.HandleFunc("POST /_scripted/release", func(w http.ResponseWriter, r *http.Request) {
		body(w, r, func([]byte) error {
			n := 1
			if text := r.URL.Query().Get("n"); text != "" {
				var err error
				if n, err = strconv.Atoi(text); err != nil {
					return fmt.Errorf("n must be a number: %w", err)
				}
			}
			e.Release(n)
			return nil
		})
	})
	e.mux.HandleFunc("GET /_scripted/requests", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, e.Requests())
	})
}
