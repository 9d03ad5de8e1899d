// SPDX-License-Identifier: GPL-3.0-or-later

package program_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
)

// The agent of examples/agent, as it is there, against a daemon whose engine calls its tool, calls it for a file outside the folder, and then answers.
//
// LO-917, LO-911
func TestTheAgentOfTheExamples(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "colour.txt"), []byte("teal"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret.txt"), []byte("hush"), 0o600))
	call := func(path string) []scripted.Step {
		return []scripted.Step{{Call: &scripted.Call{Name: "read", Arguments: fmt.Sprintf(`{"path":%q}`, path)}}}
	}
	engine := scripted.New(scripted.Options{Script: scripted.Script{Rules: []scripted.Rule{
		{Role: "user", Play: call("colour.txt")},
		{Role: "tool", Match: "teal", Play: call("../secret.txt")},
		{Role: "tool", Match: "../secret.txt", Play: []scripted.Step{{Text: "It is teal."}}},
	}}})
	server := httptest.NewServer(engine)
	t.Cleanup(server.Close)

	lab, err := daemon.NewLab(t.Context(), dir, "../..", "./examples/agent")
	require.NoError(t, err)
	t.Cleanup(lab.Close)
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "bind_addr: 127.0.0.1:0\ndata_dir: data\nauth: {optional_on_loopback: true}\n"+
		"pools:\n  - {id: main, model: {id: actor, ref: elsewhere}, provisioning: {mode: external, urls: [%q]}}\n", server.URL), 0o600))
	d, err := lab.Serve(t.Context(), daemon.Options{Config: config, Options: process.Options{Args: []string{"--no-self-test"}, Env: lab.Env(dir, nil)}})
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	_, err = d.Idle(t.Context(), "main")
	require.NoError(t, err)

	cmd := exec.CommandContext(context.Background(), lab.Program("agent"), "actor", folder, "What colour is it?")
	cmd.Env = append(os.Environ(), "LLORCH_ADDR="+d.URL)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `^It is teal\.\n\(2 calls, transcript [0-9a-f]{64}\)\n$`, string(out))
	var all strings.Builder
	for _, r := range engine.Requests() {
		all.Write(r.Body)
	}
	require.NotContains(t, all.String(), "hush", "the tool reads nothing outside its folder")
}
