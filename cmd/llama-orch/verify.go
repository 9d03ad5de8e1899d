// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/utils/proof"
)

type verifyCmd struct {
	Proof []string `arg:"" help:"Files with proof bundles, or ids of tasks that have one. A file is checked without a server."`
}

// errFails ends a verification that found a failure.
var errFails = errors.New("a proof bundle does not hold")

// Run checks bundles by themselves (LO-940).
func (c *verifyCmd) Run(a *app) error {
	failed := false
	for i, name := range c.Proof {
		text, err := proofText(a, name)
		if err != nil {
			return err
		}
		report := proof.Verify(text)
		failed = failed || !report.OK
		if a.json {
			if err := a.printJSON(report); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if err := a.table(reportRows(name, report)); err != nil {
			return err
		}
	}
	if failed {
		return errFails
	}
	return nil
}

// proofText is a bundle as it was written.
func proofText(a *app, name string) ([]byte, error) {
	if at, err := os.Stat(name); err == nil && at.Mode().IsRegular() {
		return readFile(nil, name, maxProof)
	}
	_, text, err := a.client.Proof(a.ctx, name)
	return text, err
}

func reportRows(name string, r proof.Report) [][]string {
	rows := [][]string{{"bundle", oneLine(name)}, {"task", dash(r.TaskID)}, {"sha256", r.SHA256}}
	for _, check := range r.Checks {
		said := string(check.State)
		if check.State == proof.Unseen {
			said = "not checked"
		}
		if check.Why != "" {
			said += ": " + oneLine(check.Why)
		}
		rows = append(rows, []string{check.Name, said})
	}
	return rows
}
