// SPDX-License-Identifier: GPL-3.0-or-later

// Command gosdk runs the official Go clients of OpenAI, Anthropic and Ollama against a daemon, and writes a line of JSON about each case: {name, ok, detail}. It is a
// module of its own, so that the SDKs and what they need are no part of the main one.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// What the suite's script and models are asked; see ../clients_test.go.
const (
	haiku     = "Write a haiku about tea containing \"ten past two\".\n\n"
	inOslo    = "Look at the weather in Oslo"
	inAnswer  = "It is 12 degrees in Oslo."
	asJSON    = "A frog as JSON"
	caseBound = time.Minute
)

// town is the schema of the tool's arguments.
var town = map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}, "required": []string{"city"}}

// test is one case. It fails by returning an error.
type test struct {
	name string
	run  func(context.Context) error
}

func main() {
	base := os.Getenv("LLORCH_BASE")
	out := json.NewEncoder(os.Stdout)
	for _, cases := range [][]test{openAI(base), anthropicCases(base), ollamaCases(base)} {
		for _, c := range cases {
			ctx, stop := context.WithTimeout(context.Background(), caseBound)
			err := c.run(ctx)
			stop()
			detail := ""
			if err != nil {
				detail = err.Error()
			}
			if err := out.Encode(map[string]any{"name": c.name, "ok": err == nil, "detail": detail}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
}

// restart has the test end the daemon by SIGKILL, and start it again at the same address.
func restart(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("LLORCH_TEST")+"/restart", http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return same("the status of the restart", res.StatusCode, http.StatusOK)
}

// sum is the SHA-256 of texts.
func sum(all []string) [sha256.Size]byte { return sha256.Sum256([]byte(strings.Join(all, "\n"))) }

// same says where two things differ that must not.
func same[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, and should be %v", what, got, want)
	}
	return nil
}

// city reads the arguments of a call.
func city(arguments string) (string, error) {
	var a struct{ City string }
	if err := json.Unmarshal([]byte(arguments), &a); err != nil {
		return "", fmt.Errorf("read the arguments %q: %w", arguments, err)
	}
	return a.City, nil
}
