// SPDX-License-Identifier: GPL-3.0-or-later

// Package ollama holds the answers of Ollama's API as its owner describes them. ollama.json is version 0.1.0 of their document, less the
// descriptions, the requests, and what the front of that dialect never sends; LICENSE is theirs. Nothing in it was changed: where the
// front differs on purpose, harness/dialect says so.
package ollama

import _ "embed"

// Document is ollama.json.
//
//go:embed ollama.json
var Document []byte
