// SPDX-License-Identifier: GPL-3.0-or-later

// Package dialects holds the answers of other APIs as their owners describe them, and the requests that our adapters send, without the descriptions and what our fronts never send. Beside
// each document stands its licence. Nothing else in them was changed: where a front differs on purpose, harness/dialect says so.
package dialects

import _ "embed"

// OpenAI is from version 2.3.0 of OpenAI's document.
//
//go:embed openai/openai.json
var OpenAI []byte

// OpenAIRequests is what engines are asked, from the same document, without what our adapters never send.
//
//go:embed openai/requests.json
var OpenAIRequests []byte

// Anthropic is made from the types of version 1.14.0 of @anthropic-ai/sdk, since Anthropic publishes no document: by ts-json-schema-generator, from an interface
// with fields of the types Message, MessageTokensCount, MessageBatch, DeletedMessageBatch, MessageBatchIndividualResponse, PageResponse<MessageBatch>
// (MessageBatchPage here), RawMessageStreamEvent (whose union is left out here), PageResponse<ModelInfo> (ModelPage here), ModelInfo
// and ErrorResponse. Where a type has something that the front never sends, or null, null is left.
//
//go:embed anthropic/anthropic.json
var Anthropic []byte

// Ollama is from version 0.1.0 of Ollama's document, without its requests.
//
//go:embed ollama/ollama.json
var Ollama []byte
