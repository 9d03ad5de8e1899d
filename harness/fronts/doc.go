// SPDX-License-Identifier: GPL-3.0-or-later

// Package fronts tests the fronts on a real daemon and a real engine, as clients of their dialects use them (LO-401).
package fronts
