// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
	"github.com/hybridgroup/yzma/pkg/llama"
	"github.com/hybridgroup/yzma/pkg/loader"
	"github.com/jupiterrider/ffi"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/task"
)

// promptBatch is how many tokens of a prompt one call decodes where the options do not say. It is llama-server's physical batch.
const promptBatch = 512

// warmUp is how many tokens the binding's warm-up decodes at once.
const warmUp = 32

// model is a loaded model with its one context. Any goroutine may use tokenize and the fields that load sets. Everything else belongs to
// the goroutine of loop.
type model struct {
	path     string
	build    string
	system   string // what llama.cpp says of the CPU: it can change bytes
	template string
	nCtx     int
	nEmbd    int

	vocab    llama.Vocab
	nVocab   int32
	suppress []llama.LogitBias // tokens the model's metadata says never to sample
	tokenFn  ffi.Fun

	ctx    llama.Context
	mem    llama.Memory
	batch  llama.Batch
	pieces map[llama.Token][]byte
	held   []llama.Token // what the context holds, in order

	// ubatch is how many tokens of a prompt one call decodes. A prompt can be canceled only between two such pieces.
	ubatch int
	// rewinds: the context can be cut at any token, and what stays is then as if the rest had never been there. Models whose memory is a state, or
	// a window that slides, cannot be cut so.
	rewinds bool
	// sound is how many tokens at the beginning of held were computed as a cold start would compute them: as prompt, in whole pieces, from
	// the first token on. It is a multiple of ubatch.
	sound int
}

// load opens the libraries and the model.
func load(o Options) (*model, error) {
	lib, err := loader.LoadLibrary(o.Libs, "llama")
	if err == nil {
		err = llama.Load(o.Libs)
	}
	if err != nil {
		return nil, fail(ExitLibrary, err, "the engine libraries cannot be loaded: run `orchestratord libs` to repair them")
	}
	llama.LogSet(logCallback(o))
	llama.Init()
	if llama.GGMLBackendDeviceCount() == 0 {
		return nil, fail(ExitLibrary, nil, "the engine libraries hold no back end for this processor: run `orchestratord libs` to repair them")
	}
	m := &model{path: o.Model, build: buildInfo(o.Libs), system: llama.PrintSystemInfo(), pieces: map[llama.Token][]byte{}}
	m.tokenFn, err = lib.Prep("llama_tokenize", &ffi.TypeSint32, &ffi.TypePointer, &ffi.TypePointer, &ffi.TypeSint32,
		&ffi.TypePointer, &ffi.TypeSint32, &ffi.TypeUint8, &ffi.TypeUint8)
	if err != nil {
		return nil, fail(ExitLibrary, err, "the engine libraries are of another version: run `orchestratord libs`")
	}

	handle, err := llama.ModelLoadFromFile(o.Model, llama.ModelDefaultParams())
	if err != nil {
		return nil, fail(ExitModel, err, "llama.cpp cannot load %s: its lines above say why", o.Model)
	}
	m.vocab = llama.ModelGetVocab(handle)
	m.nVocab = llama.VocabNTokens(m.vocab)
	for _, t := range llama.VocabGetSuppressTokens(m.vocab) {
		m.suppress = append(m.suppress, llama.LogitBias{Token: t, Bias: float32(math.Inf(-1))})
	}
	m.template = llama.ModelChatTemplate(handle, "")
	m.nEmbd = int(llama.ModelNEmbdOut(handle))
	trained := int(llama.ModelNCtxTrain(handle))

	p := llama.ContextDefaultParams()
	p.NCtx = uint32(o.Ctx)
	p.NSeqMax = 1
	p.NThreads, p.NThreadsBatch = int32(o.Threads), int32(o.Threads)
	p.SwaFull = 0 // as llama-server
	size := cmp.Or(o.Ubatch, promptBatch)
	if o.Workload == task.Embedding {
		p.Embeddings = 1
		if !declaresPooling(handle) {
			p.PoolingType = llama.PoolingTypeMean
		}
		// A pooled text must fit one physical batch.
		if size = o.Ctx; size == 0 {
			size = trained
		}
	}
	p.NBatch, p.NUbatch = uint32(max(size, warmUp)), uint32(size) // no call decodes more than NUbatch, but for the binding's warm-up
	m.ctx, err = llama.InitFromModel(handle, p)
	if err != nil {
		return nil, fail(ExitModel, err, "no room for a context of %d tokens: set a smaller ctx", o.Ctx)
	}
	m.nCtx = int(llama.NCtx(m.ctx))
	if trained > 0 && m.nCtx > trained {
		fmt.Fprintf(o.Stderr, "context of %d tokens is more than the model was trained with; using %d\n", m.nCtx, trained)
		m.nCtx = trained
	}
	if m.mem, err = llama.GetMemory(m.ctx); err != nil {
		return nil, fail(ExitModel, err, "reading the context's memory")
	}
	m.ubatch = size
	m.rewinds = llama.ModelNSWA(handle) == 0 && !llama.ModelIsRecurrent(handle) && !llama.ModelIsHybrid(handle)
	m.batch = llama.BatchInit(int32(size), 0, 1)
	if o.Workload == task.Completion {
		if err := llama.Warmup(m.ctx, handle); err != nil {
			return nil, fail(ExitModel, err, "the model cannot be run")
		}
	}
	return m, nil
}

