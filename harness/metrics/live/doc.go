// SPDX-License-Identifier: GPL-3.0-or-later

// Package live holds the /metrics of a real daemon under a small load against the metrics contract: its test runs the
// daemon's program with the built-in worker, does what moves each series, and looks that this moved and nothing else. Fake
// engines stand in where a fault or a certain timing is needed. `go tool mage metrics:lint` runs it.
package live
