// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

// LO-636: the manual of the packages has each command and each flag.
func TestTheManualHasEachCommand(t *testing.T) {
	page, err := os.ReadFile("../../deploy/package/orchestratord.1")
	require.NoError(t, err)
	text := strings.ReplaceAll(string(page), `\-`, "-")
	n := 0
	for _, leaf := range kong.Must(&cli{}, kong.Name("orchestratord")).Model.Leaves(true) {
		name := strings.TrimSuffix(strings.TrimPrefix(leaf.Path(), "orchestratord "), " ")
		require.Contains(t, text, `\fB`+name+`\fR`)
		n++
		for _, group := range leaf.AllFlags(true) {
			for _, flag := range group {
				require.True(t, flag.Name == "help" || strings.Contains(text, `\fB--`+flag.Name+`\fR`) || strings.Contains(text, `\fB--no-`+flag.Name+`\fR`), "%s --%s", name, flag.Name)
			}
		}
	}
	require.Greater(t, n, 8)
}
