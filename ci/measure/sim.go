// SPDX-License-Identifier: GPL-3.0-or-later

package measure

import (
	"os"

	"github.com/llama-orch/llama-orch/harness/sim"
)

// Sim runs days of load through the scheduling policies on a modelled box, prints the tables of .docs/simulation.md, and
// writes its plots. It takes some 20 seconds.
func Sim() error { return sim.Report(os.Stdout, ".docs") }
