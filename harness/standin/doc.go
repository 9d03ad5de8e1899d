// SPDX-License-Identifier: GPL-3.0-or-later

// Package standin poses as a CUDA llama-server on a machine without a GPU. It takes the command line and the environment that the daemon gives a
// llama-server. From the stand-in for NVML (harness/nvmlstub) it claims, on the cards of its mask, as much memory as the model would take. Then it
// serves the bundled model with the built-in engine on the CPU. If the cards do not have that memory, it ends as llama.cpp does.
//
// Files beside the model change what it does:
//
//	MODEL.vram   takes so many bytes instead
//	MODEL.hold   keeps loading while the file is there
//	MODEL.dies   says what is in the file, and exits with 1
//
// It computes nothing on a card, and takes no time to load.
package standin
