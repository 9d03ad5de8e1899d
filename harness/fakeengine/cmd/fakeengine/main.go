// SPDX-License-Identifier: GPL-3.0-or-later

// Command fakeengine runs the fault-injecting engine of the tests as a process of its own, for pools in `external` mode.
// It listens on a free port of 127.0.0.1, says where on standard output as {"listening":"127.0.0.1:PORT"}, and ends with
// its standard input.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/harness/fakeengine"
	"github.com/llama-orch/llama-orch/harness/process"
)

func main() {
	addr := flag.String("listen", "127.0.0.1:0", "address to listen on")
	build := flag.String("build", "", "build string to report")
	ctx := flag.Int("ctx", 0, "tokens a slot's context holds (default 256)")
	slots := flag.Int("slots", 0, "slots (default 1)")
	flag.Parse()
	if err := run(*addr, fakeengine.Options{Build: *build, Ctx: *ctx, Slots: *slots, Exit: os.Exit}); err != nil {
		fmt.Fprintln(os.Stderr, "fakeengine:", err)
		os.Exit(1)
	}
}

func run(addr string, opts fakeengine.Options) error {
	return process.Serve(addr, fakeengine.New(opts), os.Stdin, os.Stdout)
}
