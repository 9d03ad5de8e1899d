// SPDX-License-Identifier: GPL-3.0-or-later

// Package blueprints runs the blueprints of examples/ (LO-929): the haiku book on a real daemon with the bundled model, and the two that need a chat model on golden
// transcripts. What stands in those was written by hand: harness/scripted played it behind a real daemon, and `go test ./harness/blueprints -record` records it anew.
package blueprints
