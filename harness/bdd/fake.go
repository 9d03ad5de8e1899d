// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// fake is a running fake engine.
type fake struct {
	*process.Process

	url    string
	client *http.Client
}

func (l *lab) startFake(dir, address string, slots int) (*fake, error) {
	return l.startEngine(dir, "the fake engine", "fakeengine", "-slots", fmt.Sprint(slots), "-listen", address)
}

// startEngine starts an engine of the tests, which says where it listens.
func (l *lab) startEngine(dir, name, program string, args ...string) (*fake, error) {
	p, err := l.Start(process.Options{Name: name, Exe: l.Program(program), Args: args, Env: l.Env(dir, nil)})
	if err != nil {
		return nil, err
	}
	f := &fake{Process: p, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	err = p.Said("its address", func(line string) bool {
		var at struct {
			Listening string `json:"listening"`
		}
		if json.Unmarshal([]byte(line), &at) != nil || at.Listening == "" {
			return false
		}
		f.url = "http://" + at.Listening
		return true
	})
	if err != nil {
		p.Kill()
		return nil, err
	}
	return f, nil
}

// tell calls one of the fake engine's control paths.
func (f *fake) tell(method, path, body string) error {
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, f.url+"/_fake/"+path, strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("make a request to the fake engine: %w", err)
	}
	res, err := f.client.Do(r)
	if err != nil {
		return fmt.Errorf("the fake engine did not get to %s: %w", path, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("read the fake engine's answer: %w", err)
	}
	if res.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the fake engine answered %d: %s", res.StatusCode, answer)
	}
	return nil
}
