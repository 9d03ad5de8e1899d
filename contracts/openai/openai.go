// SPDX-License-Identifier: GPL-3.0-or-later

// Package openai holds the answers of OpenAI's API as its owner describes them. openai.json is version 2.3.0 of their document, less
// the descriptions and what the front of that dialect never sends; LICENSE is theirs. Nothing in it was changed: where the front differs
// on purpose, harness/dialect says so.
package openai

import _ "embed"

// Document is openai.json.
//
//go:embed openai.json
var Document []byte
