// SPDX-License-Identifier: GPL-3.0-or-later

// Package lan runs a daemon on a local network of its own, with real multicast (LO-642). Its tests run in a network namespace, where two ends of a cable stand for two machines. It has tests
// alone.
package lan
