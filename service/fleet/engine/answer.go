// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Embeddings are the answer of an embedding task: a vector for each input.
type Embeddings struct {
	Vectors [][]float32 `json:"embeddings"`
}

// Scores are the answer of a rerank task: one for each input.
type Scores struct {
	Scores []float64 `json:"scores"`
}

// Answered is what an Embedder and a Reranker return.
func Answered(answer any, tokens int, took time.Duration) (json.RawMessage, Result, error) {
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, Result{}, fmt.Errorf("encoding the engine's answer: %w", err)
	}
	return raw, Result{TokensIn: tokens, Prefill: took, Finish: task.FinishResult}, nil
}
