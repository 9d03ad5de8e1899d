// SPDX-License-Identifier: GPL-3.0-or-later

// Command hubengine poses as TGI's launcher; see package hubengine.
package main

import (
	"context"
	"os"

	"github.com/llama-orch/llama-orch/harness/hubengine"
)

func main() { os.Exit(hubengine.Main(context.Background(), os.Args[1:], os.Stderr)) }
