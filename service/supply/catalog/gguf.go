// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	gguf "github.com/gpustack/gguf-parser-go"

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

// The bounds of a GGUF's header. They are well above those of any known model, and small in memory.
const (
	maxPairs       = 1 << 16 // key and value
	maxTensors     = 1 << 18
	maxKept        = 64 << 20 // bytes of the keys, texts and names that the parser keeps
	maxText        = 16 << 20 // bytes of one of them
	maxItems       = 4 << 20  // texts in arrays; scan steps over them one by one
	maxLayers      = 1 << 16  // items of the arrays that the parser keeps
	maxShards      = 1024
	maxCtx         = 100_000_000
	maxParameters  = 1<<53 - 1
	maxNameBytes   = 256
	maxArchBytes   = 64
	splitCountKey  = "split.tensors.count"
	alignmentKey   = "general.alignment"
	damagedMessage = "is no whole GGUF file: fetch it again, and give its digest"
)

var shardName = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.gguf$`)

// ReadGGUF reads the metadata of a GGUF file. If path is the first of several parts, it reads all of them. The error's text says what is
// wrong with the file.
func ReadGGUF(path string) (m Metadata, err error) {
	parts, err := shards(path)
	if err != nil {
		return m, err
	}
	for _, part := range parts { // the parser trusts the counts in the file, and too large an allocation ends the process
		if err := scanFile(part); err != nil {
			return m, fmt.Errorf("%s %s (%w)", filepath.Base(part), damagedMessage, err)
		}
	}
	defer func() { // the parser panics if numbers overflow or types are not what it expects
		if p := recover(); p != nil {
			m, err = Metadata{}, fmt.Errorf("%s %s (its header contradicts itself)", filepath.Base(path), damagedMessage)
		}
	}()
	file, err := gguf.ParseGGUFFile(path, gguf.SkipLargeMetadata())
	if err != nil {
		return m, fmt.Errorf("%s %s (%w)", filepath.Base(path), damagedMessage, err)
	}
	if len(parts) == 1 && len(file.TensorInfos) > 0 && file.TensorDataStartOffset > int64(file.Size) { // the parser does not notice this
		return m, fmt.Errorf("%s %s (it ends before its weights)", filepath.Base(path), damagedMessage)
	}
	return describe(file), nil
}

// shards lists the files of a model, given the name of the first one.
func shards(path string) ([]string, error) {
	name := shardName.FindStringSubmatch(filepath.Base(path))
	if name == nil {
		return []string{path}, nil
	}
	at, _ := strconv.Atoi(name[2])
	of, _ := strconv.Atoi(name[3])
	switch {
	case at != 1:
		return nil, fmt.Errorf("%s is part %d of a model: name its part 1", filepath.Base(path), at)
	case of < 1 || of > maxShards:
		return nil, fmt.Errorf("%s is one of %d parts: at most %d can be read", filepath.Base(path), of, maxShards)
	}
	parts := make([]string, of)
	for i := range parts {
		parts[i] = filepath.Join(filepath.Dir(path), fmt.Sprintf("%s-%05d-of-%05d.gguf", name[1], i+1, of))
	}
	return parts, nil
}

func describe(file *gguf.GGUFFile) Metadata {
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
		return gguf.ValueNumeric[uint64](kv), true
	}
	if ctx, ok := number("context_length"); ok {
		m.CtxMax = int(min(ctx, maxCtx))
	}
	if kv, ok := file.Header.MetadataKV.Get("tokenizer.chat_template"); ok && kv.ValueType == gguf.GGUFMetadataValueTypeString {
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

// scan steps through a header without keeping any of it.
type scan struct {
	r     *bufio.Reader
	left  int64 // bytes of the file
	order binary.ByteOrder
	long  bool // lengths are of 64 bits
	kept  int64
	items uint64
}

func scanFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	at, err := f.Stat()
	if err != nil {
		return err
	}
	if !at.Mode().IsRegular() {
		return errors.New("it is no plain file")
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

func (s *scan) header() error {
	magic, err := s.u32()
	if err != nil {
		return err
	}
	switch gguf.GGUFMagic(magic) {
	case gguf.GGUFMagicGGUFLe:
	case gguf.GGUFMagicGGUFBe:
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
	of := gguf.GGUFMetadataValueType(kind)
	switch key {
	case splitCountKey: // the parser makes room for this many
		n, err := s.number(of)
		if err == nil && n > maxTensors {
			err = fmt.Errorf("it counts %d tensors in all parts", n)
		}
		return err
	case alignmentKey: // the parser divides by it
		n, err := s.number(of)
		if err == nil && (of != gguf.GGUFMetadataValueTypeUint32 || bits.OnesCount64(n) != 1) {
			err = fmt.Errorf("its alignment is %d, and must be a power of 2", n)
		}
		return err
	}
	switch of {
	case gguf.GGUFMetadataValueTypeString:
		_, err := s.text(true)
		return err
	case gguf.GGUFMetadataValueTypeArray:
		return s.array(key)
	default:
		return s.scalar(of, 1)
	}
}

// number reads a whole number, of which the file says what kind it is.
func (s *scan) number(of gguf.GGUFMetadataValueType) (uint64, error) {
	size, ok := widths[of]
	if !ok || of == gguf.GGUFMetadataValueTypeFloat32 || of == gguf.GGUFMetadataValueTypeFloat64 || of == gguf.GGUFMetadataValueTypeBool {
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
	of := gguf.GGUFMetadataValueType(kind)
	for _, suffix := range []string{".feed_forward_length", ".attention.head_count", ".attention.head_count_kv", ".attention.sliding_window_pattern"} {
		if strings.HasSuffix(key, suffix) && n > maxLayers { // the parser keeps these arrays
			return fmt.Errorf("it has a value for each of %d layers", n)
		}
	}
	if of != gguf.GGUFMetadataValueTypeString {
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
	if dims < 1 || dims > gguf.GGMLMaxDims {
		return fmt.Errorf("a tensor has %d dimensions", dims)
	}
	width := int64(4)
	if s.long {
		width = 8
	}
	return s.skip(int64(dims)*width + 4 + 8) // sizes, type, offset
}

// widths are the sizes of values in bytes. Arrays within arrays have none: no model has any, and the parser would recurse.
var widths = map[gguf.GGUFMetadataValueType]int{
	gguf.GGUFMetadataValueTypeUint8: 1, gguf.GGUFMetadataValueTypeInt8: 1, gguf.GGUFMetadataValueTypeBool: 1,
	gguf.GGUFMetadataValueTypeUint16: 2, gguf.GGUFMetadataValueTypeInt16: 2,
	gguf.GGUFMetadataValueTypeUint32: 4, gguf.GGUFMetadataValueTypeInt32: 4, gguf.GGUFMetadataValueTypeFloat32: 4,
	gguf.GGUFMetadataValueTypeUint64: 8, gguf.GGUFMetadataValueTypeInt64: 8, gguf.GGUFMetadataValueTypeFloat64: 8,
}

func (s *scan) scalar(of gguf.GGUFMetadataValueType, n uint64) error {
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
		if n <= maxNameBytes {
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
