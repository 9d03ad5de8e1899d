// SPDX-License-Identifier: GPL-3.0-or-later

// Package chaos proves that nothing accepted is lost. It drives the real daemon and its built-in workers, by the native API and by the fronts. Meanwhile
// it kills both, fills queues and the disk, and cuts clients off. Then it judges the run by what the clients saw (ORCH-3051).
//
// A seed gives a schedule, the run writes a history, and the checker reads only that. Best-effort answers of fronts come from scripted engines, since a
// built-in worker has one slot, where fronts' tasks are strict.
package chaos
