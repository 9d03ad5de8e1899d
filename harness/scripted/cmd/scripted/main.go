// SPDX-License-Identifier: GPL-3.0-or-later

// Command scripted runs the scripted engine as a process of its own, for pools in mode `external` and `binary`; see package scripted.
//
// It takes llama-server's options as a pool in mode `binary` gives them, and --script FILE. Without --port it listens on a free port of
// 127.0.0.1. It says where it listens on standard output as {"listening":"127.0.0.1:PORT"}, and ends with its standard input.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scripted:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("scripted", flag.ContinueOnError)
	script := f.String("script", "", "file of the script")
	build := f.String("build", "", "build string to report")
	ctx := f.Int("c", 0, "tokens of the contexts of all slots together")
	slots := f.Int("parallel", 1, "slots")
	host := f.String("host", "127.0.0.1", "address")
	port := f.String("port", "0", "port")
	noTools := f.Bool("no-tools", false, "the template takes no tools")
	vision := f.Bool("vision", false, "it takes images")
	thinks := f.Bool("thinks", false, "its template knows thinking")
	date := f.String("date", "", "date that the template prints")
	for _, name := range []string{"m", "t", "b", "ub", "cache-ram", "log-colors", "slot-save-path", "device", "ngl", "fit", "tensor-split"} {
		f.String(name, "", "taken, and left at that")
	}
	for _, name := range []string{"no-webui", "metrics", "offline", "jinja"} {
		f.Bool(name, false, "taken, and left at that")
	}
	if err := f.Parse(args); err != nil {
		return fmt.Errorf("read the arguments: %w", err)
	}
	o := scripted.Options{
		Build: *build, Slots: *slots, APIKey: os.Getenv("LLAMA_API_KEY"), NoTools: *noTools, Vision: *vision, Thinks: *thinks, Date: *date,
		Exit: os.Exit,
	}
	if *ctx > 0 && *slots > 0 {
		o.Ctx = *ctx / *slots
	}
	if *script != "" {
		var err error
		if o.Script, err = scripted.ReadFile(*script); err != nil {
			return err
		}
	}
	return process.Serve(net.JoinHostPort(*host, *port), scripted.New(o), os.Stdin, os.Stdout)
}
