// SPDX-License-Identifier: GPL-3.0-or-later

//go:build llamaserver

package pool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/pool"
	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// ORCH-3200, ORCH-3045
func TestRealLlamaServersOfOneFingerprintGiveTheSameBytes(t *testing.T) {
	spec := haikus(t)
	var err error
	spec.Mode = pool.Binary
	spec.BinaryPath, err = provision.LocateLlamaServer()
	require.NoError(t, err)
	sameBytes(t, spec)
}
