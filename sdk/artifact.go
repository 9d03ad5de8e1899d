// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"

	"github.com/llama-orch/llama-orch/contracts/proof"
	"github.com/llama-orch/llama-orch/gen"
)

// ArtifactFilter chooses artifacts; an empty field takes all.
type ArtifactFilter struct {
	Kind   ArtifactKind
	TaskID string
	Tag    string
	Limit  int // 0: as many as the server gives by default
}

// Artifacts lists artifacts, newest first (ORCH-3097).
func (c *Client) Artifacts(ctx context.Context, f ArtifactFilter) ([]Artifact, error) {
	err := cmp.Or(holdSome[gen.ArtifactKind]("kind", string(f.Kind)), holdSome[gen.TaskID]("task_id", f.TaskID),
		holdSome[gen.ArtifactTag]("tag", f.Tag), holdLimit(f.Limit))
	if err != nil {
		return nil, err
	}
	list, err := ask[ArtifactList, gen.ArtifactList](ctx, c, get("v1", "artifacts").with("kind", string(f.Kind)).with("task_id", f.TaskID).
		with("tag", f.Tag).with("limit", number(f.Limit)))
	if err != nil {
		return nil, err
	}
	return list.Artifacts, nil
}

// Artifact returns one artifact's entry. The Error is NOT_FOUND if there is no such artifact, or no longer one.
func (c *Client) Artifact(ctx context.Context, id string) (*Artifact, error) {
	if err := hold[gen.ArtifactID]("id", id); err != nil {
		return nil, err
	}
	return ask[Artifact, gen.Artifact](ctx, c, get("v1", "artifacts", id))
}

// PutArtifact stores an artifact. The same bytes again are the same artifact.
func (c *Client) PutArtifact(ctx context.Context, request *ArtifactRequest) (*Artifact, error) {
	body, err := bodyOf[gen.ArtifactRequest](request)
	if err != nil {
		return nil, err
	}
	return ask[Artifact, gen.Artifact](ctx, c, post(body, "v1", "artifacts"))
}

// ArtifactContent returns an artifact's entry and a reader of its bytes, which the caller closes. At the end of the bytes the reader compares them
// with the id, and returns a *ProtocolError if they do not fit.
func (c *Client) ArtifactContent(ctx context.Context, id string) (*Artifact, io.ReadCloser, error) {
	a, err := c.Artifact(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	response, err := c.send(ctx, contentOf(a.ID))
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		return nil, nil, &ProtocolError{Status: response.StatusCode, Err: errors.New("the answer was to be the whole artifact")}
	}
	return a, &content{ctx: ctx, body: response.Body, addr: c.opts.Addr, of: a, hash: sha256.New()}, nil
}

// content reads an artifact's bytes from the connection.
type content struct {
	ctx  context.Context
	body io.ReadCloser
	addr string
	of   *Artifact
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
		if got := "sha256-" + hex.EncodeToString(r.hash.Sum(nil)); got != r.of.ID {
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
	list, err := c.Artifacts(ctx, ArtifactFilter{Kind: ArtifactKindProof, TaskID: taskID, Limit: 1})
	if err != nil {
		return nil, nil, err
	}
	if len(list) == 0 {
		return nil, nil, c.noProof(ctx, taskID)
	}
	a, body, err := c.ArtifactContent(ctx, list[0].ID)
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
	if t.State == TaskStateQueued || t.State == TaskStateRunning {
		why = fmt.Sprintf("it is %s, and has not ended", t.State)
	}
	return &Error{
		Status: http.StatusNotFound, Code: ErrorCodeNotFound,
		Message: fmt.Sprintf("task %s has no proof bundle: %s", strings.ToValidUTF8(taskID, "?"), why),
	}
}

func contentOf(id string) call { return get("v1", "artifacts", id, "content") }
