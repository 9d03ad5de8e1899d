// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
)

// agent starts `llama-orch mcp` as agents do, by the official client.
func agent(t *testing.T, addr string) (*mcp.ClientSession, *exec.Cmd) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "mcp")
	cmd.Env = append(os.Environ(), asMain+"=1", addrEnv+"="+addr)
	cmd.Stderr = os.Stderr
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = session.Close() })
	return session, cmd
}

// use calls a tool, and reads its structured result.
func use[Out any](t *testing.T, s *mcp.ClientSession, name string, in any) (out Out, failure string) {
	t.Helper()
	result, err := s.CallTool(context.Background(), &mcp.CallToolParams{Name: name, Arguments: in})
	require.NoError(t, err)
	if result.IsError {
		return out, result.Content[0].(*mcp.TextContent).Text
	}
	raw, err := json.Marshal(result.StructuredContent)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &out))
	return out, ""
}

// LO-936: an agent submits, sees its place in line, and fetches the answer later, in another session.
func TestMCP(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	addr := d.serve(t)
	s, _ := agent(t, addr)
	listed, err := s.ListTools(t.Context(), nil)
	require.NoError(t, err)
	var names []string
	for _, tool := range listed.Tools {
		names = append(names, tool.Name)
		require.NotEmpty(t, tool.Description)
		require.NotNil(t, tool.InputSchema)
	}
	require.ElementsMatch(t, []string{"submit", "status", "result", "cancel", "tasks", "models"}, names)

	models, _ := use[modelsOut](t, s, "models", map[string]any{})
	require.Equal(t, "haiku", models.Models[0].Model)
	require.Equal(t, 3, models.Models[0].Waiting)

	admitted, failure := use[submitOut](t, s, "submit", map[string]any{"prompt": "p", "system": "s", "temperature": 0, "task_id": "t"})
	require.Empty(t, failure)
	require.Equal(t, submitOut{TaskID: "t", PoolID: "default", Seed: 7}, admitted)
	require.Equal(t, gen.ModelRef("haiku"), d.request.ModelRef)
	require.Equal(t, gen.TaskRequestPriorityBatch, d.request.Priority.Value)
	require.Len(t, d.request.Messages, 2)
	require.True(t, d.request.Params.Value.Temperature.Set)

	d.stands(gen.TaskStateRunning)
	standing, _ := use[taskOut](t, s, "status", map[string]any{"task_id": "t"})
	require.Equal(t, "t", standing.TaskID)
	early, failure := use[resultOut](t, s, "result", map[string]any{"task_id": "t", "wait_ms": 1})
	require.Empty(t, failure, "it has not ended, which is no error")
	require.Empty(t, early.Text)
	require.Equal(t, "running", early.Task.State)
	require.NoError(t, s.Close())

	d.complete(t, "one ", "two")
	d.stands(gen.TaskStateCompleted)
	s, _ = agent(t, addr)
	done, failure := use[resultOut](t, s, "result", map[string]any{"task_id": "t"})
	require.Empty(t, failure)
	require.Equal(t, "one two", done.Text)
	require.Equal(t, "stop", done.FinishReason)
	require.Len(t, done.SHA256, 64)
	canceled, _ := use[cancelOut](t, s, "cancel", map[string]any{"task_id": "t"})
	require.Equal(t, "canceled", canceled.Outcome)
	list, _ := use[tasksOut](t, s, "tasks", map[string]any{"limit": 5})
	require.NotEmpty(t, list.Tasks)
}

// LO-936: what goes wrong is the tool's answer, in words that say what to do, and the next call works.
func TestMCPErrors(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	s, _ := agent(t, d.serve(t))
	d.refuse = refusal(429, gen.ErrorCodeADMISSIONREJECT)
	_, failure := use[submitOut](t, s, "submit", map[string]any{"prompt": "p", "model": "haiku"})
	require.Equal(t, "not so (ADMISSION_REJECT); try again in 1.2 s; look there", failure)
	d.refuse = nil
	_, failure = use[submitOut](t, s, "submit", map[string]any{"prompt": "p", "model": "haiku", "seed": -5})
	require.Contains(t, failure, "seed")
	_, failure = use[submitOut](t, s, "submit", map[string]any{})
	require.Contains(t, failure, "prompt")
	_, failure = use[taskOut](t, s, "status", map[string]any{"task_id": "../x"})
	require.NotEmpty(t, failure)
	_, failure = use[submitOut](t, s, "submit", map[string]any{"prompt": "p", "model": "haiku"})
	require.Empty(t, failure)

	nobody, _ := agent(t, "http://127.0.0.1:1")
	_, failure = use[modelsOut](t, nobody, "models", map[string]any{})
	require.Contains(t, failure, "is the server running")
}

// LO-936: a signal ends it, though nobody closes its standard input.
func TestMCPEndsBySignal(t *testing.T) {
	t.Parallel()
	s, cmd := agent(t, newDaemon().serve(t))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = s.Wait()  // it ends with the process's standard output, and says how
	_ = s.Close() // the transport waits for the process, and nobody else may
	require.NotNil(t, cmd.ProcessState)
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
}
