// SPDX-License-Identifier: GPL-3.0-or-later

package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/task"
)

// plain are the rig's replicas, whose engines have no faces. They keep the messages of their jobs.
type plain struct {
	Replicas
	messages *[][]task.Message
}

func (p plain) Lease(id string) (Lease, error) {
	l, err := p.Replicas.Lease(id)
	return faceless{l, p.messages}, err
}

type faceless struct {
	Lease
	messages *[][]task.Message
}

func (l faceless) Engine() engine.Engine { return small{l.Lease.Engine(), l.messages} }

type small struct {
	engine.Engine
	messages *[][]task.Message
}

func (s small) Generate(ctx context.Context, job engine.Job, emit func(task.Piece) error) (engine.Result, error) {
	*s.messages = append(*s.messages, job.Messages)
	return s.Engine.Generate(ctx, job, emit)
}

// An engine that does not tell of its busy slots stops when its connection is closed: a cancel waits for nothing more, and its
// worker is left alone. One that templates nothing gets the messages as they are, and one that makes no embeddings is not asked.
//
// ORCH-3026, ORCH-3054
func TestAnEngineWithoutFacesIsDoneWithout(t *testing.T) {
	run(t, 1, nil, func(t *testing.T, r *rig) {
		synctest.Wait()
		var messages [][]task.Message
		r.s.o.Replicas = plain{r.s.o.Replicas, &messages}
		r.replicas[0].stuck = true
		r.must("long", tokens(1000))
		time.Sleep(25 * time.Millisecond)
		_, err := r.s.Cancel(t.Context(), "long")
		require.NoError(t, err)
		r.must("next", tokens(1))
		require.Contains(t, r.read("next"), "event: end\n")
		time.Sleep(10 * time.Second)
		r.mu.Lock()
		require.Empty(t, r.replicas[0].replaced)
		r.mu.Unlock()

		r.must("chat", tokens(1), func(t *task.Task) {
			t.Prompt, t.Request.Messages = "", []task.Message{{Role: "user", Content: "hello"}}
		})
		require.NotContains(t, r.read("chat"), "templated")
		require.Equal(t, [][]task.Message{nil, nil, {{Role: "user", Content: "hello"}}}, messages)

		r.must("vectors", func(t *task.Task) { t.Request.Workload = task.Embedding })
		require.Contains(t, r.read("vectors"), "makes no embeddings")
	})
}
