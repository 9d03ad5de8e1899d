// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"fmt"
	"math"
	"time"
)

// Bounds of what an engine may tell. They are those of the contract, so that an answer with such a figure is one that clients can read.
const (
	MaxTokens = 100_000_000
	MaxSlots  = 1024
	MaxBytes  = 1<<53 - 1
	MaxTime   = 30 * 24 * time.Hour // of one run
	MaxBuild  = 160                 // bytes of a build or version string
)

// Figure is a number that an engine told.
type Figure struct {
	Name  string // as the engine writes it
	Value float64
	Most  float64
}

// Believe returns an error that names the first figure that is below 0, or above what there can be. An adapter asks it for each number
// before anything is computed from it (LO-801).
func Believe(figures ...Figure) error {
	for _, f := range figures {
		if math.IsNaN(f.Value) || f.Value < 0 || f.Value > f.Most {
			return fmt.Errorf("the engine says %s is %v, which cannot be: it must be between 0 and %v", f.Name, f.Value, f.Most)
		}
	}
	return nil
}

// Tokens is a figure that counts tokens.
func Tokens(name string, n int) Figure { return Figure{name, float64(n), MaxTokens} }

// Slots is a figure that counts slots, or numbers one.
func Slots(name string, n int) Figure { return Figure{name, float64(n), MaxSlots} }

// Milliseconds is a figure that says how long something took.
func Milliseconds(name string, ms float64) Figure {
	return Figure{name, ms, float64(MaxTime / time.Millisecond)}
}
