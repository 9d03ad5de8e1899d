// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/json"

	"github.com/llama-orch/llama-orch/sdk"
)

// The bounds of files that a chat brings. The server has lower limits, which its errors name.
const (
	maxImage  = 64 << 20
	maxSchema = 4 << 20
)

// anyObject is the --format of JSON without a schema.
const anyObject = "json"

// ask puts the prompt into a request, as it is or as a user's message, with what is asked besides.
func (c *runCmd) ask(a *app, request *sdk.TaskRequest, prompt string) error {
	chat := c.Chat || c.System != "" || len(c.Image) > 0 || c.Tools != "" || c.Reasoning
	if !chat {
		request.Prompt = prompt
	} else if err := c.messages(a, request, prompt); err != nil {
		return err
	}
	if c.Tools != "" {
		text, err := jsonFile(a, c.Tools, "a JSON list of tools")
		if err != nil {
			return err
		}
		if request.Tools, err = toolsOf(text); err != nil {
			return usagef("%s is no JSON list of tools, such as [{\"name\": \"weather\", \"parameters\": {\"type\": \"object\"}}]: %w", c.Tools, err)
		}
	}
	request.ToolChoice = c.ToolChoice
	if c.Reasoning {
		request.Reasoning = &sdk.ReasoningWish{Split: true}
	}
	switch c.Format {
	case "":
	case anyObject:
		request.Format = &sdk.Format{Type: sdk.FormatTypeJSONObject}
	default:
		schema, err := jsonFile(a, c.Format, "a JSON schema")
		if err != nil {
			return err
		}
		request.Format = &sdk.Format{Type: sdk.FormatTypeJSONSchema, Schema: schema}
	}
	return nil
}

func (c *runCmd) messages(a *app, request *sdk.TaskRequest, prompt string) error {
	if c.System != "" {
		request.Messages = append(request.Messages, sdk.Say(sdk.RoleSystem, c.System))
	}
	if len(c.Image) == 0 {
		request.Messages = append(request.Messages, sdk.Say(sdk.RoleUser, prompt))
		return nil
	}
	images := make([][]byte, len(c.Image))
	for i, name := range c.Image {
		var err error
		if images[i], err = readFile(a.stdin, name, maxImage); err != nil {
			return err
		}
		if _, err := sdk.Show(sdk.RoleUser, "", images[i]); err != nil {
			return usagef("%s is no PNG, JPEG, WebP or GIF file", name)
		}
	}
	m, err := sdk.Show(sdk.RoleUser, prompt, images...)
	if err != nil {
		return usagef("%w", err)
	}
	request.Messages = append(request.Messages, m)
	return nil
}

// jsonFile reads a file of JSON.
func jsonFile(a *app, name, what string) ([]byte, error) {
	text, err := readFile(a.stdin, name, maxSchema)
	if err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, usagef("%s is not %s: it is no valid JSON", name, what)
	}
	return bytes.TrimSpace(text), nil
}

// toolsOf reads a list of tools. An empty one asks for none.
func toolsOf(text []byte) ([]sdk.Tool, error) {
	var tools []sdk.Tool
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&tools); err != nil || len(tools) == 0 {
		return nil, err
	}
	return tools, nil
}
