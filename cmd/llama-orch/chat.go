// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"encoding/json"

	"github.com/go-faster/jx"

	"github.com/llama-orch/llama-orch/gen"
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
func (c *runCmd) ask(a *app, request *gen.TaskRequest, prompt string) error {
	chat := c.Chat || c.System != "" || len(c.Image) > 0 || c.Tools != "" || c.Reasoning
	if !chat {
		request.Prompt.SetTo(prompt)
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
	if c.ToolChoice != "" {
		request.ToolChoice.SetTo(c.ToolChoice)
	}
	if c.Reasoning {
		request.Reasoning.SetTo(gen.Reasoning{Split: gen.NewOptBool(true)})
	}
	switch c.Format {
	case "":
	case anyObject:
		request.Format.SetTo(gen.Format{Type: gen.FormatTypeJSONObject})
	default:
		schema, err := jsonFile(a, c.Format, "a JSON schema")
		if err != nil {
			return err
		}
		request.Format.SetTo(gen.Format{Type: gen.FormatTypeJSONSchema, Schema: jx.Raw(schema)})
	}
	return nil
}

func (c *runCmd) messages(a *app, request *gen.TaskRequest, prompt string) error {
	if c.System != "" {
		request.Messages = append(request.Messages, sdk.Say(gen.MessageRoleSystem, c.System))
	}
	if len(c.Image) == 0 {
		request.Messages = append(request.Messages, sdk.Say(gen.MessageRoleUser, prompt))
		return nil
	}
	images := make([][]byte, len(c.Image))
	for i, name := range c.Image {
		var err error
		if images[i], err = readFile(a.stdin, name, maxImage); err != nil {
			return err
		}
		if _, err := sdk.Show(gen.MessageRoleUser, "", images[i]); err != nil {
			return usagef("%s is no PNG, JPEG, WebP or GIF file", name)
		}
	}
	m, err := sdk.Show(gen.MessageRoleUser, prompt, images...)
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

func toolsOf(text []byte) (tools []gen.Tool, err error) {
	d := jx.DecodeBytes(text)
	err = d.Arr(func(d *jx.Decoder) error {
		var tool gen.Tool
		if err := tool.Decode(d); err != nil {
			return err //nolint:wrapcheck // it says all
		}
		tools = append(tools, tool)
		return nil
	})
	return tools, err //nolint:wrapcheck // it says all
}
