// SPDX-License-Identifier: GPL-3.0-or-later

package llamacpp

import "github.com/llama-orch/llama-orch/service/fleet/engine"

// deaths are the texts of llama.cpp, CUDA, the dynamic linker and the C and C++ libraries.
var deaths = engine.Deaths{
	Harmless: []string{"pinned memory"}, // the host has none to spare, and llama.cpp goes on without it
	Signs: []engine.Sign{
		{Cause: engine.MissingLibrary, Texts: []string{
			"error while loading shared libraries", "cannot open shared object file", "undefined symbol:", "symbol lookup error",
			"engine libraries cannot be loaded", "engine libraries hold no back end", "engine libraries are of another version", "engine libraries lacks",
			"cuda driver version is insufficient",
		}},
		{Cause: engine.HostLost, Texts: []string{
			"remote rpc server crashed", "rpc handshake failed for", "rpc server version mismatch", "ggml-rpc.cpp", "failed to connect to",
		}},
		{Cause: engine.DriverReset, Texts: []string{
			"cuda error: an illegal memory access", "cuda error: unspecified launch failure", "cuda error: uncorrectable ecc", "gpu is lost",
			"device is lost", "fallen off the bus",
		}},
		{Cause: engine.OutOfVRAM, Texts: []string{
			"cudamalloc failed", "cuda error: out of memory", "cublas_status_alloc_failed", "failed to allocate cuda", "unable to allocate cuda",
			"cuda_error_out_of_memory", "cudaerrormemoryallocation",
		}},
		{Cause: engine.OutOfHost, Texts: []string{
			"std::bad_alloc", "cannot allocate memory", "failed to allocate cpu", "unable to allocate cpu", "cpu_buffer_type_alloc_buffer: failed",
			"runtime: out of memory",
		}},
		{Cause: engine.OutOfMemory, Texts: []string{"out of memory", "failed to allocate", "unable to allocate", "no room for a context"}},
		{Cause: engine.PortTaken, Texts: []string{"address already in use", "couldn't bind", "could not bind"}},
		{Cause: engine.BadModel, Texts: []string{
			"invalid magic", "is not a gguf file", "unknown model architecture", "failed to load model", "error loading model", "unable to load model",
			"llama.cpp cannot load", "the model cannot be opened", "check_tensor_dims", "is corrupted or incomplete",
		}},
	},
}
