// SPDX-License-Identifier: GPL-3.0-or-later

package port

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// An address of IPv4 is listened on by IPv4 alone, and one that is taken is told with what to set.
func TestListen(t *testing.T) {
	l, err := Listen(t.Context(), "0.0.0.0:0")
	require.NoError(t, err)
	defer l.Close()
	at, err := netip.ParseAddrPort(l.Addr().String())
	require.NoError(t, err)
	require.True(t, at.Addr().Is4(), "not [::], which is open to IPv6 too")
	_, err = Listen(t.Context(), at.String())
	require.ErrorContains(t, err, "set bind_addr (or LLORCH_BIND_ADDR) to another port")
	_, err = Listen(t.Context(), "nothing")
	require.ErrorContains(t, err, "listen on nothing")
	for addr, want := range map[string]string{"127.0.0.1:1": "tcp4", "[::1]:1": "tcp", "localhost:1": "tcp", "": "tcp"} {
		require.Equal(t, want, family(addr), addr)
	}
}
