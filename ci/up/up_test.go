// SPDX-License-Identifier: GPL-3.0-or-later

package up

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATakenAddressIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.ErrorContains(t, addrFree(addr), addr+" is taken, so nothing was started")
	require.NoError(t, l.Close())
	require.NoError(t, addrFree(addr))
	require.ErrorContains(t, addrFree("127.0.0.1:no-port"), "LLORCH_BIND_ADDR chooses another address")
}

// Nothing of the log is lost, and none of it comes between the lines of the haiku.
func TestTheLogWaitsForTheHaiku(t *testing.T) {
	var terminal strings.Builder
	log := &valve{to: &terminal}
	for _, line := range []string{"ready\n", "placed\n"} {
		_, err := log.Write([]byte(line))
		require.NoError(t, err)
		log.set(true)
		terminal.WriteString("rain\n")
	}
	log.set(false)
	require.Equal(t, "ready\nrain\nrain\nplaced\n", terminal.String())
}
