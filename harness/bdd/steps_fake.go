// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/cucumber/godog"
)

func (w *world) fakeSteps(step define) {
	step(`^a fake engine with (\d+) slots?$`, w.aFakeEngine)
	step(`^the fake engine is killed$`, w.theFakeIsKilled)
	step(`^a fake engine with (\d+) slots takes its place$`, w.aFakeTakesItsPlace)
	step(`^the fake engine's script is$`, w.theFakesScript)
	step(`^the fake engine's script is (\d+) tokens of (\d+) bytes(, one at a time)?$`, w.theFakesScriptIsLarge)
	step(`^the fake engine releases (\d+) tokens?$`, w.theFakeReleases)
	step(`^the fake engine frees its slots$`, w.theFakeFreesItsSlots)
	step(`^the fake engine is not healthy$`, w.theFakeIsNotHealthy)
	step(`^the fake engine has come to (busy|waiting|sent|generations|finished|canceled) (\d+)$`, w.theFakeHasComeTo)
}

func (w *world) aFakeEngine(slots int) error {
	return w.startFake("127.0.0.1:0", slots)
}

func (w *world) startFake(address string, slots int) (err error) {
	if w.fake, err = w.lab.startFake(w.dir, address, slots); err == nil {
		w.fakes = append(w.fakes, w.fake)
	}
	return err
}

func (w *world) theFakeIsKilled() error {
	w.fake.Kill()
	return nil
}

func (w *world) aFakeTakesItsPlace(slots int) error {
	return w.startFake(strings.TrimPrefix(w.fake.url, "http://"), slots)
}

// theFakesScript also resets the engine's counters, since the probe at the daemon's start is no task.
func (w *world) theFakesScript(script *godog.DocString) error {
	if err := w.fake.tell(http.MethodPost, "reset", ""); err != nil {
		return err
	}
	return w.fake.tell(http.MethodPut, "script", script.Content)
}

func (w *world) theFakesScriptIsLarge(tokens, bytes int, stepped string) error {
	texts := make([]string, tokens)
	for i := range texts {
		texts[i] = strings.Repeat(string(rune('a'+i%26)), bytes)
	}
	script, err := json.Marshal(map[string]any{"text": texts, "stepped": stepped != ""})
	if err != nil {
		return fmt.Errorf("encode the script: %w", err)
	}
	return w.theFakesScript(&godog.DocString{Content: string(script)})
}

func (w *world) theFakeReleases(n int) error {
	return w.fake.tell(http.MethodPost, fmt.Sprintf("release?n=%d", n), "")
}

func (w *world) theFakeFreesItsSlots() error { return w.fake.tell(http.MethodPost, "free", "") }

func (w *world) theFakeIsNotHealthy() error {
	return w.fake.tell(http.MethodPut, "health", `{"loading": true}`)
}

func (w *world) theFakeHasComeTo(figure string, n int) error {
	return w.fake.tell(http.MethodGet, fmt.Sprintf("state?%s=%d", figure, n), "")
}
