// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/standin"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// stage is a folder with the program and the stand-ins, which are the cards.
type stage struct{ root, dir, exe, state string }

func newStage(t *testing.T) *stage {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	s := &stage{root: root, dir: dir, exe: filepath.Join(dir, "smoke"), state: filepath.Join(dir, "cards")}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.exe, "./ci/smoke")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, err = nvmlstub.Build(dir)
	require.NoError(t, err)
	return s
}

func (s *stage) run(t *testing.T, env ...string) (said string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.exe)
	cmd.Dir = s.root
	cmd.Env = append(append(os.Environ(), "LD_LIBRARY_PATH="+s.dir, nvmlstub.Env+"="+s.state), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// HME-040: where NVML finds nothing, or cards of one size, the test fails and says so.
func TestWithoutTheCardsItFails(t *testing.T) {
	s := newStage(t)
	said, err := s.run(t)
	require.Error(t, err)
	require.Contains(t, said, "smoke: FAILED: NVML finds no GPU")
	require.Contains(t, said, "reference box")

	equal := nvmlstub.Reference()
	equal.Cards[1].Total = equal.Cards[0].Total
	require.NoError(t, equal.Write(s.state))
	said, err = s.run(t)
	require.Error(t, err)
	require.Contains(t, said, "two GPUs of unequal memory")
	require.Contains(t, said, "GPU 1: NVIDIA GeForce RTX 3060, 24576 MiB")
}

// HME-040, ORCH-1103: with two unequal cards a task runs on each, a placement is explained, and a drained pool gives its memory
// back. The cards, and the workers on them, are stand-ins.
func TestItRunsOnTwoUnequalCards(t *testing.T) {
	s := newStage(t)
	libs, err := provision.LocateEngineLibs()
	require.NoError(t, err)
	require.NoError(t, nvmlstub.Reference().Write(s.state))
	exe := filepath.Join(s.dir, "standin")
	require.NoError(t, standin.Build(t.Context(), s.root, exe))
	args, err := json.Marshal(standin.Args(s.state, filepath.Join(s.root, "models", "haiku", "haiku.gguf"), libs))
	require.NoError(t, err)
	pools := func(sizes ...int64) string {
		text := "pools:\n"
		for _, size := range sizes {
			name := fmt.Sprintf("m%d", size)
			require.NoError(t, standin.WriteModel(filepath.Join(s.dir, name+".gguf"), name, size<<30))
			text += fmt.Sprintf("  - {id: %s, model: {ref: \"file:%[1]s.gguf\"}, ctx: 256, provisioning: {mode: binary, path: %q, args: %s}}\n", name, exe, args)
		}
		path := filepath.Join(s.dir, "config.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return configEnv + "=" + path
	}
	said, err := s.run(t, pools(20, 6))
	require.NoError(t, err, "%s", said)
	t.Log(said)
	require.Contains(t, said, "a task of pool 'm20' ran on replica m20-0, on GPU [0]")
	require.Contains(t, said, "a task of pool 'm6' ran on replica m6-0, on GPU [1]")
	require.Contains(t, said, "explain 'm20': m20 m20-0: ")
	require.Contains(t, said, "pool 'm20' was drained, and its memory is free")
	require.Contains(t, said, "smoke: passed")

	said, err = s.run(t, pools(6))
	require.Error(t, err)
	require.Contains(t, said, "no task ran on GPU 0 (NVIDIA GeForce RTX 3090)")
}
