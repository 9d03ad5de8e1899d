// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cucumber/godog"
)

func (w *world) operateSteps(step define) {
	step(`^a copy of the model as "([^"]*)"$`, w.aCopyOfTheModel)
	step(`^the first (\d+) bytes of the model as "([^"]*)"$`, w.aPartOfTheModel)
	step(`^"([^"]*)" has come to$`, w.hasComeTo)
	step(`^the configuration has the pool "([^"]*)" of built-in workers with$`, w.theConfigurationHas)
	step(`^the configuration has no pool "([^"]*)"$`, w.theConfigurationHasNot)
	step(`^the configuration has the settings$`, w.theConfigurationHasSettings)
	step(`^I send the daemon SIGHUP$`, w.hangUpTheDaemon)
}

func (w *world) aCopyOfTheModel(name string) error { return w.aPartOfTheModel(1<<30, name) }

// aPartOfTheModel puts the beginning of the bundled model's file beside the configuration. The folder's path is $DIR.
func (w *world) aPartOfTheModel(n int, name string) error {
	data, err := os.ReadFile(w.lab.Model)
	if err != nil {
		return fmt.Errorf("read the bundled model: %w", err)
	}
	w.kept["DIR"] = w.setup.dir
	if err := os.WriteFile(filepath.Join(w.setup.dir, name), data[:min(n, len(data))], 0o600); err != nil {
		return fmt.Errorf("write a model: %w", err)
	}
	return nil
}

// hasComeTo asks until the answer fits the table.
func (w *world) hasComeTo(path string, t *godog.Table) error {
	return poll(path, func() error {
		if err := w.call(http.MethodGet, path, nil, nil); err != nil {
			return err
		}
		if _, err := w.answered(); err != nil {
			return err
		}
		return w.itsBodyHas(t)
	})
}

func (w *world) theConfigurationHas(id string, t *godog.Table) error {
	if err := w.drop(id); err != nil {
		return err
	}
	if err := w.aBuiltinPool(id, t); err != nil {
		return err
	}
	_, err := w.setup.write()
	return err
}

func (w *world) theConfigurationHasNot(id string) error {
	if err := w.drop(id); err != nil {
		return err
	}
	_, err := w.setup.write()
	return err
}

// drop takes a pool out of the setup, if the setup has it.
func (w *world) drop(id string) error {
	if w.daemon == nil {
		return errors.New("the scenario has started no daemon")
	}
	kept := w.setup.pools[:0]
	for _, p := range w.setup.pools {
		if !strings.HasPrefix(p, "  - id: "+id+"\n") {
			kept = append(kept, p)
		}
	}
	w.setup.pools = kept
	return nil
}

func (w *world) theConfigurationHasSettings(t *godog.Table) error {
	if err := w.theSettings(t); err != nil {
		return err
	}
	_, err := w.setup.write()
	return err
}

func (w *world) hangUpTheDaemon() error {
	if w.daemon == nil {
		return errors.New("the scenario has started no daemon")
	}
	return w.daemon.Signal(syscall.SIGHUP)
}
