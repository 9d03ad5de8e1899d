// SPDX-License-Identifier: GPL-3.0-or-later

// Package clients runs the official SDKs, unchanged, against a real daemon (LO-420). Each of the programs in ./programs uses one SDK for Node, and ./gosdk those
// for Go. A program tells of each of its cases by a line of JSON. The packages for Node come from npm: `go tool mage clients` installs them.
package clients
