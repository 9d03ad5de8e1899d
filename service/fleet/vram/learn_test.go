// SPDX-License-Identifier: GPL-3.0-or-later

package vram

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-501
func TestWhatWasObservedReplacesTheEstimate(t *testing.T) {
	var l Learned
	now := time.Unix(1000, 0)
	of, other := Load{Model: "m", Ctx: 256, Slots: 1, Cards: 1}, Load{Model: "m", Ctx: 512, Slots: 1, Cards: 1}
	require.EqualValues(t, 1000, l.Need(of, "", 1000, now))
	require.NoError(t, l.Observe(of, "3090", 2000, now))
	require.NoError(t, l.Observe(of, "3060", 1800, now))
	require.NoError(t, l.Observe(of, "3060", 0, now)) // the driver did not tell
	require.EqualValues(t, 2100, l.Need(of, "", 1000, now))
	require.EqualValues(t, 1890, l.Need(of, "3060", 1000, now))
	require.EqualValues(t, 1000, l.Need(other, "", 1000, now))

	l.TooLittle(of, 2100, now)
	require.EqualValues(t, 2415, l.Need(of, "", 1000, now), "the same is not tried again")
	require.EqualValues(t, 2100, l.Need(of, "", 1000, now.Add(shortFor)), "but not for ever")
}
