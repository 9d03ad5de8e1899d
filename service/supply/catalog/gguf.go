// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	parser "github.com/gpustack/gguf-parser-go"

	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/task"
)

// Metadata is what a model's file says about itself.
type Metadata struct {
	Format       string   `json:"format"` // FormatGGUF
	Architecture string   `json:"architecture"`
	Name         string   `json:"name,omitempty"`
	Parameters   int64    `json:"parameters"`
	Quantisation string   `json:"quantisation"` // of most of its weights
	CtxMax       int      `json:"ctx_max"`      // tokens; 0: it does not say
	Features     []string `json:"features,omitempty"`
}

// FormatGGUF is the only format that the catalog reads.
const FormatGGUF = "gguf"

// The features that a file can name.
const (
	FeatureChatTemplate = "chat_template"
	FeatureEmbedding    = "embedding"
	FeatureExperts      = "experts"
)

const (
	maxCtx           = 100_000_000
	maxParameters    = 1<<53 - 1
	maxNameBytes     = 256
	maxTemplateBytes = 256 << 10
	maxArchBytes     = 64
	maxSettings      = 1000
	damagedMessage   = "is no whole GGUF file: fetch it again, and give its digest"
)

// Header is what a model's file says about itself in full.
type Header struct {
	Metadata
	Settings map[string]any // those that are one value: a text, a number, true or false
	Template string         // for chats; empty: it has none
}

// ReadGGUF reads the metadata of a GGUF file. If path is one of several parts, it reads all of them. The error's text says what is
// wrong with the file.
func ReadGGUF(path string) (Metadata, error) { return read(path, describe) }

// ReadHeader reads more than ReadGGUF from the same place.
func ReadHeader(path string) (Header, error) { return read(path, inFull) }

func read[T any](path string, describe func(*parser.GGUFFile) T) (out T, err error) {
	var none T
	parts, err := gguf.Find(path)
	if err != nil {
		return none, err
	}
	path = parts[0]
	for _, part := range parts {
		if err := gguf.Check(part); err != nil {
			return none, fmt.Errorf("%s %s (%w)", filepath.Base(part), damagedMessage, err)
		}
	}
	defer func() { // the parser panics if numbers overflow or types are not what it expects
		if p := recover(); p != nil {
			out, err = none, fmt.Errorf("%s %s (its header contradicts itself)", filepath.Base(path), damagedMessage)
		}
	}()
	file, err := parser.ParseGGUFFile(path, parser.SkipLargeMetadata())
	if err != nil {
		return none, fmt.Errorf("%s %s (%w)", filepath.Base(path), damagedMessage, err)
	}
	if len(parts) == 1 && len(file.TensorInfos) > 0 && file.TensorDataStartOffset > int64(file.Size) { // the parser does not notice this
		return none, fmt.Errorf("%s %s (it ends before its weights)", filepath.Base(path), damagedMessage)
	}
	return describe(file), nil
}

const templateKey = "tokenizer.chat_template"

// inFull takes the settings that can be shown. A file may have any, so they are bounded.
func inFull(file *parser.GGUFFile) Header {
	h := Header{Metadata: describe(file), Settings: map[string]any{}}
	for _, kv := range file.Header.MetadataKV {
		if len(h.Settings) == maxSettings {
			break
		}
		switch v := kv.Value.(type) {
		case string:
			if kv.Key == templateKey {
				h.Template = task.Clip(strings.ToValidUTF8(v, ""), maxTemplateBytes)
			} else {
				h.Settings[plain(kv.Key, maxNameBytes)] = plain(v, maxNameBytes)
			}
		case float32:
			if f := float64(v); !math.IsNaN(f) && !math.IsInf(f, 0) { // JSON has no such numbers
				h.Settings[plain(kv.Key, maxNameBytes)] = v
			}
		case float64:
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				h.Settings[plain(kv.Key, maxNameBytes)] = v
			}
		case bool, uint8, int8, uint16, int16, uint32, int32, uint64, int64:
			h.Settings[plain(kv.Key, maxNameBytes)] = v
		}
	}
	return h
}

func describe(file *parser.GGUFFile) Metadata {
	about := file.Metadata()
	m := Metadata{
		Format: FormatGGUF, Architecture: plain(about.Architecture, maxArchBytes), Name: plain(about.Name, maxNameBytes),
		Parameters: int64(min(uint64(about.Parameters), maxParameters)), Quantisation: plain(about.FileTypeDescriptor, maxArchBytes),
	}
	number := func(key string) (n uint64, ok bool) {
		kv, ok := file.Header.MetadataKV.Get(about.Architecture + "." + key)
		if !ok || !kv.ValueType.IsNumeric() {
			return 0, false
		}
		return parser.ValueNumeric[uint64](kv), true
	}
	if ctx, ok := number("context_length"); ok {
		m.CtxMax = int(min(ctx, maxCtx))
	}
	if kv, ok := file.Header.MetadataKV.Get(templateKey); ok && kv.ValueType == parser.GGUFMetadataValueTypeString {
		m.Features = append(m.Features, FeatureChatTemplate)
	}
	if pooling, ok := number("pooling_type"); ok && pooling != 0 {
		m.Features = append(m.Features, FeatureEmbedding)
	}
	if experts, ok := number("expert_count"); ok && experts > 0 {
		m.Features = append(m.Features, FeatureExperts)
	}
	return m
}

// plain makes text from a file fit for answers and terminals.
func plain(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return task.Clip(s, n)
}
