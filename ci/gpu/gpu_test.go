// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/gpuprobe"
	"github.com/llama-orch/llama-orch/harness/nvmlstub"
)

// The package is unpacked in a folder of its own and run with an empty environment: no compiler, no Go, no source tree. The machine's driver is a stand-in.
//
// LO-884, LO-885
func TestThePackageRunsByItself(t *testing.T) {
	dir, machine := t.TempDir(), t.TempDir()
	t.Chdir("../..")
	packed, err := build(t.Context(), dir)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "tar", "-xzf", packed, "-C", machine).CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, err = nvmlstub.Build(machine)
	require.NoError(t, err)
	state := filepath.Join(machine, "cards")
	require.NoError(t, nvmlstub.Reference().Write(state))
	tools := filepath.Join(machine, "tools")
	require.NoError(t, os.Mkdir(tools, 0o700))
	for _, tool := range []string{"sh", "dirname", "mkdir", "sed", "uname", "sleep"} {
		path, err := exec.LookPath(tool)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(tools, tool)))
	}
	run := exec.CommandContext(t.Context(), filepath.Join(machine, "llama-orch-gpu-probe", script))
	run.Env = []string{"PATH=" + tools, "LD_LIBRARY_PATH=" + machine, nvmlstub.Env + "=" + state}
	out, err = run.CombinedOutput()
	results := filepath.Join(machine, "llama-orch-gpu-probe", "results")
	if err != nil {
		logs, _ := filepath.Glob(filepath.Join(results, "*"))
		for _, log := range logs {
			text, _ := os.ReadFile(log)
			t.Logf("%s:\n%s", filepath.Base(log), text)
		}
	}
	require.NoError(t, err, "%s", out)
	for _, line := range []string{"gpu.test: passed", "vram.test: passed", "nvmlstub.test: passed", "gpuprobe.test: passed", "gpuprobe: what the cards tell can be"} {
		require.Contains(t, string(out), line)
	}
	text, err := os.ReadFile(filepath.Join(results, "gpuprobe.json"))
	require.NoError(t, err)
	var report gpuprobe.Report
	require.NoError(t, json.Unmarshal(text, &report))
	require.True(t, report.Plausible)
	require.Equal(t, "NVIDIA GeForce RTX 3060", report.Samples[0].Cards[1].Name)
}
