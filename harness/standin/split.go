// SPDX-License-Identifier: GPL-3.0-or-later

package standin

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	parser "github.com/gpustack/gguf-parser-go"

	"github.com/llama-orch/llama-orch/service/gguf"
)

const (
	uint16Kind = 2
	int32Kind  = 5
)

// Split cuts a model in two, as llama.cpp's splitter does, and writes the parts for a model at path. It returns their names.
func Split(model, path string) ([]string, error) {
	file, err := parser.ParseGGUFFile(model)
	if err != nil {
		return nil, fmt.Errorf("read the model to be split: %w", err)
	}
	whole, err := os.ReadFile(model)
	if err != nil {
		return nil, fmt.Errorf("read the model to be split: %w", err)
	}
	const header = 24 // magic, version, counts
	all := file.TensorInfos
	settings, data := whole[header:all[0].StartOffset], whole[file.TensorDataStartOffset:]
	names, half := gguf.Alias(path, 2), len(all)/2
	for i, tensors := range [][]parser.GGUFTensorInfo{all[:half], all[half:]} {
		var own bytes.Buffer
		keys := uint64(3)
		if i == 0 {
			own.Write(settings)
			keys += file.Header.MetadataKVCount
		}
		pair(&own, "split.no", uint32(uint16Kind), uint16(i))
		pair(&own, "split.count", uint32(uint16Kind), uint16(2))
		pair(&own, "split.tensors.count", uint32(int32Kind), int32(len(all)))
		from, to := tensors[0].Offset, uint64(len(data))
		if i == 0 {
			to = all[half].Offset
		}
		var out bytes.Buffer
		out.Write(whole[:8])
		put(&out, uint64(len(tensors)), keys)
		out.Write(own.Bytes())
		for _, t := range tensors {
			text(&out, t.Name)
			put(&out, uint32(len(t.Dimensions)), t.Dimensions, uint32(t.Type), t.Offset-from)
		}
		out.Write(make([]byte, (alignment-out.Len()%alignment)%alignment))
		out.Write(data[from:to])
		if err := os.WriteFile(names[i], out.Bytes(), 0o600); err != nil {
			return nil, fmt.Errorf("write part %d of a model: %w", i+1, err)
		}
	}
	return names, nil
}

func text(to *bytes.Buffer, s string) {
	put(to, uint64(len(s)))
	to.WriteString(s)
}

func pair(to *bytes.Buffer, key string, values ...any) {
	text(to, key)
	put(to, values...)
}

func put(to *bytes.Buffer, values ...any) {
	for _, v := range values {
		_ = binary.Write(to, binary.LittleEndian, v) // a buffer takes everything
	}
}
