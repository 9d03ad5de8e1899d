// SPDX-License-Identifier: GPL-3.0-or-later

// Command sim prints the tables of .docs/simulation.md, and writes its plots into the folder that it is given.
package main

import (
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/harness/sim"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: sim FOLDER")
		os.Exit(2)
	}
	if err := sim.Report(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}
