// SPDX-License-Identifier: GPL-3.0-or-later

// Package determinism tests the promise of the receipts on the real daemon: same fingerprint and same request digest, same bytes, on every replica
// and after every restart. It also shows where that promise ends (ORCH-3045, LO-204, LO-205).
//
// It runs every engine of this machine (OC-TEST-7001), only over the HTTP API. A difference is reported with its first token, and leaves a proof
// bundle.
package determinism
