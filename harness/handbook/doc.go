// SPDX-License-Identifier: GPL-3.0-or-later

// Package handbook follows the documents as a stranger does: it runs their commands as they are written. It has tests alone.
package handbook
