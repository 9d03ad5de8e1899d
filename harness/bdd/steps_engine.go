// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cucumber/godog"
)

func (w *world) engineSteps(step define) {
	step(`^an? (vllm|sglang|ollama|lmstudio|unknown)( without tools)?( that asks for a key)? serves "([^"]*)"$`, w.aServer)
	step(`^an? (vllm|sglang|ollama|lmstudio|unknown)( without tools)?( that asks for a key)? serves "([^"]*)" and plays$`, w.aServerThatPlays)
	step(`^a pool "([^"]*)" in front of it with$`, w.anExternalPool)
	step(`^a pool "([^"]*)" in front of it, with its key, with$`, w.aPoolWithTheKey)
}

// engineKey is what an engine of the scenarios asks for.
const engineKey = "sk-of-the-scenarios"

// aPoolWithTheKey has the key in a variable of the daemon's environment.
func (w *world) aPoolWithTheKey(id string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	w.setup.env["ENGINE_KEY"] = engineKey
	w.setup.pool(id, external(w.fake.url, append(rows, row{"provisioning", fmt.Sprintf(`{mode: external, urls: [%q], key_env: ENGINE_KEY}`, w.fake.url)})...))
	return nil
}

// aServer starts a server with OpenAI's API (harness/conformance/openai).
func (w *world) aServer(as, noTools, asks, models string) error {
	return w.aServerThatPlays(as, noTools, asks, models, nil)
}

func (w *world) aServerThatPlays(as, noTools, asks, models string, script *godog.DocString) error {
	args := []string{"-as", as, "-models", models}
	if noTools != "" {
		args = append(args, "-no-tools")
	}
	if asks != "" {
		args = append(args, "-key", engineKey)
	}
	if script != nil {
		file := filepath.Join(w.dir, fmt.Sprintf("script-%d.json", len(w.fakes)))
		if err := os.WriteFile(file, []byte(script.Content), 0o600); err != nil {
			return fmt.Errorf("write the script: %w", err)
		}
		args = append(args, "-script", file)
	}
	f, err := w.lab.startEngine(w.dir, "the "+as, "openai-server", args...)
	if err != nil {
		return err
	}
	w.fake, w.fakes = f, append(w.fakes, f)
	return nil
}
