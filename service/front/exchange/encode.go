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
