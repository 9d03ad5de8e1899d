// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// HME-040: where NVML finds nothing, or cards of one size, the test fails and says so.
func TestWithoutTheCardsItFails(t *testing.T) {
	dir := t.TempDir()
	lib, err := nvmlstub.Build(dir)
	require.NoError(t, err)
	state := filepath.Join(dir, "cards")
	t.Setenv(nvmlstub.Env, state)
	var said strings.Builder
	err = run(t.Context(), machine{library: lib}, dir, &said)
	require.ErrorContains(t, err, "NVML finds no GPU")
	require.ErrorContains(t, err, "reference box")

	equal := nvmlstub.Reference()
	equal.Cards[1].Total = equal.Cards[0].Total
	require.NoError(t, equal.Write(state))
	err = run(t.Context(), machine{library: lib}, dir, &said)
	require.ErrorContains(t, err, "two GPUs of unequal memory")
	require.Contains(t, said.String(), "GPU 1: NVIDIA GeForce RTX 3060, 24576 MiB")
}

// HME-040, ORCH-1103: with two unequal cards a task runs on each, models that do not fit together take turns, a placement is
// explained, and a drained pool gives its memory back. The cards, and the workers on them, are stand-ins.
func TestItRunsOnTwoCardsThatAreNotThere(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	t.Setenv(nvmlstub.Env, "") // put back at the end
	var said strings.Builder
	require.NoError(t, smoke(t.Context(), true, &said), "%s", &said)
	t.Log(said.String())
	for _, part := range []string{
		"GPU 0: NVIDIA GeForce RTX 3090, 24576 MiB", "GPU 1: NVIDIA GeForce RTX 3060, 12288 MiB",
		"a task of pool 'chat' ran on replica chat-0, on GPU [1]",
		"a task of pool 'coder' ran on replica coder-0, on GPU [0]",
		"a task of pool 'reviewer' ran on replica reviewer-0, on GPU [0]",
		"explain 'chat': chat chat-0: ",
		"pool 'chat' was drained, and its memory is free",
	} {
		require.Contains(t, said.String(), part)
	}
}

// HME-040: a card that nobody used is a failure, which names it, and shows the daemon's log.
func TestACardThatIsNotUsedIsAFailure(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	t.Setenv(nvmlstub.Env, "") // put back at the end
	dir := t.TempDir()
	m, err := standIn(t.Context(), dir, []model{{"small", 6, false}})
	require.NoError(t, err)
	var said strings.Builder
	err = run(t.Context(), m, dir, &said)
	require.ErrorContains(t, err, "no task ran on GPU 0 (NVIDIA GeForce RTX 3090)")
	require.ErrorContains(t, err, "the daemon's log ends with:\n{")
}
