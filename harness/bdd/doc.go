// SPDX-License-Identifier: GPL-3.0-or-later

// Package bdd runs the features of the folder features/ against the real daemon with its built-in engine. If a scenario needs a fault or a
// certain timing, the fake engine takes that engine's place.
//
// The package has its own client code (HTTP, a strict SSE reader, a reader of the metrics), so that it judges the product by what is on the wire and
// not by the product's SDK. Each noun has its steps in a file of its own.
package bdd
