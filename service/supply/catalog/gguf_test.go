// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	parser "github.com/gpustack/gguf-parser-go"
	"github.com/stretchr/testify/require"
)

// ORCH-3060
func TestMetadataIsRead(t *testing.T) {
	m, err := ReadGGUF(haiku)
	require.NoError(t, err)
	require.Equal(t, FormatGGUF, m.Format)
	require.Equal(t, "llama", m.Architecture)
	require.Equal(t, "F16", m.Quantisation)
	require.Equal(t, 256, m.CtxMax)
	require.InDelta(t, 1.1e6, m.Parameters, 1e5)

	path := filepath.Join(t.TempDir(), "a.gguf")
	require.NoError(t, os.WriteFile(path, small("a \x1b[31mname\xff\n"), 0o600))
	m, err = ReadGGUF(path)
	require.NoError(t, err)
	require.Equal(t, Metadata{
		Format: FormatGGUF, Architecture: "llama", Name: "a [31mname", Parameters: 32, Quantisation: "F32", CtxMax: 4096,
		Features: []string{FeatureChatTemplate, FeatureExperts},
	}, m)
}

// A model in numbered parts is one model, and all parts must be there.
//
// ORCH-3060
func TestPartsAreReadTogether(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a-00001-of-00002.gguf"), filepath.Join(dir, "a-00002-of-00002.gguf")
	require.NoError(t, os.WriteFile(first, small("first"), 0o600))
	_, err := ReadGGUF(first)
	require.ErrorContains(t, err, "a-00002-of-00002.gguf")
	require.NoError(t, os.WriteFile(second, small("second"), 0o600))
	m, err := ReadGGUF(first)
	require.NoError(t, err)
	require.EqualValues(t, 64, m.Parameters)
	again, err := ReadGGUF(second)
	require.NoError(t, err)
	require.Equal(t, m, again, "whichever part is named")
	_, err = ReadGGUF(filepath.Join(dir, "a-00001-of-99999.gguf"))
	require.ErrorContains(t, err, "1024 at most")
}

// ORCH-3060, LO-802
func TestNoWholeGGUFIsRefusedInLittleMemory(t *testing.T) {
	whole := small("x")
	for name, content := range map[string][]byte{
		"empty":                     {},
		"another format":            []byte(strings.Repeat("no model ", 20)),
		"version":                   header(0, 0).Bytes()[:4],
		"of tomorrow":               append([]byte("GGUF"), (&doc{}).put(uint32(9), uint64(0), uint64(0)).Bytes()...),
		"many settings":             header(0, 1<<40).Bytes(),
		"many tensors":              header(1<<40, 0).Bytes(),
		"more settings than bytes":  header(0, 1<<16).Bytes(),
		"more tensors than bytes":   header(1<<18, 0).Bytes(),
		"long key":                  header(0, 1).put(uint64(1<<62), "x").Bytes(),
		"negative key":              header(0, 1).put(^uint64(0), "x").Bytes(),
		"long text":                 header(0, 1).put("k", kindText, uint64(1<<40)).Bytes(),
		"unknown type":              header(0, 1).put("k", uint32(77), uint64(0)).Bytes(),
		"long array":                header(0, 1).put("k", kindArray, kindU64, uint64(1<<61)).Bytes(),
		"long array of texts":       header(0, 1).put("k", kindArray, kindText, uint64(1<<50)).Bytes(),
		"array of arrays":           header(0, 1).put("k", kindArray, kindArray, uint64(1), kindU32, uint64(0)).Bytes(),
		"deep arrays":               header(0, 1).put("a.feed_forward_length", kindArray).put(strings.Repeat("\x09\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00", 9999)).Bytes(),
		"parts with many tensors":   header(0, 1).put("split.tensors.count", kindU64, uint64(1<<33)).Bytes(),
		"parts without a count":     header(0, 1).put("split.tensors.count", kindText, "x").Bytes(),
		"padded key":                header(0, 1).put(" split.tensors.count\n", kindU64, uint64(1<<33)).Bytes(),
		"alignment of 0":            header(0, 1).put("general.alignment", kindU32, uint32(0)).Bytes(),
		"alignment is a text":       header(0, 1).put("general.alignment", kindText, "32").Bytes(),
		"architecture is a number":  header(0, 1).put("general.architecture", kindU32, uint32(1)).Bytes(),
		"tensor of 9 dimensions":    header(1, 0).put("t", uint32(9), uint64(1), uint32(0), uint64(0)).Bytes(),
		"tensor of too many values": header(1, 0).put("t", uint32(2), uint64(1<<40), uint64(1<<40), uint32(0), uint64(0)).Bytes(),
		"tensor of an unknown type": header(1, 0).put("t", uint32(1), uint64(1), uint32(9999), uint64(0)).Bytes(),
		"no weights":                whole[:len(whole)-32*4],
		"half the weights":          whole[:len(whole)-32*2],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.gguf")
			require.NoError(t, os.WriteFile(path, content, 0o600))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := ReadGGUF(path)
			runtime.ReadMemStats(&after)
			require.ErrorContains(t, err, "no whole GGUF")
			require.NotContains(t, err.Error(), "runtime error")
			require.NotContains(t, err.Error(), "interface conversion")
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20))
		})
	}
	for n := range whole { // wherever it was cut
		path := filepath.Join(t.TempDir(), "x.gguf")
		require.NoError(t, os.WriteFile(path, whole[:n], 0o600))
		_, err := ReadGGUF(path)
		require.Error(t, err, "%d bytes", n)
	}
	_, err := ReadGGUF(t.TempDir())
	require.Error(t, err)
}

