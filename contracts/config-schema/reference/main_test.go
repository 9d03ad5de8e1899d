// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

// LO-647: the reference has each key with what it stands under, its default and its values.
func TestTheReferenceHasEveryKey(t *testing.T) {
	schema, err := config.Schema()
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, write(&out, schema))
	for _, row := range []string{
		"| `bind_addr` | `127.0.0.1:8080` | text |",
		"| `pools[]` | **needed** | list of mappings |",
		"| `body_bytes` | `10485760` | integer, 1024 to 1073741824 |",
		"| `outbound` | `enforce` | `enforce`, `dry_run`, `off` |",
		"| `provisioning.mode` | `builtin` |",
		"| `params.override.seed` |",
		"## `sampler_profiles.NAME`",
	} {
		require.Contains(t, out.String(), row)
	}
	require.NotContains(t, out.String(), "e+", "a number is written in full")
}

func TestASchemaThatIsNone(t *testing.T) {
	require.ErrorContains(t, write(&bytes.Buffer{}, []byte("{")), "read the schema")
}

func TestASentenceBreaksNoTable(t *testing.T) {
	require.Equal(t, `Either a\|b.`, sentence("either\n a|b"))
	require.Empty(t, sentence(""))
}
