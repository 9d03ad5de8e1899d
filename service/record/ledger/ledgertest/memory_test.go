// SPDX-License-Identifier: GPL-3.0-or-later

package ledgertest_test

import (
	"testing"

	"github.com/llama-orch/llama-orch/service/record/ledger"
	"github.com/llama-orch/llama-orch/service/record/ledger/ledgertest"
)

// The plain ledger keeps the promises that it is there to show, and the suite can be kept by a ledger that several share.
// LO-202
func TestMemoryKeepsThePromises(t *testing.T) {
	ledgertest.Run(t, func(testing.TB) ledgertest.Opened { return memory(ledgertest.NewStore()) })
}

func memory(s *ledgertest.Store) ledgertest.Opened {
	m := s.Open()
	return ledgertest.Opened{
		Ledger: m, Settle: func() {}, Lapse: m.Lapse, Sweep: s.Sweep,
		Second: func() (ledger.Ledger, error) { return s.Open(), nil },
		Crash:  func() (ledgertest.Opened, error) { m.Lapse(); return memory(s), nil },
		Reopen: func() (ledgertest.Opened, error) { return memory(s), m.Close() },
	}
}
