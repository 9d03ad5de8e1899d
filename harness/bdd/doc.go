// SPDX-License-Identifier: GPL-3.0-or-later

// Package bdd runs the features of the folder features/ against the real daemon with its built-in engine. The fake engine
// stands in where a fault or a certain timing is needed.
//
// The client code here is its own (HTTP, a strict SSE reader, a reader of the metrics), so that the product is judged by
// what is on the wire and not by its own SDK. Steps are split by noun, one file each.
package bdd
