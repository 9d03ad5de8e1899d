// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/observe"
)

// LO-623, ORCH-3027: what a worker prints may be a prompt. It is in the log, and not in what is read of the log over the API.
func TestWhatAWorkerPrintsIsForTheLogAlone(t *testing.T) {
	var out bytes.Buffer
	tail := observe.NewTail()
	log, err := observe.NewLogger(observe.Options{Out: &out, Tail: tail, Level: "debug"})
	require.NoError(t, err)
	p, err := started(t, t.TempDir()).Spawn(shell("echo a prompt; echo another >&2"), func() {}, log)
	require.NoError(t, err)
	p.Settle(time.Hour)
	p.End(t.Context(), 0)
	require.Contains(t, out.String(), `"line":"a prompt"`)
	require.Contains(t, out.String(), `"line":"another"`)
	for lines := tail.Read(100); ; {
		line, more := lines.Past()
		if !more {
			break
		}
		text, err := line.JSON()
		require.NoError(t, err)
		require.NotContains(t, string(text), "worker output")
	}
	log.Info("after")
	_, there := tail.Read(1).Past()
	require.True(t, there)
}

// ORCH-3001
func TestTheLastLinesOfAWorkerAreKept(t *testing.T) {
	r, now := &ring{}, time.Now()
	for _, line := range []string{"one", "two", "three"} {
		r.add("stderr", line, now)
	}
	require.Equal(t, []string{"two", "three"}, r.last("", 2))
	require.Equal(t, []string{"one", "two", "three"}, r.last("stderr", 5))
	for range 2 * tailLines {
		r.add("stdout", "z", now.Add(time.Hour))
	}
	require.Empty(t, r.last("stderr", 5))
}

// LO-843: of a long trace the beginning and the cause are kept, beside the end.
func TestBothEndsOfWhatAWorkerSaidAreKept(t *testing.T) {
	r, now := &ring{}, time.Now()
	r.add("stderr", "panic: of yesterday, survived", now)
	now = now.Add(quiet + time.Second)
	say := func(format string, from, to int) {
		for i := from; i < to; i++ {
			r.add("stderr", fmt.Sprintf(format, i), now)
		}
	}
	say("loading %d", 0, 30)
	require.Empty(t, r.cause(), "what it said before the quiet moment is over")
	say("panic: index out of range [%d]", 30, 31)
	r.add("stderr", "", now)
	say("goroutine %d", 31, 133)
	require.Equal(t, []string{"panic: index out of range [30]", "goroutine 31", "goroutine 32"}, r.cause())
	tail := r.tail()
	require.Len(t, tail, headLines+toldLines+1+tailLines)
	require.Equal(t, "loading 0", tail[0])
	require.Equal(t, "panic: index out of range [30]", tail[headLines])
	require.Equal(t, "goroutine 132", tail[len(tail)-1])
	require.Equal(t, "(61 lines are left out)", tail[headLines+toldLines])

	short := &ring{}
	for i := range tailLines + 3 {
		short.add("stderr", fmt.Sprint(i), now)
	}
	require.Len(t, short.tail(), tailLines+3, "nothing is left out")
	require.Equal(t, "0", short.tail()[0])
}

// LO-843
func TestLinesThatTellOfACause(t *testing.T) {
	for line, want := range map[string]bool{
		"panic: runtime error: invalid memory address":                           true,
		"fatal error: unexpected signal during runtime execution":                true,
		"SIGSEGV: segmentation violation":                                        true,
		"/src/ggml.c:3412: GGML_ASSERT(n > 0) failed":                            true,
		"CUDA error: an illegal memory access was encountered":                   true,
		"terminate called after throwing an instance of 'std::bad_alloc'":        true,
		"llama_model_load: error loading model: unknown architecture":            true,
		"ggml_cuda_host_malloc: failed to allocate pinned memory: out of memory": false,
		"main: server is listening on http://127.0.0.1:8080":                     false,
		"rax    0x0": false,
	} {
		require.Equal(t, want, tells(line), line)
	}
}
