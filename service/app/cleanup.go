// SPDX-License-Identifier: GPL-3.0-or-later

package app

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"
)

// cleanup is a stack of what is to be undone, the last first. A step is pushed the moment there is something to undo.
type cleanup struct{ steps []step }

type step struct {
	name string
	undo func(context.Context) error
}

func (c *cleanup) push(name string, undo func(context.Context) error) {
	c.steps = append(c.steps, step{name, undo})
}

// run undoes everything, even where some of it fails.
func (c *cleanup) run(ctx context.Context, log *zap.Logger) error {
	var failures []error
	for len(c.steps) > 0 {
		last := c.steps[len(c.steps)-1]
		c.steps = c.steps[:len(c.steps)-1]
		log.Debug("stopping", zap.String("step", last.name))
		if err := last.undo(ctx); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", last.name, err))
		}
	}
	return errors.Join(failures...)
}
