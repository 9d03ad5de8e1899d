// SPDX-License-Identifier: GPL-3.0-or-later

package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/task"
)

// asOf is the profile of a version. One that nobody can read is taken to be of today.
func (p Profile) asOf(version string) Profile {
	var major, minor int
	if p.Earlier == nil {
		return p
	}
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 { // n says how far it was read
		return p
	}
	if before := p.Earlier.Before; major < before[0] || major == before[0] && minor < before[1] {
		p.Grammar, p.History = p.Earlier.Grammar, p.Earlier.History
	}
	return p
}

// passes reports whether a server takes a trial. Only its refusal of the request as wrong tells that it does not.
func (e *Engine) passes(ctx context.Context, t Trial, model string) (bool, error) {
	var answer any
	err := e.c.Post(ctx, t.Path, t.Body(model), &answer)
	if ctx.Err() != nil || task.HasCode(err, task.PolicyDenied) {
		return false, err
	}
	status, answered := errors.AsType[*httpsse.StatusError](err)
	return !answered || status.Status != http.StatusBadRequest, nil
}

// callTrial asks for one token of an answer that may call a tool.
func callTrial(model string) any {
	return struct {
		Model     string    `json:"model"`
		Messages  []Message `json:"messages"`
		Tools     []Tool    `json:"tools"`
		MaxTokens int       `json:"max_tokens"`
	}{model, []Message{{Role: task.RoleUser, Content: "Hello"}}, []Tool{{function, ToolFunction{Name: "hello"}}}, 1}
}

// pixel is a PNG file of one pixel, as a data URL.
const pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="

// imageTrial asks for the tokens of an image.
func imageTrial(model string) any {
	return struct {
		Model    string    `json:"model"`
		Messages []Message `json:"messages"`
	}{model, []Message{{Role: task.RoleUser, Content: []Part{{Type: "image_url", Image: &Image{pixel}}}}}}
}
