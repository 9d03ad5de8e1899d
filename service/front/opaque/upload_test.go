// SPDX-License-Identifier: GPL-3.0-or-later

package opaque

import (
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// The transport closes the server's connection when the request's body fails, and with it an answer that is on its way. So the body fails only once the answer is through,
// and not at all where the server has got it whole.
//
// LO-466
func TestABodyDoesNotCutItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		u := &upload{turn: make(chan struct{}, 1), gone: gone, left: 5, over: true}
		failed := make(chan error, 1)
		go func() {
			_, err := u.Read(make([]byte, 8))
			failed <- err
		}()
		synctest.Wait()
		require.Empty(t, failed)
		close(gone)
		require.ErrorIs(t, <-failed, errOver)

		u = &upload{turn: make(chan struct{}, 1), gone: make(chan struct{}), over: true}
		_, err := u.Read(make([]byte, 8))
		require.ErrorIs(t, err, io.EOF)
	})
}
