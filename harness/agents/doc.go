// SPDX-License-Identifier: GPL-3.0-or-later

// Package agents runs whole agents, as they come from npm, against a real daemon with a scripted engine behind it (LO-423). The engine has each agent write a
// file by a call of its own tool, read it, and finish. `go tool mage agents` installs the agents.
package agents