func declaresPooling(handle llama.Model) bool {
	arch, _ := llama.ModelMetaValStr(handle, "general.architecture")
	_, ok := llama.ModelMetaValStr(handle, arch+".pooling_type")
	return ok
}

var libVersion = regexp.MustCompile(`^libllama\.(v[0-9.]+[0-9])\.so$`)

// buildInfo reads the release from the name of the file that libllama.so is a link to; the library itself doesn't say.
func buildInfo(libs string) string {
	version := "of unknown version"
	if to, err := filepath.EvalSymlinks(filepath.Join(libs, "libllama.so")); err == nil {
		if found := libVersion.FindStringSubmatch(filepath.Base(to)); found != nil {
			version = found[1]
		}
	}
	return "llama.cpp " + version + " built-in"
}

// logCallback passes llama.cpp's lines on, by default only warnings and errors.
func logCallback(o Options) uintptr {
	var (
		mu   sync.Mutex
		show bool
		out  io.Writer = os.Stderr
	)
	if o.Stderr != nil {
		out = o.Stderr
	}
	return purego.NewCallback(func(level int32, text *byte, _ uintptr) uintptr {
		mu.Lock()
		defer mu.Unlock()
		if l := llama.LogLevel(level); l != llama.LogLevelContinue {
			show = l == llama.LogLevelWarn || l == llama.LogLevelError || (o.Verbose && l == llama.LogLevelInfo)
		}
		if show {
			_, _ = io.WriteString(out, unix.BytePtrToString(text))
		}
		return 0
	})
}

// tokenize is llama_tokenize. The binding's own takes a C string, which a prompt with a NUL in it is not.
func (m *model) tokenize(text string, addSpecial, parseSpecial bool) ([]llama.Token, error) {
	if len(text) > math.MaxInt32/2 {
		return nil, fmt.Errorf("the text is too long")
	}
	src := append([]byte(text), 0)
	tokens := make([]llama.Token, len(text)+8)
	for range 2 {
		var (
			result ffi.Arg
			from   = &src[0]
			size   = int32(len(text))
			to     = &tokens[0]
			room   = int32(len(tokens))
		)
		m.tokenFn.Call(unsafe.Pointer(&result), unsafe.Pointer(&m.vocab), unsafe.Pointer(&from), unsafe.Pointer(&size),
			unsafe.Pointer(&to), unsafe.Pointer(&room), unsafe.Pointer(&addSpecial), unsafe.Pointer(&parseSpecial))
		n := int32(result)
		if n >= 0 {
			return tokens[:n], nil
		}
		if n == math.MinInt32 {
			break
		}
		tokens = make([]llama.Token, -n)
	}
	return nil, fmt.Errorf("the text cannot be tokenised")
}

