// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/gen"
)

// ArtifactFilter chooses artifacts; an empty field takes all.
type ArtifactFilter struct {
	Kind   gen.ArtifactKind
	TaskID string
	Tag    string
	Limit  int // 0: as many as the server gives by default
}

// Artifacts lists artifacts, newest first (ORCH-3097).
func (c *Client) Artifacts(ctx context.Context, f ArtifactFilter) ([]gen.Artifact, error) {
	var params gen.ListArtifactsParams
	if f.Kind != "" {
		params.Kind.SetTo(f.Kind)
	}
	if f.TaskID != "" {
		params.TaskID.SetTo(gen.TaskID(f.TaskID))
	}
	if f.Tag != "" {
		params.Tag.SetTo(gen.ArtifactTag(f.Tag))
	}
	if f.Limit != 0 {
		params.Limit.SetTo(f.Limit)
	}
	answer, err := c.api.ListArtifacts(ctx, params)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return answer.Response.Artifacts, nil
}

// Artifact returns one artifact's entry. The Error is NOT_FOUND if there is no such artifact, or no longer one.
func (c *Client) Artifact(ctx context.Context, id string) (*gen.Artifact, error) {
	answer, err := c.api.GetArtifact(ctx, gen.GetArtifactParams{ID: gen.ArtifactID(id)})
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// PutArtifact stores an artifact. The same bytes again are the same artifact.
func (c *Client) PutArtifact(ctx context.Context, request *gen.ArtifactRequest) (*gen.Artifact, error) {
	answer, err := c.api.CreateArtifact(ctx, request)
	if err != nil {
		return nil, typed(ctx, err)
	}
	return &answer.Response, nil
}

// ArtifactContent returns an artifact's entry and a reader of its bytes, which the caller closes. At the end of the bytes the reader compares them
// with the id, and returns a *ProtocolError if they do not fit.
func (c *Client) ArtifactContent(ctx context.Context, id string) (*gen.Artifact, io.ReadCloser, error) {
	a, err := c.Artifact(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	// The generated client accepts only one media type for bytes, but each artifact has its own.
	at, err := url.JoinPath(c.opts.Addr, "v1", "artifacts", string(a.ID), "content")
	if err != nil {
		return nil, nil, &ProtocolError{Err: err}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return nil, nil, &ProtocolError{Err: err}
	}
	if c.opts.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.opts.Token)
	}
	response, err := c.opts.HTTPClient.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if outer, ok := errors.AsType[*url.Error](err); ok { // its text would repeat the URL
			err = outer.Err
		}
		return nil, nil, &UnreachableError{Addr: c.opts.Addr, Err: err}
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
		return nil, nil, answered(response, media, c.opts.Addr)
	}
	return a, &content{ctx: ctx, body: response.Body, addr: c.opts.Addr, of: a, hash: sha256.New()}, nil
}

// content reads an artifact's bytes from the connection.
type content struct {
	ctx  context.Context
	body io.ReadCloser
	addr string
	of   *gen.Artifact
	hash hash.Hash
	read int64
}

func (r *content) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.hash.Write(p[:n])
	r.read += int64(n)
	switch {
	case r.read > r.of.SizeBytes:
		return n, &ProtocolError{Err: fmt.Errorf("artifact %s has more than its %d bytes", r.of.ID, r.of.SizeBytes)}
	case errors.Is(err, io.EOF):
		if got := "sha256-" + hex.EncodeToString(r.hash.Sum(nil)); got != string(r.of.ID) {
			return n, &ProtocolError{Err: fmt.Errorf("the bytes of artifact %s are those of %s: it is damaged on the server or on its way", r.of.ID, got)}
		}
		return n, err
	case err != nil && r.ctx.Err() != nil:
		return n, r.ctx.Err()
	case err != nil:
		return n, &UnreachableError{Addr: r.addr, Err: err}
	}
	return n, nil
}

func (r *content) Close() error { return r.body.Close() }

// Proof returns the proof bundle of a task that has ended, and the bytes that it is written in (OC-CTRL-2067). The Error
// NOT_FOUND says that there is none: the task still runs, or there is no such task. DELETED says when it was deleted.
func (c *Client) Proof(ctx context.Context, taskID string) (*proof.Bundle, []byte, error) {
	list, err := c.Artifacts(ctx, ArtifactFilter{Kind: gen.ArtifactKindProof, TaskID: taskID, Limit: 1})
	if err != nil {
		return nil, nil, err
	}
	if len(list) == 0 {
		return nil, nil, c.noProof(ctx, taskID)
	}
	a, body, err := c.ArtifactContent(ctx, string(list[0].ID))
	if err != nil {
		return nil, nil, err
	}
	defer body.Close()
	if a.SizeBytes > int64(c.opts.MaxEventBytes) {
		return nil, nil, &ProtocolError{Err: fmt.Errorf("the proof bundle of task %s: %w", taskID, errTooLarge)}
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, nil, err
	}
	p, err := proof.Decode(text)
	if err != nil {
		return nil, nil, &ProtocolError{Err: err}
	}
	return p, text, nil
}

// noProof says why a task has no proof bundle. The server knows whether there is such a task.
func (c *Client) noProof(ctx context.Context, taskID string) error {
	t, err := c.Get(ctx, taskID)
	if err != nil {
		return err
	}
	why := "the server has forgotten it"
	if t.State == gen.TaskStateQueued || t.State == gen.TaskStateRunning {
		why = fmt.Sprintf("it is %s, and has not ended", t.State)
	}
	return &Error{
		Status: http.StatusNotFound, Code: gen.ErrorCodeNOTFOUND,
		Message: fmt.Sprintf("task %s has no proof bundle: %s", strings.ToValidUTF8(taskID, "?"), why),
	}
}
