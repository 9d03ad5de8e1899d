// SPDX-License-Identifier: GPL-3.0-or-later

package discovery_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/contracts/discovery"
)

// LO-642: RFC 6763 takes a name of 1 to 15 letters, digits and hyphens, and a key of printable ASCII without `=`.
func TestTheNamesAreLegal(t *testing.T) {
	require.Regexp(t, `^_[a-z][a-z-]{0,13}[a-z]\._tcp$`, discovery.Type)
	require.Regexp(t, `^[a-z]{1,9}$`, discovery.TLS)
}
