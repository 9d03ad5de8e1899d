// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import (
	"context"
	"errors"
	"fmt"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
)

// Busy asks /slots.
func (e *Engine) Busy(ctx context.Context) (busy int, err error) {
	slots, err := e.Slots(ctx)
	for _, s := range slots {
		if s.Busy {
			busy++
		}
	}
	return busy, err
}

// Slots asks /slots. The built-in worker alone tells `kv_bytes`.
func (e *Engine) Slots(ctx context.Context) ([]engine.Slot, error) {
	var told []struct {
		ID    int   `json:"id"`
		Busy  bool  `json:"is_processing"`
		Task  *int  `json:"id_task"`
		Bytes int64 `json:"kv_bytes"`
	}
	if err := e.c.Get(ctx, "/slots", &told); err != nil {
		return nil, err
	}
	if len(told) == 0 {
		return nil, e.c.Reset(errors.New("the engine names no slots"))
	}
	if err := engine.Believe(engine.Slots("the number of slots", len(told))); err != nil {
		return nil, e.c.Reset(err)
	}
	slots := make([]engine.Slot, len(told))
	for i, s := range told {
		if err := engine.Believe(engine.Slots("id", s.ID), engine.Figure{Name: "kv_bytes", Value: float64(s.Bytes), Most: engine.MaxBytes}); err != nil {
			return nil, e.c.Reset(err)
		}
		slots[i] = engine.Slot{ID: s.ID, Busy: s.Busy, Bytes: s.Bytes}
		if s.Task != nil {
			slots[i].Job, slots[i].Told = *s.Task, true
		}
	}
	return slots, nil
}

// Erase asks /slots/ID?action=erase.
func (e *Engine) Erase(ctx context.Context, slot int) error {
	var erased struct{}
	e.held.forget()
	return e.c.Post(ctx, fmt.Sprintf("/slots/%d?action=erase", slot), struct{}{}, &erased)
}
