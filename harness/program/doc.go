// SPDX-License-Identifier: GPL-3.0-or-later

// Package program tries the programming model, the SDK and the utils, on a daemon with the bundled model. It has tests alone.
package program
