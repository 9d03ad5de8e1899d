// SPDX-License-Identifier: GPL-3.0-or-later

// Package standin passes for a CUDA llama-server on a machine without a GPU. It takes the command line and environment that
// the daemon gives a llama-server, claims memory of the cards of its mask from the stand-in for NVML (harness/nvmlstub), as
// much as the model it is told would take, and then serves the bundled model with the built-in engine on the CPU. Where the
// cards do not hold what it takes, it ends as llama.cpp does.
//
// Files beside the model have it do otherwise:
//
//	MODEL.vram   takes so many bytes instead
//	MODEL.hold   keeps loading while the file is there
//	MODEL.dies   says what is in the file, and exits with 1
//
// What it is not: it computes nothing on a card, and takes no time to load.
package standin
