// SPDX-License-Identifier: GPL-3.0-or-later

// Package live compares the /metrics of a real daemon under a small load with the metrics contract. Its test runs the daemon's program with the
// built-in worker, does what moves each series, and checks that this series moved and nothing else. For a fault or a certain timing it uses fake
// engines. `go tool mage metrics:lint` runs it.
package live
