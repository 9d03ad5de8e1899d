// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cucumber/godog"
)

// envProof names a folder in which each scenario leaves the streams that it read and its daemons' logs.
const envProof = "LLORCH_PROOF_DIR"

// proof is what a scenario leaves. Its keys are file names.
func (w *world) proof() map[string]string {
	files := map[string]string{}
	for name, s := range w.streams {
		s.Look(func() {
			for _, e := range s.events {
				files["stream-"+slug(name)+".sse"] += e.Frame()
			}
		})
	}
	for i, d := range w.daemons {
		files[fmt.Sprintf("daemon-%d.log", i+1)] = d.Output() + "\n"
	}
	return files
}

// keep writes files to a new folder with the scenario's name, if somebody asked for a proof. The rows of an outline share a name, so their
// folders are numbered.
func keep(sc *godog.Scenario, files map[string]string) error {
	root := os.Getenv(envProof)
	if root == "" || len(files) == 0 {
		return nil
	}
	name := filepath.Join(root, "bdd", strings.TrimSuffix(filepath.Base(sc.Uri), ".feature")+"."+slug(sc.Name))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("make the proof's folder: %w", err)
	}
	folder := name
	err := os.Mkdir(folder, 0o755)
	for row := 2; errors.Is(err, fs.ErrExist); row++ {
		folder = fmt.Sprintf("%s.%d", name, row)
		err = os.Mkdir(folder, 0o755)
	}
	for file, content := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600))
	}
	if err != nil {
		return fmt.Errorf("leave the proof of a scenario: %w", err)
	}
	return nil
}

var unslug = regexp.MustCompile(`[^A-Za-z0-9]+`)

func slug(name string) string {
	name = strings.Trim(unslug.ReplaceAllString(name, "-"), "-")
	return name[:min(len(name), 100)]
}
