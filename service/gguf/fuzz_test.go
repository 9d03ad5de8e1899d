// SPDX-License-Identifier: GPL-3.0-or-later

package gguf

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzHeader: whatever is in a file, its header is refused, or the parser reads it.
//
// LO-802, LO-861
func FuzzHeader(f *testing.F) {
	text := func(b []byte, s string) []byte {
		return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
	}
	head := func(order binary.AppendByteOrder, magic string, tensors, pairs uint64) []byte {
		b := order.AppendUint32([]byte(magic), 3)
		return order.AppendUint64(order.AppendUint64(b, tensors), pairs)
	}
	one := text(head(binary.LittleEndian, "GGUF", 1, 2), "general.architecture")
	one = text(binary.LittleEndian.AppendUint32(one, 8), "llama")
	one = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(text(one, "general.alignment"), 4), 32)
	one = text(one, "t")
	one = append(binary.LittleEndian.AppendUint32(one, 1), make([]byte, 8+4+8)...)
	f.Add(one)
	f.Add(head(binary.BigEndian, "FUGG", 0, 0))
	path := filepath.Join(f.TempDir(), fmt.Sprintf("%d.gguf", os.Getpid()))
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<16 {
			return
		}
		require.NoError(t, os.WriteFile(path, content, 0o600))
		checked := Check(path)
		file, err := Read(path)
		if checked != nil {
			require.Error(t, err)
			return
		}
		require.Equal(t, err == nil, file != nil)
	})
}

// FuzzParts: the parts of a model are named from the first to the last, and each of them names the same ones.
//
// LO-861
func FuzzParts(f *testing.F) {
	for _, seed := range []string{"m.gguf", "a/m-00002-of-00003.gguf", "m-00000-of-00000.gguf", "m-99999-of-99999.gguf", "/-00001-of-00001.gguf"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		parts, err := Parts(name)
		if err != nil {
			return
		}
		require.NotEmpty(t, parts)
		require.LessOrEqual(t, len(parts), MaxParts)
		require.Contains(t, parts, name)
		for _, part := range []string{parts[0], parts[len(parts)-1]} {
			again, err := Parts(part)
			require.NoError(t, err)
			require.Equal(t, parts, again)
		}
	})
}
