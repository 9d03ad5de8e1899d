// SPDX-License-Identifier: GPL-3.0-or-later

// Package abuse holds what an attacker, a careless script or a broken machine does to the daemon, as lists: what is sent, and what must come
// back. It has tests alone.
package abuse
