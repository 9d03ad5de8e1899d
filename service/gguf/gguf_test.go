// SPDX-License-Identifier: GPL-3.0-or-later

package gguf_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/gguf"
)

// LO-802: the catalog's tests have the many ways in which a header can be wrong.
func TestAHeaderIsChecked(t *testing.T) {
	haiku := filepath.Join("..", "..", "models", "haiku", "haiku.gguf")
	require.NoError(t, gguf.Check(haiku))
	whole, err := os.ReadFile(haiku)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "x.gguf")
	for says, content := range map[string][]byte{
		"it does not begin as one":       []byte("no model"),
		"it ends within its header":      whole[:1000],
		"it is of version 9":             append([]byte("GGUF\x09\x00\x00\x00"), whole[8:]...),
		"it counts 18446744073709551615": append([]byte("GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"), whole[16:]...),
	} {
		require.NoError(t, os.WriteFile(path, content, 0o600))
		require.ErrorContains(t, gguf.Check(path), says)
	}
	require.ErrorContains(t, gguf.Check(t.TempDir()), "no regular file")
	require.ErrorIs(t, gguf.Check(path+"x"), os.ErrNotExist)
}
