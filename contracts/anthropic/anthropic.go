// SPDX-License-Identifier: GPL-3.0-or-later

// Package anthropic holds the answers of Anthropic's API as the types of their SDK for Node describe them: they publish no document.
// anthropic.json was made from version 1.14.0 of @anthropic-ai/sdk by ts-json-schema-generator, from an interface with fields of the types
// Message, MessageTokensCount, RawMessageStreamEvent (whose union is left out here), PageResponse<ModelInfo> (ModelPage here), ModelInfo and ErrorResponse. It is that
// less the descriptions and what the front of that dialect never sends: where a type has such a thing or null, null is left. LICENSE and
// LICENSE-MIT are the SDK's. Where the front differs on purpose, harness/dialect says so.
package anthropic

import _ "embed"

// Document is anthropic.json.
//
//go:embed anthropic.json
var Document []byte
