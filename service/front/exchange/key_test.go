// SPDX-License-Identifier: GPL-3.0-or-later

package exchange

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-405: what is no key is refused by name, and nothing is accepted.
func TestKeys(t *testing.T) {
	for _, c := range []struct {
		sent []string
		key  string
		says string
	}{
		{nil, "", ""},
		{[]string{""}, "", ""},
		{[]string{"a key ~"}, "a key ~", ""},
		{[]string{strings.Repeat("k", 255)}, strings.Repeat("k", 255), ""},
		{[]string{strings.Repeat("k", 256)}, "", "has 256 bytes, and may have 255"},
		{[]string{strings.Repeat("k", 10<<10)}, "", "has 10240 bytes"},
		{[]string{"a\tb"}, "", "not printable ASCII"},
		{[]string{"kéy"}, "", "not printable ASCII"},
		{[]string{"a", "b"}, "", "2 headers"},
	} {
		h := http.Header{}
		for _, v := range c.sent {
			h.Add("idempotency-key", v)
		}
		key, err := keyOf(h)
		require.Equal(t, c.key, key)
		if c.says == "" {
			require.NoError(t, err)
			continue
		}
		require.True(t, task.HasCode(err, task.InvalidParams), err)
		require.ErrorContains(t, err, c.says)
		require.ErrorContains(t, err, "Idempotency-Key")
	}
}

// LO-405: one key of two callers, on two paths, or of two dialects is two keys.
func TestAKeyHasAScope(t *testing.T) {
	seen := map[string]bool{}
	for _, parts := range [][]string{
		{"openai", "/v1/completions", "localhost", "k"},
		{"openai", "/v1/chat/completions", "localhost", "k"},
		{"openai", "/v1/completions", "token:abc", "k"},
		{"ollama", "/v1/completions", "localhost", "k"},
		{"openai", "/v1/completions", "localhost", "k2"},
	} {
		id := scoped(parts...)
		require.Regexp(t, "^key-[0-9a-f]{32}$", id)
		require.False(t, seen[id], parts)
		require.Equal(t, id, scoped(parts...))
		seen[id] = true
	}
}

// known is a line of tasks some of whose ids are taken.
type known struct {
	Tasks

	taken map[string]error // how a task ended, or what a submit with its id is refused with
	asked []string
}

func (k *known) Submit(_ context.Context, q task.Request) (task.Admission, error) {
	k.asked = append(k.asked, q.ID)
	a := task.Admission{TaskID: q.ID}
	err := k.taken[q.ID]
	if e, ok := errors.AsType[*task.Error](err); ok && e.Code != task.Conflict && e.Code != task.Deleted {
		a.Failure, err = e, nil
	}
	return a, err
}

// LO-405: a key whose task ended without an answer gets another task. One that has an answer, or had one, does not.
func TestAKeysTasks(t *testing.T) {
	worker := task.Errorf(task.WorkerReset, "lost")
	for name, c := range map[string]struct {
		taken map[string]error
		asked []string
		code  task.Code
	}{
		"new, lives, or has an answer": {nil, []string{"k"}, ""},
		"failed":                       {map[string]error{"k": worker}, []string{"k", "k-2"}, ""},
		"failed and canceled":          {map[string]error{"k": worker, "k-2": task.Errorf(task.Canceled, "left")}, []string{"k", "k-2", "k-3"}, ""},
		"failed for good":              {map[string]error{"k": task.Errorf(task.DecodeTimeout, "too long")}, []string{"k"}, ""},
		"another body":                 {map[string]error{"k": task.Errorf(task.Conflict, "task_id k is taken")}, []string{"k"}, task.Conflict},
		"deleted":                      {map[string]error{"k": task.Errorf(task.Deleted, "task_id k")}, []string{"k"}, task.Deleted},
		"failed, and then deleted":     {map[string]error{"k": worker, "k-2": task.Errorf(task.Deleted, "task_id k")}, []string{"k", "k-2"}, task.Deleted},
	} {
		t.Run(name, func(t *testing.T) {
			k := &known{taken: c.taken}
			x := New("test", Options{Tasks: k})
			a, err := x.submitOnce(t.Context(), task.Request{}, "k")
			require.Equal(t, c.asked, k.asked)
			require.Equal(t, c.asked[len(c.asked)-1], a.TaskID)
			if c.code == "" {
				require.NoError(t, err)
				return
			}
			require.True(t, task.HasCode(err, c.code))
			require.ErrorContains(t, err, "Idempotency-Key")
			require.NotContains(t, task.AsError(err).Message, "task_id", "no client of the dialect chose an id")
		})
	}
	always := map[string]error{"k": worker}
	for n := range 2 * maxRuns {
		always[fmt.Sprintf("k-%d", n)] = worker
	}
	k := &known{taken: always}
	a, err := New("test", Options{Tasks: k}).submitOnce(t.Context(), task.Request{}, "k")
	require.NoError(t, err)
	require.Equal(t, "k-16", a.TaskID, "a bound")
	require.Equal(t, worker, a.Failure)
}
