// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/record/artifact"
)

// openArtifacts opens the store of artifacts.
func (a *App) openArtifacts() (err error) {
	c := a.o.Config.Artifacts
	a.artifacts, err = artifact.Open(artifact.Options{
		Dir: filepath.Join(a.o.Config.DataDir, datafolder.Artifacts), MaxBytes: int64(c.MaxBytes), RetainAge: c.RetainAge, RetainBytes: int64(c.RetainBytes),
		Log: a.o.Log, Registerer: a.registry, Now: time.Now,
	})
	if err != nil {
		return fmt.Errorf("open the artifacts: %w", err)
	}
	a.cleanup.push("close the artifacts", func(context.Context) error { return a.artifacts.Close() })
	return nil
}
