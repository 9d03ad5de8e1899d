// SPDX-License-Identifier: GPL-3.0-or-later

// Package page holds the status page against a real browser: its tests click through every view of a real daemon, which has a stand-in for NVML, a
// stand-in for llama-server on its cards, and fake engines. `go tool mage check:page` runs them, `page:bench` measures what the page
// costs, and `page:shots` makes the screenshots and the film.
package page
