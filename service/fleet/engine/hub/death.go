// SPDX-License-Identifier: GPL-3.0-or-later

package hub

import "github.com/llama-orch/llama-orch/service/fleet/engine"

// Deaths are the texts of vLLM, TGI, PyTorch and CUDA. What an engine says of its KV comes first: it may name memory as well.
func Deaths() engine.Deaths {
	return engine.Deaths{Signs: []engine.Sign{
		{Cause: engine.NoKVRoom, Texts: []string{
			"no available memory for the cache blocks", "larger than the available kv cache memory", "larger than the maximum number of tokens that can be stored in kv cache",
			"kv cache is needed", "try increasing `gpu_memory_utilization` or decreasing `max_model_len`",
			"not enough memory to handle", "you need to decrease `--max-batch-prefill-tokens`", "`max_batch_total_tokens` must be",
		}},
		{Cause: engine.UnsupportedGPU, Texts: []string{
			"no kernel image is available for execution", "is only supported on gpus with compute capability", "minimum capability", "is not compatible with the current pytorch installation",
			"only supports ampere gpus or newer", "requires compute capability", "no cuda gpus are available", "gpu architecture is not supported",
		}},
		{Cause: engine.DriverReset, Texts: []string{
			"an illegal memory access", "unspecified launch failure", "uncorrectable ecc", "gpu is lost", "device is lost", "fallen off the bus",
		}},
		{Cause: engine.OutOfVRAM, Texts: []string{
			"cuda out of memory", "torch.outofmemoryerror", "torch.cuda.outofmemoryerror", "cuda error: out of memory", "cublas_status_alloc_failed",
			"is less than desired gpu memory utilization",
		}},
		{Cause: engine.OutOfHost, Texts: []string{"std::bad_alloc", "cannot allocate memory", "memoryerror", "defaultcpuallocator: can't allocate"}},
		{Cause: engine.MissingLibrary, Texts: []string{
			"error while loading shared libraries", "cannot open shared object file", "undefined symbol:", "modulenotfounderror", "no module named",
			"cuda driver version is insufficient", "nvidia driver on your system is too old", "failed to infer device type",
		}},
		{Cause: engine.PortTaken, Texts: []string{"address already in use", "address in use", "[errno 98]"}},
		{Cause: engine.ModelMissing, Texts: []string{
			"does not appear to have a file named", "is not a valid model identifier", "repository not found", "repo id must be", "cannot find any model weights",
			"no local weights found", "localentrynotfounderror", "no safetensors weights found",
		}},
		{Cause: engine.BadModel, Texts: []string{
			"are not supported for now", "unsupported model type", "model architectures", "trust_remote_code", "error while deserializing header", "safetensorerror",
			"unknown quantization method",
		}},
	}}
}
