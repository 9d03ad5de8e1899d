// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
)

//go:embed testdata/cases.json
var committed []byte

// testCase is a request of testdata/cases.json, each with a seed of its own.
type testCase struct {
	Name    string         `json:"name"`
	Must    string         `json:"must,omitempty"` // a text that a real model's answer contains
	Request map[string]any `json:"request"`
}

func loadCases() ([]testCase, error) {
	var file struct {
		Cases []testCase `json:"cases"`
	}
	if err := json.Unmarshal(committed, &file); err != nil {
		return nil, fmt.Errorf("read testdata/cases.json: %w", err)
	}
	return file.Cases, nil
}

// plain reports whether the case leaves all sampling to the pool's profile and its length to the model.
func (c testCase) plain() bool {
	for _, field := range []string{"params", "max_tokens", "sampler_profile_version"} {
		if c.Request[field] != nil {
			return false
		}
	}
	return true
}

// with returns the case with fields of its request replaced.
func (c testCase) with(fields map[string]any) testCase {
	c.Request = maps.Clone(c.Request)
	maps.Copy(c.Request, fields)
	return c
}

// body returns the request as it is sent.
func (c testCase) body(taskID, pool string) ([]byte, error) {
	body, err := json.Marshal(c.with(map[string]any{
		"task_id": taskID, "model_ref": "haiku", "placement": map[string]any{"mode": "pin", "pool_id": pool},
	}).Request)
	if err != nil {
		return nil, fmt.Errorf("encode the request of %s: %w", c.Name, err)
	}
	return body, nil
}
