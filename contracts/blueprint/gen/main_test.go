// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-925: the schema beside this program is what the program prints.
func TestTheSchemaIsThatOfThisProgram(t *testing.T) {
	var made strings.Builder
	require.NoError(t, write(&made))
	there, err := os.ReadFile("../blueprint.schema.json")
	require.NoError(t, err)
	require.Equal(t, string(there), made.String())
}
