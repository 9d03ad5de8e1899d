// SPDX-License-Identifier: GPL-3.0-or-later

// Command gpuprobe reads all that the daemon reads of this machine's GPUs, checks whether the figures can be, and prints both as JSON. Its exit code is 0 if they can
// be, 1 if they cannot, 2 if there is no card, 3 if it could not look.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/llama-orch/llama-orch/harness/gpuprobe"
)

// within bounds the whole: a driver may hang.
const within = 5 * time.Minute

func main() { os.Exit(run()) }

func run() int {
	o := gpuprobe.Options{}
	flag.StringVar(&o.LibraryPath, "library", "", "path of libnvidia-ml.so.1 (default: where the loader finds it)")
	flag.IntVar(&o.Samples, "samples", 10, "how many samples to take; at least 2")
	flag.DurationVar(&o.Every, "every", time.Second, "time from one sample to the next")
	flag.Parse()
	if o.Samples < 2 || flag.NArg() > 0 {
		flag.Usage()
		return 3
	}
	ctx, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	report, err := gpuprobe.Look(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpuprobe:", err)
		return 3
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, "gpuprobe:", err)
		return 3
	}
	for _, c := range report.Checks {
		if !c.OK {
			fmt.Fprintf(os.Stderr, "gpuprobe: %s: %s; it is %s\n", c.Of, c.Must, c.Saw)
		}
	}
	switch {
	case report.Plausible:
		return 0
	case report.Why != "":
		return 2
	default:
		return 1
	}
}
