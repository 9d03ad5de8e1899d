// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
)

// Canceled is the 200 of a cancel.
type Canceled struct {
	TaskID      string `json:"task_id"`
	Outcome     string `json:"outcome"`
	LastEventID string `json:"last_event_id"`
}

// Cancel cancels a task.
func (c *Client) Cancel(ctx context.Context, taskID string) (Canceled, error) {
	var a Canceled
	answer, err := c.do(ctx, http.MethodPost, "/v1/tasks/"+taskID+"/cancel", nil, http.StatusOK)
	if err != nil {
		return a, err
	}
	return a, strictly(answer, &a)
}

// Frames reads a subscription, and checks only the form of its frames. A Log checks the rest.
type Frames struct {
	*Scanner
	body io.Closer
}

// Close hangs up.
func (f *Frames) Close() { _ = f.body.Close() }

// Follow subscribes to a task after the event with the id after, or from the start if after is empty. It sends the id as Last-Event-ID, or with
// inQuery as ?after= (LO-201).
func (c *Client) Follow(ctx context.Context, taskID, after string, inQuery bool) (*Frames, error) {
	path, header := "/v1/tasks/"+taskID+"/stream", map[string]string{}
	switch {
	case after != "" && inQuery:
		path += "?" + url.Values{"after": {after}}.Encode()
	case after != "":
		header["Last-Event-ID"] = after
	}
	response, err := c.sendWith(ctx, header, http.MethodGet, path, nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	return &Frames{NewScanner(response.Body), response.Body}, nil
}
