// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-642: it is off by default, and refused where no other machine can reach the port.
func TestWhatIsAnnounced(t *testing.T) {
	parse := func(bind, announce string) (Config, error) {
		return Parse("c.yaml", fmt.Appendf(nil, "bind_addr: %q\ndata_dir: /d\n%s\npools:\n  - {id: p, model: {id: m, ref: x}, provisioning: {mode: external, urls: [\"http://127.0.0.1:1\"]}}\n", bind, announce),
			func(string) string { return "" })
	}
	c, err := parse("0.0.0.0:8080", "")
	require.NoError(t, err)
	require.Equal(t, Announce{}, c.Announce)
	require.NotContains(t, c.Describe(), "multicast")

	c, err = parse("0.0.0.0:8080", "announce: {mdns: true, name: The box under the stairs}")
	require.NoError(t, err)
	require.Equal(t, "The box under the stairs", c.Announce.Name)
	require.Contains(t, c.Describe(), "announced on the local network")

	for _, bind := range []string{"127.0.0.1:8080", "localhost:8080", "[::1]:8080"} {
		_, err = parse(bind, "announce: {mdns: true}")
		require.ErrorContains(t, err, "no other machine can reach", bind)
		require.ErrorContains(t, err, "c.yaml:3:", bind)
	}
	for name, wrong := range map[string]string{strings.Repeat("ä", 32): "64 bytes", "a\\tb": "control character", "a\\u200bb": "read aloud", " a": "read aloud"} {
		_, err = parse("0.0.0.0:8080", fmt.Sprintf("announce: {mdns: true, name: \"%s\"}", name))
		require.ErrorContains(t, err, wrong, name)
	}
}
