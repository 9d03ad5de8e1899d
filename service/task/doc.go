// SPDX-License-Identifier: GPL-3.0-or-later

// Package task is the vocabulary of llama-orch: what a client asks for, the states a task goes through, the events of its
// stream, how it ends, and the closed list of error codes. It imports the standard library only; everyone may import it.
package task
