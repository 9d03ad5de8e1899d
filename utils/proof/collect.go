// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/internal/atomicfile"
	"github.com/llama-orch/llama-orch/sdk"
)

// Source has the bundles of tasks. *sdk.Client is one.
type Source interface {
	Proof(ctx context.Context, taskID string) (*proof.Bundle, []byte, error)
}

var _ Source = (*sdk.Client)(nil)

// Collect writes the bundles of tasks into a folder, each as TASK.json, and returns the reports of all that it could get. The errors of the others are
// joined; each names its task.
func Collect(ctx context.Context, from Source, into *os.Root, tasks ...string) (reports []Report, err error) {
	for _, id := range tasks {
		_, text, fault := from.Proof(ctx, id)
		if fault == nil {
			fault = atomicfile.WriteIn(into, id+".json", append(text, '\n'), 0o600)
		}
		if fault != nil {
			err = errors.Join(err, fmt.Errorf("the proof bundle of task %s: %w", id, fault))
			continue
		}
		reports = append(reports, Verify(text))
	}
	return reports, err
}
