// SPDX-License-Identifier: GPL-3.0-or-later

package measure

import (
	"context"

	"github.com/llama-orch/llama-orch/ci/command"
)

// Sim runs days of load through the scheduling policies on a modelled box, prints the tables of .docs/simulation.md, and
// writes its plots. It takes some 20 seconds.
func Sim(ctx context.Context) error {
	return command.Run(ctx, "go", "run", "./harness/sim/cmd/sim", ".docs")
}
