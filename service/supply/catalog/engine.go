// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Engine is one engine that was prepared (OC-CAT-56).
type Engine struct {
	Engine     string    `json:"engine"`
	Version    string    `json:"version"`
	Mode       string    `json:"mode"` // of provisioning
	BuildRef   string    `json:"build_ref"`
	Digest     string    `json:"digest"`
	Flags      []string  `json:"flags"`
	Path       string    `json:"path"`
	PreparedAt time.Time `json:"prepared_at"` // set by Prepared
}

const maxEngines = 1024

func (e Engine) same(other Engine) bool {
	return e.Engine == other.Engine && e.Version == other.Version && e.Mode == other.Mode && e.BuildRef == other.BuildRef &&
		e.Path == other.Path && slices.Equal(e.Flags, other.Flags)
}

// Prepared records that an engine was prepared.
func (c *Catalog) Prepared(e Engine) error {
	c.change.Lock()
	defer c.change.Unlock()
	e.PreparedAt, e.Flags = c.o.Now().UTC(), slices.Clone(e.Flags)
	c.mu.RLock()
	list := slices.DeleteFunc(slices.Clone(c.engines), e.same)
	c.mu.RUnlock()
	list = append(list, e)
	list = list[max(len(list)-maxEngines, 0):]
	for text, err := json.Marshal(list); err == nil && len(text) > maxRecord/2 && len(list) > 1; text, err = json.Marshal(list) {
		list = list[len(list)/2:] // the flags are so long that only the newest entries fit
	}
	if err := c.disk.write(enginesDoc, list); err != nil {
		return task.Errorf(task.Internal, "the engine that was prepared could not be recorded: see that the state directory has room and can be written").Because(err)
	}
	c.mu.Lock()
	c.engines = list
	c.mu.Unlock()
	return nil
}

// Engines lists the prepared engines, the newest last.
func (c *Catalog) Engines() []Engine {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.engines)
}
