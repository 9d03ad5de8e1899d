// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

type bare struct{}

func (bare) Health(context.Context) error         { return nil }
func (bare) Props(context.Context) (Props, error) { return Props{}, nil }
func (bare) Generate(context.Context, Job, func(task.Piece) error) (Result, error) {
	return Result{}, nil
}

type embedder struct {
	bare
	closed *bool
}

func (embedder) Embed(context.Context, Job) (json.RawMessage, Result, error) {
	return json.RawMessage(`[]`), Result{TokensIn: 3}, nil
}

func (e embedder) Close() { *e.closed = true }

// ORCH-3054
func TestFacesAreFoundByWhatAnEngineHas(t *testing.T) {
	require.Equal(t, Faces{}, FacesOf(bare{}))
	require.Empty(t, Faces{}.Names())
	closed := false
	kind := Kind{New: func(Endpoint) Engine { return embedder{closed: &closed} }}
	require.Equal(t, Faces{Embeds: true}, kind.Faces())
	require.True(t, closed, "what was made to look at is given back")
	require.Equal(t, []string{"embedding"}, kind.Faces().Names())

	require.Nil(t, Faces{}.Refuse(task.Completion, false), "every engine completes")
	require.NotNil(t, Faces{}.Refuse(task.Completion, true))
	require.Nil(t, Faces{Templates: true}.Refuse(task.Completion, true))
	require.Nil(t, Faces{Chats: true}.Refuse(task.Completion, true))
	require.NotNil(t, Faces{Embeds: true}.Refuse(task.Rerank, false))
	require.NotNil(t, Faces{Reranks: true}.Refuse(task.Embedding, false))
}

// ORCH-3054
func TestAnAnswerComesFromTheFaceOrIsRefused(t *testing.T) {
	e := embedder{closed: new(bool)}
	answer, result, err := Answer(t.Context(), e, Job{Workload: task.Embedding})
	require.NoError(t, err)
	require.JSONEq(t, `[]`, string(answer))
	require.Equal(t, 3, result.TokensIn)
	for _, w := range []task.Workload{task.Embedding, task.Rerank} {
		_, _, err = Answer(t.Context(), bare{}, Job{Workload: w})
		require.True(t, task.HasCode(err, task.InvalidParams), "%s: %v", w, err)
	}
	_, _, err = Answer(t.Context(), e, Job{Workload: task.Completion})
	require.True(t, task.HasCode(err, task.Internal), "%v", err)
}
