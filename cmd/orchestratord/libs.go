// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/service/supply/provision"
)

// libsCmd fetches what the built-in engine needs (ORCH-3200), for who has no checkout.
type libsCmd struct {
	CUDA bool `name:"cuda" help:"Those with the back end for NVIDIA's GPUs: 140 MB instead of 29."`
}

// Run fetches, if the cache does not have them whole.
func (c libsCmd) Run() error {
	ctx, stop := interruptible()
	defer stop()
	fetch := provision.EngineLibs
	if c.CUDA {
		fetch = provision.CUDALibs
	}
	dir, err := fetch(ctx, provision.Options{Progress: func(message string) { fmt.Fprintln(os.Stderr, message) }})
	if err != nil {
		return err
	}
	_, err = fmt.Println(dir)
	return err
}
