// SPDX-License-Identifier: GPL-3.0-or-later

package standin

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
)

// The shape of the models that WriteModel makes: llama with few weights, and a KV cache of the wanted size. So the file is whole and small, but what a
// daemon reads in its header adds up to gibibytes.
const (
	// Ctx is the context for which a model's size counts.
	Ctx = 256

	layers     = 64
	embedding  = 256
	feed       = 256
	words      = 256
	heads      = 8
	element    = 2 // bytes, of F16
	alignment  = 32
	stringKind = 8
	uint32Kind = 4
	floatKind  = 6
	typeF32    = 0
)

// keyLength is the key in the header that makes a model large.
const keyLength = "llama.attention.key_length"

// tensor is a line of the file's table.
type tensor struct {
	name string
	dims []uint64
}

func (t tensor) bytes() uint64 {
	n := uint64(4)
	for _, d := range t.dims {
		n *= d
	}
	return n
}

func layer(i int) []tensor {
	at := func(name string) string { return fmt.Sprintf("blk.%d.%s.weight", i, name) }
	return []tensor{
		{at("attn_norm"), []uint64{embedding}},
		{at("ffn_norm"), []uint64{embedding}},
		{at("attn_q"), []uint64{embedding, heads}},
		{at("attn_k"), []uint64{embedding, heads}},
		{at("attn_v"), []uint64{embedding, heads}},
		{at("attn_output"), []uint64{heads, embedding}},
		{at("ffn_gate"), []uint64{embedding, 1}},
		{at("ffn_up"), []uint64{embedding, 1}},
		{at("ffn_down"), []uint64{1, embedding}},
	}
}

// kvBytes returns the bytes of a model's KV cache for a context.
func kvBytes(ctx, headBytes int64) int64 { return ctx * layers * heads * 2 * headBytes }

// WriteModel writes a model that takes about so many bytes of the cards with a context of Ctx, which is also the model's own context. Its weights make no
// sense, since the stand-in always loads another model. The name makes files of the same size differ.
func WriteModel(path, name string, takes int64) error { return WriteModelOf(path, name, takes, Ctx) }

// WriteModelOf writes such a model with another context of its own.
func WriteModelOf(path, name string, takes int64, own int) error {
	table := []tensor{
		{"token_embd.weight", []uint64{embedding, words}}, {"output.weight", []uint64{embedding, words}}, {"output_norm.weight", []uint64{embedding}},
	}
	for i := range layers {
		table = append(table, layer(i)...)
	}
	head := uint32(max(takes/kvBytes(Ctx, element), 1))
	meta := []struct {
		key   string
		value any
	}{
		{"general.architecture", "llama"},
		{"general.name", name},
		{"general.file_type", uint32(0)},
		{"llama.block_count", uint32(layers)},
		{"llama.context_length", uint32(own)},
		{"llama.embedding_length", uint32(embedding)},
		{"llama.feed_forward_length", uint32(feed)},
		{"llama.attention.head_count", uint32(heads)},
		{"llama.attention.head_count_kv", uint32(heads)},
		{keyLength, head},
		{"llama.attention.value_length", head},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"llama.vocab_size", uint32(words)},
	}
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // writing to a buffer never fails
	text := func(s string) { put(uint64(len(s))); b.WriteString(s) }
	b.WriteString("GGUF")
	put(uint32(3))
	put(uint64(len(table)))
	put(uint64(len(meta)))
	for _, m := range meta {
		text(m.key)
		switch v := m.value.(type) {
		case string:
			put(uint32(stringKind))
			text(v)
		case float32:
			put(uint32(floatKind))
			put(v)
		default:
			put(uint32(uint32Kind))
			put(v)
		}
	}
	var offset uint64
	for _, t := range table {
		text(t.name)
		put(uint32(len(t.dims)))
		put(t.dims)
		put(uint32(typeF32))
		put(offset)
		offset += (t.bytes() + alignment - 1) / alignment * alignment
	}
	b.Write(make([]byte, uint64(alignment-b.Len()%alignment)+offset))
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write a model's header: %w", err)
	}
	return nil
}
