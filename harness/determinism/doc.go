// SPDX-License-Identifier: GPL-3.0-or-later

// Package determinism holds the promise of the receipts against the real daemon: same fingerprint and same request digest,
// same bytes, on every replica and after every restart; and it shows where that ends (ORCH-3045, LO-204, LO-205).
//
// It runs every engine of this machine (OC-TEST-7001), over the HTTP API alone. A difference is reported with its first
// token and leaves a proof bundle.
package determinism
