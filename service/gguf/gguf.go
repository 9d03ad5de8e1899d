// SPDX-License-Identifier: GPL-3.0-or-later

// Package gguf checks the header of a GGUF file before it is parsed. The parser trusts the counts in the file, and too large an allocation
// ends the process (LO-802).
package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"

	parser "github.com/gpustack/gguf-parser-go"

	"github.com/llama-orch/llama-orch/service/safefile"
)

// The bounds of a header. They are well above those of any known model, and small in memory.
const (
	maxPairs      = 1 << 16 // key and value
	maxTensors    = 1 << 18
	maxKept       = 64 << 20 // bytes of the keys, texts and names that the parser keeps
	maxText       = 16 << 20 // bytes of one of them
	maxItems      = 4 << 20  // texts in arrays; scan steps over them one by one
	maxLayers     = 1 << 16  // items of the arrays that the parser keeps
	maxKey        = 256      // bytes of a key that is looked at
	splitCountKey = "split.tensors.count"
	alignmentKey  = "general.alignment"
)

// scan steps through a header without keeping any of it.
type scan struct {
	r     *bufio.Reader
	left  int64 // bytes of the file
	order binary.ByteOrder
	long  bool // lengths are of 64 bits
	kept  int64
	items uint64
}

// Check returns an error whose text says what is wrong with a file's header.
func Check(path string) error {
	f, at, err := safefile.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if at.Size() == 0 { // a file of the kernel's, of which a read may wait for ever (LO-815)
		return errors.New("it is empty")
	}
	s := scan{r: bufio.NewReaderSize(f, 256<<10), left: at.Size(), order: binary.LittleEndian}
	if err := s.header(); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("it ends within its header")
		}
		return err
	}
	return nil
}

// Read reads the header of a model's file, with all its parts, after Check has passed it.
func Read(model string) (file *parser.GGUFFile, err error) {
	defer func() {
		if p := recover(); p != nil { // the parser panics if a header contradicts itself
			file, err = nil, fmt.Errorf("read the model's header, which contradicts itself: %v", p)
		}
	}()
	parts, err := Parts(model) // the parser reads all of them
	if err != nil {
		return nil, fmt.Errorf("read the model's header: %w", err)
	}
	for _, part := range parts {
		if err := Check(part); err != nil {
			return nil, fmt.Errorf("read the model's header: %w", err)
		}
	}
	if file, err = parser.ParseGGUFFile(model, parser.UseMMap()); err != nil {
		return nil, fmt.Errorf("read the model's header: %w", err)
	}
	file.Architecture() // it may panic too
	return file, nil
}

