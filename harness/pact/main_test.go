// SPDX-License-Identifier: GPL-3.0-or-later

//go:build pact

package pact

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pactlog "github.com/pact-foundation/pact-go/v2/log"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/process"
)

// programsEnv names the folder of the built programs. A test that runs this binary again passes it on.
const programsEnv = "LLORCH_TEST_PROGRAMS"

// program returns the path of a built program.
func program(name string) string { return filepath.Join(os.Getenv(programsEnv), name) }

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := pactlog.SetLogLevel("ERROR"); err != nil {
		fmt.Fprintln(os.Stderr, "quieten Pact:", err)
		return 1
	}
	log.SetOutput(errorsOnly{})
	for _, setting := range os.Environ() { // some of Pact's own variables would leave out interactions
		if name, _, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "PACT_") {
			if err := os.Unsetenv(name); err != nil {
				fmt.Fprintln(os.Stderr, "unset", name, err)
				return 1
			}
		}
	}
	if os.Getenv(programsEnv) != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "llama-orch-pact-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a folder for the programs:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := nvmlstub.Hide(dir); err != nil { // the pacts have a machine without a card
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := process.Build(context.Background(), "../..", dir+"/", "./cmd/orchestratord", "./cmd/llama-orch"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.Setenv(programsEnv, dir); err != nil {
		fmt.Fprintln(os.Stderr, "name the folder of the programs:", err)
		return 1
	}
	return m.Run()
}

// errorsOnly passes on what pact-go logs as an error, with one exception: for every interaction pact-go tries, and fails, to set up its logger a second
// time.
type errorsOnly struct{}

func (errorsOnly) Write(line []byte) (int, error) {
	if !bytes.Contains(line, []byte("[ERROR]")) || bytes.Contains(line, []byte("can't set logger")) {
		return len(line), nil
	}
	return os.Stderr.Write(line)
}
