// SPDX-License-Identifier: GPL-3.0-or-later

// Command gen prints the JSON Schema of blueprints (LO-925).
package main

import (
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/utils/blueprint"
)

func main() {
	schema, err := blueprint.Schema()
	if err == nil {
		_, err = os.Stdout.Write(schema)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
