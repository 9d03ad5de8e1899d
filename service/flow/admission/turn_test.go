// SPDX-License-Identifier: GPL-3.0-or-later

package admission

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// reading is a line whose engine takes its time for each prompt, and gives up where more than it can read are at it.
type reading struct {
	*desk
	takes time.Duration
	mu    sync.Mutex
	open  int
	order []string // of what was read
}

func (r *reading) Tokenizer(string) (Tokenizer, bool) { return r, true }

func (r *reading) ApplyTemplate(ctx context.Context, m []task.Message, _ *task.Chat) (string, error) {
	r.mu.Lock()
	r.open++
	crowded := r.open > readsAtOnce
	r.order = append(r.order, m[0].Content)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.open--
	}()
	if crowded {
		return "", task.Errorf(task.WorkerReset, "no engine of the pool answered")
	}
	select {
	case <-time.After(r.takes):
		return "one two three", nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (r *reading) CountTokens(context.Context, string) (int, error) { return 3, nil }

func (r *reading) Enqueue(_ context.Context, t task.Task) (task.Admission, error) {
	return t.Admission(), nil
}

// submits sends chats at once, each after the one before, and returns what became of each.
func (r *reading) submits(t *testing.T, n int) []error {
	s, _ := open(r.desk)
	s.o.Pools, s.o.Scheduler = r, r
	results := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			req := request()
			req.Prompt, req.Messages = "", []task.Message{{Role: task.RoleUser, Content: fmt.Sprint(i)}}
			_, results[i] = s.Submit(t.Context(), req)
		})
		synctest.Wait() // it has its place
	}
	all.Wait()
	return results
}

// LO-843: a thousand chats at once are all read, in their order, a few at a time.
func TestABurstOfChatsIsReadInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reading{desk: &desk{pools: []Pool{facts().Pool}}, takes: time.Second}
		for i, err := range r.submits(t, 1000) {
			require.NoError(t, err, i)
		}
		require.Len(t, r.order, 1000)
		for i, read := range r.order { // those that are read at a time begin in any order
			came, err := strconv.Atoi(read)
			require.NoError(t, err)
			require.InDelta(t, i, came, readsAtOnce)
		}
	})
}

// LO-843: who would wait too long for its turn is told so, with the time after which that may be better. A client that goes lets go of its place.
func TestABurstThatIsTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reading{desk: &desk{pools: []Pool{facts().Pool}}, takes: turnWithin/2 + time.Second}
		var refused int
		for _, err := range r.submits(t, 4*readsAtOnce) {
			if err == nil {
				continue
			}
			refused++
			e := task.AsError(err)
			require.Equal(t, task.AdmissionReject, e.Code)
			require.Equal(t, turnWithin, e.RetryAfter)
			require.True(t, e.Retriable)
		}
		require.Equal(t, 2*readsAtOnce, refused)

		var line turns
		var dones []func()
		for range readsAtOnce {
			done, err := line.take(t.Context(), "p")
			require.NoError(t, err)
			dones = append(dones, done)
		}
		ctx, leave := context.WithCancelCause(t.Context())
		went := errors.New("the client went")
		time.AfterFunc(time.Second, func() { leave(went) })
		_, err := line.take(ctx, "p")
		require.ErrorIs(t, err, went)
		_, err = line.take(t.Context(), "another")
		require.NoError(t, err, "each pool has its own line")
		dones[0]()
		_, err = line.take(t.Context(), "p")
		require.NoError(t, err)
	})
}
