// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/process"
)

func (w *world) commandSteps(step define) {
	step(`^the file "([^"]*)"$`, w.theFile)
	step(`^the daemon's config file with the pool$`, w.theConfigFileWithThePool)
	step(`^I run "orchestratord ([^"]*)"$`, w.iRun)
	step(`^it exits with (\d+)$`, w.itExitsWith)
	step(`^it says "(.*)"$`, w.itSays)
	step(`^it does not say "(.*)"$`, w.itDoesNotSay)
}

func (w *world) theFile(name string, content *godog.DocString) error {
	return w.file(name, content.Content)
}

// theConfigFileWithThePool writes the configuration of the steps before it.
func (w *world) theConfigFileWithThePool(t *godog.Table) error {
	if err := w.aBuiltinPool("default", t); err != nil {
		return err
	}
	_, err := w.setup.write()
	return err
}

// iRun runs the program in the scenario's folder and waits for its end.
func (w *world) iRun(line string) error {
	line, err := w.expand(line)
	if err != nil {
		return err
	}
	args := strings.Fields(line)
	// Relative paths start in the scenario's folder, since the program has none of its own.
	if i := slices.Index(args, "--config"); i >= 0 && i+1 < len(args) && !filepath.IsAbs(args[i+1]) {
		args[i+1] = filepath.Join(w.dir, args[i+1])
	}
	if w.command, err = w.lab.Start(process.Options{
		Name: "orchestratord", Exe: w.lab.Program("orchestratord"), Args: args, Env: w.lab.Env(w.dir, w.setup.env),
	}); err != nil {
		return err
	}
	w.code, err = w.command.Exit()
	return err
}

func (w *world) itExitsWith(code int) error {
	if w.code != code {
		return fmt.Errorf("the exit code is %d: %s", w.code, w.command.Tail(20))
	}
	return nil
}

func (w *world) itSays(text string) error {
	text, err := w.expand(text)
	if err != nil {
		return err
	}
	if !strings.Contains(w.command.Output(), text) {
		return fmt.Errorf("it says: %s", w.command.Tail(100))
	}
	return nil
}

func (w *world) itDoesNotSay(text string) error {
	if strings.Contains(w.command.Output(), text) {
		return fmt.Errorf("it says: %s", w.command.Tail(100))
	}
	return nil
}

// noKeyOnACommandLine looks at the command lines, which every user of the machine can see.
func (w *world) noKeyOnACommandLine() error {
	if err := w.noteWorkers(); err != nil {
		return err
	}
	for _, worker := range w.workers {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", worker.Pid))
		if err != nil {
			return fmt.Errorf("read a worker's environment: %w", err)
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", worker.Pid))
		if err != nil {
			return fmt.Errorf("read a worker's command line: %w", err)
		}
		_, rest, found := strings.Cut("\x00"+string(environ), "\x00LLAMA_API_KEY=")
		key, _, _ := strings.Cut(rest, "\x00")
		if !found || len(key) < 16 {
			return fmt.Errorf("worker %d got no key of length through LLAMA_API_KEY", worker.Pid)
		}
		if strings.Contains(string(cmdline), key) {
			return fmt.Errorf("worker %d has its key on its command line", worker.Pid)
		}
	}
	return nil
}
