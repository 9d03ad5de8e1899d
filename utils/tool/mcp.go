// SPDX-License-Identifier: GPL-3.0-or-later

package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/llama-orch/llama-orch/utils/schema"
)

// maxTools bounds the tools that a server may list.
const maxTools = 1000

// FromMCP lists the tools of an MCP server. They are called over the session, which has to stay open for as long. Arguments are held to the server's schema before they
// are sent, so that the model learns what was wrong in the words of every other tool.
func FromMCP(ctx context.Context, session *mcp.ClientSession) ([]Tool, error) {
	var tools []Tool
	for listed, err := range session.Tools(ctx, nil) {
		if err != nil {
			return nil, fmt.Errorf("list the MCP server's tools: %w", err)
		}
		if len(tools) == maxTools {
			return nil, fmt.Errorf("the MCP server lists more than %d tools: connect to one with fewer", maxTools)
		}
		raw, err := json.Marshal(listed.InputSchema)
		if err != nil {
			return nil, fmt.Errorf("read the schema of the MCP server's tool %q: %w", listed.Name, err)
		}
		in, err := schema.Compile(raw)
		if err != nil {
			return nil, fmt.Errorf("the MCP server's tool %q: %w", listed.Name, err)
		}
		tools = append(tools, Tool{Name: listed.Name, Doc: listed.Description, In: in, call: func(ctx context.Context, arguments json.RawMessage) (string, error) {
			if err := in.Check(arguments); err != nil {
				return "", err
			}
			return remote(ctx, session, listed.Name, arguments)
		}})
	}
	return tools, nil
}

// remote calls a server's tool, and returns the text of its result.
func remote(ctx context.Context, session *mcp.ClientSession, name string, arguments json.RawMessage) (string, error) {
	result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: arguments})
	if err != nil {
		return "", err
	}
	var parts []string
	for _, content := range result.Content {
		if t, ok := content.(*mcp.TextContent); ok {
			parts = append(parts, t.Text)
		} else {
			parts = append(parts, fmt.Sprintf("(a part of the kind %T, which is not text)", content))
		}
	}
	if len(parts) == 0 && result.StructuredContent != nil {
		structured, err := text(result.StructuredContent)
		if err != nil {
			return "", err
		}
		parts = append(parts, structured)
	}
	said := strings.Join(parts, "\n")
	if result.IsError {
		return "", errors.New(said)
	}
	return said, nil
}
