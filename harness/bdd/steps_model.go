// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cucumber/godog"
)

func (w *world) modelSteps(step define) {
	step(`^a pool "([^"]*)" of built-in workers on a copy of the bundled model with$`, w.aPoolOnACopy)
	step(`^(\d+) bytes of the copied model are overwritten$`, w.bytesAreOverwritten)
}

func (w *world) copied() string { return filepath.Join(w.dir, "copy.gguf") }

func (w *world) aPoolOnACopy(id string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(w.lab.Model)
	if err != nil {
		return fmt.Errorf("read the bundled model: %w", err)
	}
	if err := os.WriteFile(w.copied(), data, 0o600); err != nil {
		return fmt.Errorf("copy the bundled model: %w", err)
	}
	w.setup.pool(id, w.lab.builtin(set(rows, row{"model", fmt.Sprintf(`{id: haiku, ref: "file:%s"}`, w.copied())})...))
	return nil
}

// bytesAreOverwritten writes zeros into the middle of the weights.
func (w *world) bytesAreOverwritten(n int) error {
	f, err := os.OpenFile(w.copied(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the copied model: %w", err)
	}
	at, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, n), at.Size()/2)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("overwrite the copied model: %w", err)
	}
	return nil
}
