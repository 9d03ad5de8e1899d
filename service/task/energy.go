// SPDX-License-Identifier: GPL-3.0-or-later

package task

import "math"

// Energy is what the cards took for a task, by their own counters (LO-504).
type Energy struct {
	Joules float64
	Cost   float64 // at the price of electricity
	Priced bool    // there is a price
}

// Shown are the joules and their cost as clients see them: as exact as the counters, and a millionth of a unit. A figure is nil where it is not known.
func (e *Energy) Shown() (joules, cost *float64) {
	if e == nil {
		return nil, nil
	}
	joules = rounded(e.Joules, 1e3)
	if e.Priced {
		cost = rounded(e.Cost, 1e9)
	}
	return joules, cost
}

func rounded(v, parts float64) *float64 {
	v = math.Round(v*parts) / parts
	return &v
}
