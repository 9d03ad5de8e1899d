// SPDX-License-Identifier: GPL-3.0-or-later

// Command openai-server runs the conformance server of OpenAI's API as a process of its own, on a free port of 127.0.0.1; see package openai. It says
// where it listens on standard output as {"listening":"127.0.0.1:PORT"}, and ends with its standard input.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/llama-orch/llama-orch/harness/conformance/openai"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/scripted"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "openai-server:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("openai-server", flag.ContinueOnError)
	as := f.String("as", "", "which server it is: "+strings.Join(openai.Names(), ", "))
	script := f.String("script", "", "file of the script")
	models := f.String("models", "m", "models, with commas in between")
	ctx := f.Int("ctx", 0, "tokens of the context")
	key := f.String("key", "", "key that it asks for")
	noTools := f.Bool("no-tools", false, "its model takes no tools")
	if err := f.Parse(args); err != nil {
		return fmt.Errorf("read the arguments: %w", err)
	}
	o := openai.Options{As: *as, Models: strings.Split(*models, ","), Ctx: *ctx, Key: *key, NoTools: *noTools}
	if *script != "" {
		var err error
		if o.Script, err = scripted.ReadFile(*script); err != nil {
			return err
		}
	}
	handler, err := openai.New(o)
	if err != nil {
		return err
	}
	return process.Serve("127.0.0.1:0", handler, os.Stdin, os.Stdout)
}
