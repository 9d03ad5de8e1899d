// SPDX-License-Identifier: GPL-3.0-or-later

// Package pact holds the contract tests between the daemon and its two consumers in this repository, the SDK and the command
// line. The consumers run against Pact's mock server, and what they rely on becomes contracts/pacts; the real orchestrator, with
// its built-in engine, is then verified against these files.
//
// All of it needs the build tag `pact`, since it is linked with Pact's core library. `go tool mage pact` fetches that library and runs the tests.
// `go tool mage gen:pacts` rewrites the pacts.
package pact
