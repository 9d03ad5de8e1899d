// SPDX-License-Identifier: GPL-3.0-or-later

package tgi

import (
	"bytes"
	_ "embed"
	"fmt"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed contract.json
var contract []byte

// schemas compiles the contract once.
var schemas = sync.OnceValues(func() (map[string]*jsonschema.Schema, error) {
	const name = "contract.json"
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(contract))
	if err != nil {
		return nil, fmt.Errorf("read the contract: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("take in the contract: %w", err)
	}
	all := map[string]*jsonschema.Schema{}
	for _, body := range []string{generateBody, chatBody} {
		if all[body], err = c.Compile(name + "#/$defs/" + body); err != nil {
			return nil, fmt.Errorf("compile the contract: %w", err)
		}
	}
	return all, nil
})

// The bodies of requests that the contract has.
const (
	generateBody = "generate"
	chatBody     = "chat"
)

// check holds the body of a request against the contract.
func check(name string, body []byte) error {
	all, err := schemas()
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	return all[name].Validate(value)
}
