// SPDX-License-Identifier: GPL-3.0-or-later

// Package proof collects the proof bundles of tasks, verifies them without a server, and compares two.
package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/sdk"
)

// Source has the bundles of tasks; an *sdk.Client is one.
type Source interface {
	Proof(ctx context.Context, taskID string) (*proof.Bundle, []byte, error)
}

// Collected is a bundle that was collected.
type Collected struct {
	TaskID string `json:"task_id"`
	Path   string `json:"path"`
	ID     string `json:"id"` // of the artifact: the digest of its bytes
}

// Collect saves the bundles of tasks that have ended, byte for byte, as FOLDER/TASK.proof.json. A task without one leaves the others alone; the error joins
// those of all that have none, each with the task's id.
func Collect(ctx context.Context, from Source, folder string, taskIDs ...string) ([]Collected, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("collecting proof bundles: %w", err)
	}
	root, err := os.OpenRoot(folder) // a task's id is the server's word, and no way out of the folder
	if err != nil {
		return nil, fmt.Errorf("collecting proof bundles: %w", err)
	}
	defer root.Close()
	var all []Collected
	var failures []error
	for _, id := range taskIDs {
		_, text, err := from.Proof(ctx, id)
		name := id + ".proof.json"
		if err == nil {
			err = root.WriteFile(name, text, 0o644)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("the proof bundle of task %s: %w", id, err))
			continue
		}
		all = append(all, Collected{TaskID: id, Path: filepath.Join(folder, name), ID: artifactID(text)})
	}
	return all, errors.Join(failures...)
}

var _ Source = (*sdk.Client)(nil)

func artifactID(text []byte) string { return "sha256-" + proof.Digest(text) }
