// SPDX-License-Identifier: GPL-3.0-or-later

package task

// LlamaCpp is the kind of engine that llama-server and the built-in worker are.
const LlamaCpp = "llamacpp"

// EngineKinds are the kinds of engines that a pool can have. The configuration, its schema and the adapters take them from here, and the
// API's contract knows them all.
func EngineKinds() []string { return []string{LlamaCpp} }
