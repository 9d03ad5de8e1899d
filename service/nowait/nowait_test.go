// SPDX-License-Identifier: GPL-3.0-or-later

package nowait

import (
	"bytes"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// pair is a connection from both ends.
func pair(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	b, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// ORCH-3026
func TestNothingIsWaitedFor(t *testing.T) {
	here, there := pair(t)
	raw, err := here.SyscallConn()
	require.NoError(t, err)
	b := make([]byte, 64<<10)

	require.NoError(t, raw.Control(func(fd uintptr) {
		_, err := Read(fd, b)
		require.ErrorIs(t, err, syscall.EAGAIN)
		n, err := Write(fd, nil)
		require.NoError(t, err)
		require.Zero(t, n)
	}))

	sent := 0
	require.NoError(t, raw.Control(func(fd uintptr) {
		for {
			n, err := Write(fd, bytes.Repeat([]byte{byte(sent)}, len(b)))
			if err != nil {
				require.ErrorIs(t, err, syscall.EAGAIN, "the peer does not read")
				return
			}
			sent += n
		}
	}))
	require.Positive(t, sent)

	_, err = there.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, there.CloseWrite())
	got, ended := 0, false
	require.NoError(t, raw.Read(func(fd uintptr) bool {
		for { // until there is nothing: of the data and the end together the poller says but once
			n, err := Read(fd, b[got:])
			got += n
			if ended = err == nil && n == 0; ended || err != nil {
				return ended
			}
		}
	}))
	require.Equal(t, "hello", string(b[:got]))

	require.NoError(t, there.SetLinger(0))
	require.NoError(t, there.Close())
	require.NoError(t, raw.Control(func(fd uintptr) {
		_, err := Write(fd, b[:1])
		require.ErrorIs(t, err, syscall.EPIPE)
	}))
}
