// SPDX-License-Identifier: GPL-3.0-or-later

// Package hosts runs a daemon over several hosts: network namespaces of this machine, or other loopback addresses where those cannot be made. A model is
// divided over two of them by llama.cpp's RPC (LO-470, LO-471), and workers on two of them register themselves (LO-472). The tests need a llama-server
// with RPC (`go tool mage engine:llamaServerRPC`) and stand behind the build tag `llamarpc`: `go tool mage engine:testRPC` runs them.
package hosts
