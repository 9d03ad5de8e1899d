// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/llama-orch/llama-orch/service/task"
)

// JSON is v as JSON, on one line without its end. V is of types that always encode.
func JSON(v any) []byte {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	if err := out.Encode(v); err != nil {
		panic(fmt.Errorf("encode an answer: %w", err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Result reads what a task has come to whose answer is no stream. The engine's adapter has written it.
func Result(end *task.End, into any) {
	if err := json.Unmarshal(end.Result, into); err != nil {
		panic(fmt.Errorf("the result of a task: %w", err))
	}
}

// Arguments are those of a call as a JSON object; none are an empty one. Not ok: they are no object, as where the answer was cut off.
func Arguments(text string) (object json.RawMessage, ok bool) {
	raw := bytes.TrimSpace([]byte(text))
	if len(raw) == 0 {
		return json.RawMessage("{}"), true
	}
	return raw, raw[0] == '{' && json.Valid(raw)
}
