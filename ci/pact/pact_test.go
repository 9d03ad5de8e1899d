// SPDX-License-Identifier: GPL-3.0-or-later

package pact

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The go command keys its cache by the environment of the linker, so that naming a folder twice would build all again.
func TestTheLinkerIsToldOfTheLibraryOnce(t *testing.T) {
	t.Setenv("LIBRARY_PATH", "")
	require.NoError(t, toLinker("/lib/pact"))
	require.Equal(t, "/lib/pact", os.Getenv("LIBRARY_PATH"))

	t.Setenv("LIBRARY_PATH", "/lib/other")
	require.NoError(t, toLinker("/lib/pact"))
	require.NoError(t, toLinker("/lib/pact"))
	require.Equal(t, "/lib/pact:/lib/other", os.Getenv("LIBRARY_PATH"))
}
