// SPDX-License-Identifier: GPL-3.0-or-later

// Package soak runs a daemon for a long time under everything that clients do, and shows whether something of it grows (LO-880 to LO-882).
//
// Figures of the daemon, of its workers and of its data folder are taken every few seconds, beside the number of tasks that have ended. A line is fitted to
// each. What grows with the tasks is a leak, however little it is, and its name is what the run ends with.
package soak
