// SPDX-License-Identifier: GPL-3.0-or-later

package spare_test

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/spare"
)

// LO-839
func TestAShortageIsTold(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOMEM: true, syscall.EADDRNOTAVAIL: true,
		syscall.ECONNREFUSED: false, syscall.ECONNRESET: false, os.ErrDeadlineExceeded: false, os.ErrNotExist: false,
	} {
		require.Equal(t, want, spare.Short(fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", err)})), err)
	}
	require.False(t, spare.Short(nil))
}

// What is opened through the reserve is opened while there is one; it fills again once there is room. Not parallel: the limit is the process's.
// LO-839
func TestTheReserveIsForWhoeverNeedsIt(t *testing.T) {
	open := func() (*os.File, error) { return os.Open(os.DevNull) }
	first, err := open()
	require.NoError(t, err)
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	restore := func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)) }
	defer restore()
	limit := before
	limit.Cur = uint64(first.Fd()) + 12
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	spare.Keep(4)
	defer spare.Keep(0)
	var taken []*os.File
	for {
		f, err := open()
		if err != nil {
			require.ErrorIs(t, err, syscall.EMFILE)
			break
		}
		taken = append(taken, f)
	}
	shut := func(files []*os.File) {
		for _, f := range files {
			require.NoError(t, f.Close())
		}
	}
	var lent []*os.File
	for range 4 {
		f, err := spare.Get(open)
		require.NoError(t, err)
		lent = append(lent, f)
	}
	_, err = spare.Get(open)
	require.True(t, spare.Short(err), "the reserve is used up: %v", err)
	shut(taken)
	f, err := spare.Get(open)
	require.NoError(t, err)
	shut(append(lent, f, first))
	taken = nil
	for {
		f, err := open()
		if err != nil {
			break
		}
		taken = append(taken, f)
	}
	f, err = spare.Get(open)
	require.NoError(t, err, "the reserve is there again")
	shut(append(taken, f))
}

// LO-839
func TestTheLimitIsRaised(t *testing.T) {
	limit, err := spare.Raise()
	require.NoError(t, err)
	var now syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now))
	require.Equal(t, now.Cur, limit)
	require.Equal(t, min(now.Max, 1<<17), limit)
}
