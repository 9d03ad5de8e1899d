// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/fleet/engine/llamacpp"
)

// ORCH-3053
func TestCausesOfDeathAreToldApart(t *testing.T) {
	for name, c := range map[string]struct {
		e    evidence
		is   reason
		from reason // default exited
	}{
		"vram":              {evidence{exitCode: 1, onGPU: true, lines: []string{"ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: cudaMalloc failed: out of memory", "llama_model_load: error loading model: unable to allocate CUDA0 buffer", "failed to load model"}}, oomVRAM, loadFailed},
		"vram in decode":    {evidence{exitCode: -1, signal: syscall.SIGABRT, onGPU: true, lines: []string{"CUDA error: out of memory"}}, oomVRAM, ""},
		"vram, by a probe":  {evidence{exitCode: -1, signal: syscall.SIGKILL, byUs: true, onGPU: true, lines: []string{"failed to allocate compute buffers"}}, oomVRAM, probeFailed},
		"host, the kernel":  {evidence{exitCode: -1, signal: syscall.SIGKILL, oomKilled: true}, oomHost, ""},
		"host, C++":         {evidence{exitCode: -1, signal: syscall.SIGABRT, lines: []string{"terminate called after throwing an instance of 'std::bad_alloc'"}}, oomHost, ""},
		"host, of a GPU's":  {evidence{exitCode: 1, onGPU: true, lines: []string{"mmap failed: Cannot allocate memory"}}, oomHost, loadFailed},
		"host, of a CPU's":  {evidence{exitCode: 1, lines: []string{"failed to allocate buffer for kv cache"}}, oomHost, loadFailed},
		"somebody's kill":   {evidence{exitCode: -1, signal: syscall.SIGKILL, lines: []string{"out of memory, long ago"}}, exited, ""},
		"xid":               {evidence{exitCode: -1, signal: syscall.SIGABRT, onGPU: true, problem: "XID 79", lines: []string{"CUDA error: out of memory"}}, driverReset, ""},
		"xid while serving": {evidence{exitCode: -1, signal: syscall.SIGKILL, byUs: true, onGPU: true, problem: "XID 79"}, driverReset, unhealthy},
		"driver's words":    {evidence{exitCode: -1, signal: syscall.SIGABRT, onGPU: true, lines: []string{"CUDA error: an illegal memory access was encountered"}}, driverReset, ""},
		"linker":            {evidence{exitCode: 127, lines: []string{"llama-server: error while loading shared libraries: libggml.so: cannot open shared object file"}}, missingLibrary, loadFailed},
		"no program":        {evidence{exitCode: 127}, missingLibrary, loadFailed},
		"built-in's libs":   {evidence{exitCode: 4, lines: []string{`{"error":"the engine libraries cannot be loaded: run it"}`}}, missingLibrary, loadFailed},
		"magic":             {evidence{exitCode: 1, lines: []string{"gguf_init_from_file: invalid magic characters: 'PK'", "error loading model"}}, badModel, loadFailed},
		"built-in's model":  {evidence{exitCode: 3, lines: []string{`{"error":"/m is not a GGUF file: download it"}`}}, badModel, loadFailed},
		"port":              {evidence{exitCode: 1, portChosen: true, lines: []string{"start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 80"}}, portTaken, loadFailed},
		"no port of ours":   {evidence{exitCode: 1, lines: []string{"address already in use"}}, exited, ""},
		"no pinned memory":  {evidence{exitCode: 1, onGPU: true, lines: []string{"ggml_cuda_host_malloc: failed to allocate 64.00 MiB of pinned memory: out of memory", "another end"}}, loadFailed, loadFailed},
		"built-in's room":   {evidence{exitCode: 3, lines: []string{`{"error":"no room for a context of 4096 tokens: set a smaller ctx"}`}}, oomHost, loadFailed},
		"old driver":        {evidence{exitCode: 1, onGPU: true, lines: []string{"CUDA driver version is insufficient for CUDA runtime version"}}, missingLibrary, loadFailed},
		"hung":              {evidence{exitCode: -1, signal: syscall.SIGKILL, byUs: true, lines: []string{"failed to allocate, long ago"}}, unhealthy, unhealthy},
		"unknown":           {evidence{exitCode: 7, lines: []string{"the tensor is missing"}}, exited, ""},
	} {
		if c.from == "" {
			c.from = exited
		}
		c.e.deaths = llamacpp.Kind().Start.Deaths
		require.Equal(t, c.is, c.e.cause(c.from), name)
		require.Contains(t, Reasons(), string(c.is))
	}
}

// ORCH-3040
func TestTheBreakerCountsWithinItsWindow(t *testing.T) {
	b := breaker{failures: 3, window: time.Minute}
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	require.False(t, b.fail(exited, at(0)))
	require.False(t, b.fail(exited, at(10)))
	require.False(t, b.fail(refused, at(11)), "that costs nothing")
	require.False(t, b.fail(exited, at(61)), "the first is forgotten")
	require.True(t, b.fail(exited, at(62)))
	require.True(t, b.fail(exited, at(63)), "it stays open")
	b.reset()
	require.False(t, b.fail(exited, at(64)))
}

// LO-839: what this process lacks never opens the breaker, and the pool's health says what to raise
func TestAShortageOfOursIsNoFailure(t *testing.T) {
	b := breaker{failures: 2, window: time.Minute}
	for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		for _, at := range []reason{refused, loadFailed, probeFailed} {
			why := asLoss(fmt.Errorf("start the worker: %w", err), at)
			require.Equal(t, ownShortage, why.reason)
			require.Contains(t, why.Error(), "LimitNOFILE")
			require.False(t, b.fail(why.reason, time.Unix(1, 0)))
		}
	}
	require.Equal(t, loadFailed, asLoss(syscall.ECONNREFUSED, loadFailed).reason)
}
