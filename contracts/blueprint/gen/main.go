// SPDX-License-Identifier: GPL-3.0-or-later

// Command gen prints the JSON Schema of blueprints (LO-925).
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/llama-orch/llama-orch/utils/blueprint"
)

func main() {
	if err := write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func write(to io.Writer) error {
	schema, err := blueprint.Schema()
	if err != nil {
		return err
	}
	_, err = to.Write(schema)
	return err
}
