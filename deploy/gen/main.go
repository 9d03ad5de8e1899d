// SPDX-License-Identifier: GPL-3.0-or-later

// Command gen writes the dashboards, the alert rules and the rules' tests from their description in this package. `gen CONTRACT FOLDER` writes them, and fails where one
// names a series or a label that the metrics contract does not have (LO-602). `gen CONTRACT` says of each query on standard input what is wrong with it, a line for each.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("usage: gen CONTRACT [FOLDER]")
	}
	c, err := readContract(args[0])
	if err != nil {
		return err
	}
	if len(args) == 1 {
		for lines := bufio.NewScanner(in); lines.Scan(); {
			if err := c.check(lines.Text(), nil); err != nil {
				fmt.Fprintln(out, err)
			} else {
				fmt.Fprintln(out)
			}
		}
		return nil
	}
	files := map[string][]byte{}
	if err := c.addDashboards(files); err != nil {
		return err
	}
	if err := c.addRules(files); err != nil {
		return err
	}
	for name, content := range files {
		path := filepath.Join(args[1], name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make the folder of %s: %w", name, err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
