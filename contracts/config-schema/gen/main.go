// SPDX-License-Identifier: GPL-3.0-or-later

// Command gen prints the config file's JSON Schema (OC-CONFIG-6010).
package main

import (
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/service/config"
)

func main() {
	schema, err := config.Schema()
	if err == nil {
		_, err = os.Stdout.Write(schema)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
