// SPDX-License-Identifier: GPL-3.0-or-later

// Package database runs the daemon, as a program, with its record of tasks in a real PostgreSQL: its kills, its absence, its moves.
package database
