// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"context"
	"errors"
	"fmt"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// errNotSaved is what became of a slot that the engine did not write or read whole.
var errNotSaved = errors.New("the engine does not say that it has the whole slot")

// slotFile is the body of a request that saves or restores a slot.
type slotFile struct {
	Name string `json:"filename"`
}

// Save asks /slots/ID?action=save. What of the slot is whole pieces of prompt, the adapter knows, and notes (LO-206).
func (e *Engine) Save(ctx context.Context, slot int, name string) (engine.Saved, error) {
	var told struct {
		Tokens int   `json:"n_saved"`
		Bytes  int64 `json:"n_written"`
	}
	note := e.held.now()
	if err := e.c.Post(ctx, fmt.Sprintf("/slots/%d?action=save", slot), slotFile{name}, &told); err != nil {
		return engine.Saved{}, err
	}
	if told.Tokens == 0 || told.Bytes == 0 {
		return engine.Saved{}, e.c.Reset(errNotSaved)
	}
	if err := engine.Believe(engine.Tokens("n_saved", told.Tokens), engine.Figure{Name: "n_written", Value: float64(told.Bytes), Most: engine.MaxBytes}); err != nil {
		return engine.Saved{}, e.c.Reset(err)
	}
	return engine.Saved{Name: name, Tokens: told.Tokens, Bytes: told.Bytes, Note: note}, nil
}

// Restore asks /slots/ID?action=restore.
func (e *Engine) Restore(ctx context.Context, slot int, s engine.Saved) error {
	var told struct {
		Tokens int   `json:"n_restored"`
		Bytes  int64 `json:"n_read"`
	}
	e.held.forget()
	if err := e.c.Post(ctx, fmt.Sprintf("/slots/%d?action=restore", slot), slotFile{s.Name}, &told); err != nil {
		return err
	}
	if told.Tokens != s.Tokens || told.Bytes != s.Bytes {
		return e.c.Reset(errNotSaved)
	}
	if note, ok := s.Note.(prefix); ok {
		e.held.know(note)
	}
	return nil
}
