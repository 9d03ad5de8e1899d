// SPDX-License-Identifier: GPL-3.0-or-later

package meter_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/record/ledger/meter"
)

// ORCH-3028
func TestALedgerCanBeOpenedAgain(t *testing.T) {
	r := prometheus.NewRegistry()
	bytes := func() float64 { return 7 }
	m, err := meter.New(r, bytes)
	require.NoError(t, err)
	m.Committed(3, time.Millisecond)
	require.InDelta(t, 1, testutil.ToFloat64(m.Commits), 0)
	_, err = meter.New(r, bytes)
	require.Error(t, err, "one ledger at a time")
	m.Unregister(r)
	_, err = meter.New(r, bytes)
	require.NoError(t, err)
}
