// SPDX-License-Identifier: GPL-3.0-or-later

// Package gpuprobe reads all that the daemon reads of GPUs, by the daemon's own code, and says whether the figures can be (LO-884). Its program is carried to a
// machine with a card: it needs nothing of this repository there.
package gpuprobe