func (s *scan) header() error {
	magic, err := s.u32()
	if err != nil {
		return err
	}
	switch parser.GGUFMagic(magic) {
	case parser.GGUFMagicGGUFLe:
	case parser.GGUFMagicGGUFBe:
		s.order = binary.BigEndian
	default:
		return errors.New("it does not begin as one")
	}
	version, err := s.u32()
	if err != nil {
		return err
	}
	if version < 1 || version > 3 {
		return fmt.Errorf("it is of version %d, and 1 to 3 can be read", version)
	}
	s.long = version > 1
	tensors, err := s.length()
	if err != nil {
		return err
	}
	pairs, err := s.length()
	if err != nil {
		return err
	}
	if tensors > maxTensors || pairs > maxPairs {
		return fmt.Errorf("it counts %d tensors and %d settings", tensors, pairs)
	}
	for range pairs {
		if err := s.pair(); err != nil {
			return err
		}
	}
	for range tensors {
		if err := s.tensor(); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) pair() error {
	key, err := s.text(true)
	if err != nil {
		return err
	}
	kind, err := s.u32()
	if err != nil {
		return err
	}
	of := parser.GGUFMetadataValueType(kind)
	switch key {
	case splitCountKey: // the parser makes room for this many
		n, err := s.number(of)
		if err == nil && n > maxTensors {
			err = fmt.Errorf("it counts %d tensors in all parts", n)
		}
		return err
	case alignmentKey: // the parser divides by it
		n, err := s.number(of)
		if err == nil && (of != parser.GGUFMetadataValueTypeUint32 || bits.OnesCount64(n) != 1) {
			err = fmt.Errorf("its alignment is %d, and must be a power of 2", n)
		}
		return err
	}
	switch of {
	case parser.GGUFMetadataValueTypeString:
		_, err := s.text(true)
		return err
	case parser.GGUFMetadataValueTypeArray:
		return s.array(key)
	default:
		return s.scalar(of, 1)
	}
}

// number reads a whole number, of which the file says what kind it is.
func (s *scan) number(of parser.GGUFMetadataValueType) (uint64, error) {
	size, ok := widths[of]
	if !ok || of == parser.GGUFMetadataValueTypeFloat32 || of == parser.GGUFMetadataValueTypeFloat64 || of == parser.GGUFMetadataValueTypeBool {
		return 0, errors.New("one of its counts is no number")
	}
	raw, err := s.take(size)
	if err != nil {
		return 0, err
	}
	switch size {
	case 1:
		return uint64(raw[0]), nil
	case 2:
		return uint64(s.order.Uint16(raw)), nil
	case 4:
		return uint64(s.order.Uint32(raw)), nil
	default:
		return s.order.Uint64(raw), nil
	}
}

func (s *scan) array(key string) error {
	kind, err := s.u32()
	if err != nil {
		return err
	}
	n, err := s.length()
	if err != nil {
		return err
	}
	of := parser.GGUFMetadataValueType(kind)
	for _, suffix := range []string{".feed_forward_length", ".attention.head_count", ".attention.head_count_kv", ".attention.sliding_window_pattern"} {
		if strings.HasSuffix(key, suffix) && n > maxLayers { // the parser keeps these arrays
			return fmt.Errorf("it has a value for each of %d layers", n)
		}
	}
	if of != parser.GGUFMetadataValueTypeString {
		return s.scalar(of, n)
	}
	if s.items += n; n > maxItems || s.items > maxItems {
		return fmt.Errorf("it lists more than %d texts", maxItems)
	}
	for range n {
		if _, err := s.text(false); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) tensor() error {
	if _, err := s.text(true); err != nil {
		return err
	}
	dims, err := s.u32()
	if err != nil {
		return err
	}
	if dims < 1 || dims > parser.GGMLMaxDims {
		return fmt.Errorf("a tensor has %d dimensions", dims)
	}
	width := int64(4)
	if s.long {
		width = 8
	}
	return s.skip(int64(dims)*width + 4 + 8) // sizes, type, offset
}

// widths are the sizes of values in bytes. Arrays within arrays have none: no model has any, and the parser would recurse.
var widths = map[parser.GGUFMetadataValueType]int{
	parser.GGUFMetadataValueTypeUint8: 1, parser.GGUFMetadataValueTypeInt8: 1, parser.GGUFMetadataValueTypeBool: 1,
	parser.GGUFMetadataValueTypeUint16: 2, parser.GGUFMetadataValueTypeInt16: 2,
	parser.GGUFMetadataValueTypeUint32: 4, parser.GGUFMetadataValueTypeInt32: 4, parser.GGUFMetadataValueTypeFloat32: 4,
	parser.GGUFMetadataValueTypeUint64: 8, parser.GGUFMetadataValueTypeInt64: 8, parser.GGUFMetadataValueTypeFloat64: 8,
}

func (s *scan) scalar(of parser.GGUFMetadataValueType, n uint64) error {
	width, ok := widths[of]
	if !ok {
		return fmt.Errorf("it has a value of type %d", of)
	}
	if n > math.MaxInt64/8 {
		return io.ErrUnexpectedEOF
	}
	return s.skip(int64(n) * int64(width))
}

// text steps over a text, and returns it if it is short. The parser keeps keys, and values that are no arrays.
func (s *scan) text(kept bool) (string, error) {
	n, err := s.length()
	if err != nil {
		return "", err
	}
	if n > uint64(max(s.left, 0)) {
		return "", io.ErrUnexpectedEOF
	}
	if kept {
		if s.kept += int64(n); n > maxText || s.kept > maxKept {
			return "", errors.New("its texts are too long")
		}
		if n <= maxKey {
			raw, err := s.take(int(n))
			return strings.TrimSpace(string(raw)), err // the parser trims it too
		}
	}
	return "", s.skip(int64(n))
}

func (s *scan) length() (uint64, error) {
	if !s.long {
		n, err := s.u32()
		return uint64(n), err
	}
	raw, err := s.take(8)
	if err != nil {
		return 0, err
	}
	return s.order.Uint64(raw), nil
}

func (s *scan) u32() (uint32, error) {
	raw, err := s.take(4)
	if err != nil {
		return 0, err
	}
	return s.order.Uint32(raw), nil
}

// take returns the next few bytes, valid until the next call.
func (s *scan) take(n int) ([]byte, error) {
	raw, err := s.r.Peek(n)
	if err != nil {
		return nil, err
	}
	_, err = s.r.Discard(n)
	s.left -= int64(n)
	return raw, err
}

func (s *scan) skip(n int64) error {
	if n < 0 || n > s.left {
		return io.ErrUnexpectedEOF
	}
	s.left -= n
	_, err := io.CopyN(io.Discard, s.r, n)
	return err
}