// piece is a token's bytes; control tokens have none.
func (m *model) piece(t llama.Token) []byte {
	if p, ok := m.pieces[t]; ok {
		return p
	}
	buf := make([]byte, 64)
	n := llama.TokenToPiece(m.vocab, t, buf, 0, false)
	if n < 0 {
		buf = make([]byte, -n)
		n = llama.TokenToPiece(m.vocab, t, buf, 0, false)
	}
	p := buf[:max(n, 0)]
	m.pieces[t] = p
	return p
}

// clear forgets the last job. Clearing the metadata is enough: cells that are masked take no part in any sum.
func (m *model) clear() {
	m.held, m.sound = m.held[:0], 0
	if m.mem != 0 {
		_ = llama.MemoryClear(m.mem, false)
	}
}

// keep forgets what the context holds beyond the beginning that it shares with the prompt, and returns how long that beginning is. The last
// token of the prompt is always decoded, because its output is needed.
func (m *model) keep(prompt []llama.Token) int { return m.cut(m.shared(prompt)) }

// keepExact is keep for jobs whose bytes must be those of a cold start. It keeps whole pieces that were computed as a cold start would
// compute them, and leaves at least the last piece of the prompt to be decoded (LO-206).
func (m *model) keepExact(prompt []llama.Token) int {
	if !m.rewinds {
		return m.cut(0)
	}
	n := min(m.shared(prompt), m.sound)
	return m.cut(n - n%m.ubatch)
}

// shared is how many tokens the prompt has in common with what the context holds, at most all but its last.
func (m *model) shared(prompt []llama.Token) (n int) {
	for n < len(m.held) && n < len(prompt)-1 && m.held[n] == prompt[n] {
		n++
	}
	return n
}

// cut forgets what the context holds beyond the first n tokens, and returns how many are left: n, or 0 where the context cannot be cut.
func (m *model) cut(n int) int {
	if n == 0 {
		m.clear()
		return 0
	}
	if ok, err := llama.MemorySeqRm(m.mem, seqZero[0], llama.Pos(n), -1); err != nil || !ok {
		m.clear()
		return 0
	}
	m.held, m.sound = m.held[:n], min(m.sound, n-n%m.ubatch)
	return n
}

// kvBytes is what the context's tokens take.
func (m *model) kvBytes() int64 {
	if len(m.held) == 0 {
		return 0
	}
	return int64(llama.StateSeqGetSize(m.ctx, seqZero[0]))
}

// read decodes the part of a prompt that begins at position pos, in one piece, and asks for the output of its last token if last is set.
func (m *model) read(part []llama.Token, pos int, last bool) error {
	if err := m.decode(part, pos, last, false); err != nil {
		return err
	}
	if pos == m.sound && len(part) == m.ubatch {
		m.sound += m.ubatch
	}
	return nil
}

// decode runs tokens that begin at position pos, and asks for the output of the last one, or of all.
func (m *model) decode(tokens []llama.Token, pos int, last, all bool) error {
	_ = m.batch.Clear()
	for i, t := range tokens {
		if err := m.batch.Add(t, llama.Pos(pos+i), seqZero, all || (last && i == len(tokens)-1)); err != nil {
			return fmt.Errorf("filling a batch: %w", err)
		}
	}
	code, err := llama.Decode(m.ctx, m.batch)
	if err != nil {
		m.clear()
		return err
	}
	if code != 0 {
		m.clear() // nobody knows what is in it now
		return fmt.Errorf("llama_decode returned %d", code)
	}
	m.held = append(m.held, tokens...)
	return nil
}

var seqZero = []llama.SeqId{0}