// LO-802: the message is about the file, not about the program that reads it.
func TestAnAlignmentThatCannotBe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.gguf")
	for _, alignment := range []uint32{0, 3, 48, 1<<32 - 1} {
		require.NoError(t, os.WriteFile(path, header(0, 1).put("general.alignment", kindU32, alignment).Bytes(), 0o600))
		_, err := ReadGGUF(path)
		require.ErrorContains(t, err, fmt.Sprintf("its alignment is %d, and must be a power of 2", alignment))
	}
}

// ORCH-3060
func FuzzReadGGUF(f *testing.F) {
	f.Add(small("x"))
	f.Add(header(1, 2).put("general.alignment", kindU32, uint32(64), "a.context_length", kindArray, kindU32, uint64(1), uint32(1)).Bytes())
	path := filepath.Join(f.TempDir(), fmt.Sprintf("%d.gguf", os.Getpid()))
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<16 {
			return
		}
		require.NoError(t, os.WriteFile(path, content, 0o600))
		m, err := ReadGGUF(path)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(m.Architecture), maxArchBytes)
		require.LessOrEqual(t, len(m.Name), maxNameBytes)
		require.LessOrEqual(t, m.CtxMax, maxCtx)
		require.GreaterOrEqual(t, m.CtxMax, 0)
		require.GreaterOrEqual(t, m.Parameters, int64(0))
	})
}

// LO-425: all that a header says in single values, and the template.
func TestHeadersAreRead(t *testing.T) {
	h, err := ReadHeader(haiku)
	require.NoError(t, err)
	m, err := ReadGGUF(haiku)
	require.NoError(t, err)
	require.Equal(t, m, h.Metadata)
	require.EqualValues(t, 4, h.Settings["llama.block_count"])
	require.Equal(t, "gpt2", h.Settings["tokenizer.ggml.model"])
	require.NotContains(t, h.Settings, "tokenizer.ggml.tokens", "it is a list")
	require.NotContains(t, h.Settings, templateKey)
	require.Contains(t, h.Template, "messages")

	file := &parser.GGUFFile{}
	file.Header.MetadataKV = parser.GGUFMetadataKVs{
		{Key: "a", ValueType: parser.GGUFMetadataValueTypeFloat32, Value: float32(math.NaN())},
		{Key: "b", ValueType: parser.GGUFMetadataValueTypeFloat64, Value: math.Inf(1)},
		{Key: "c\x1b", ValueType: parser.GGUFMetadataValueTypeFloat64, Value: 0.5},
		{Key: "d", ValueType: parser.GGUFMetadataValueTypeBool, Value: true},
	}
	require.Equal(t, map[string]any{"c": 0.5, "d": true}, inFull(file).Settings, "JSON has no such numbers")
}
