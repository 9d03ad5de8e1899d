// SPDX-License-Identifier: GPL-3.0-or-later

// Package chaos proves that nothing accepted is lost: it drives the real daemon and its built-in workers while it kills
// both, fills queues and disk and cuts clients off, and then judges the run from what the clients saw (ORCH-3051).
//
// A schedule is drawn from a seed, the run writes a History, and the checker reads nothing but that.
package chaos
