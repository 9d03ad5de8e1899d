// SPDX-License-Identifier: GPL-3.0-or-later

// Package sample has code that its tests hold, and code that they do not.
package sample

import "errors"

// Held is held by the tests.
func Held(n int) (int, error) {
	if n < 0 {
		return 0, errors.New("too few")
	}
	n++
	return n * 2, nil
}

// Slack has a bound that no test looks at.
func Slack(n int) bool { return n > 10 }

// Lost is called by no test.
func Lost(list []int) []int {
	list = append(list, 1)
	return list
}
