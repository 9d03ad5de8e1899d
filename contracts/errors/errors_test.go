// SPDX-License-Identifier: GPL-3.0-or-later

package errors_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/errors"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/task"
)

// LO-646: each code has a section under its name, in their order, with the status that it is answered with and whether it ends streams.
func TestEachCodeHasASection(t *testing.T) {
	var codes []string
	for _, code := range task.Codes() {
		codes = append(codes, string(code))
	}
	var sections []string
	for _, s := range errors.Sections() {
		sections = append(sections, s.Code)
		require.Equal(t, gate.Refuse(task.Errorf(task.Code(s.Code), "x")).Status, s.Status, s.Code)
		require.Equal(t, gate.StreamOnly(task.Code(s.Code)), strings.HasPrefix(s.Text, "In the stream of a task that began: "), s.Code)
		require.Greater(t, len(s.Text), 60, s.Code)
	}
	require.Equal(t, codes, sections)
}
