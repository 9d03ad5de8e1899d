// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/service/front/delivery"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/port"
	"github.com/llama-orch/llama-orch/service/task"
)

// Artifacts is what the API does with artifacts (ORCH-3097). Errors are *task.Error, or wrap what the content's reader
// failed with.
type Artifacts interface {
	// Put stores what r reads, and returns when it is on the disk. TOO_LARGE.
	Put(ctx context.Context, a ArtifactView, r io.Reader) (ArtifactView, error)
	Get(ctx context.Context, id string) (ArtifactView, error) // NOT_FOUND
	// List returns the newest first. An empty field of the filter takes all.
	List(ctx context.Context, f ArtifactFilter) ([]ArtifactView, error)
	Open(ctx context.Context, id string) (ArtifactView, io.ReadSeekCloser, error) // NOT_FOUND
}

// ArtifactView is an artifact as clients see it. A Put does not look at ID, Size and CreatedAt.
type ArtifactView struct {
	ID        string // `sha256-<64 hex>`
	Kind      string // plan, summary, diff, trace, proof or other
	MediaType string
	TaskID    string // empty: it belongs to none
	Parent    string // id of the artifact that it was made from; empty: none
	Tags      []string
	Metadata  map[string]string
	Size      int64
	CreatedAt time.Time
}

// ArtifactFilter chooses artifacts.
type ArtifactFilter struct {
	Kind, TaskID, Tag string
	Limit             int
}

type artifacts struct {
	*Handler
}

// CreateArtifact stores an artifact. It decodes the content while it writes it. The gate has bounded the request's body.
func (h artifacts) CreateArtifact(ctx context.Context, r *gen.ArtifactRequest) (*gen.ArtifactHeaders, error) {
	in := ArtifactView{
		Kind: string(r.Kind), MediaType: r.MediaType.Or(""), TaskID: string(r.TaskID.Or("")), Parent: string(r.Parent.Or("")),
		Metadata: make(map[string]string, len(r.Metadata)),
	}
	for _, tag := range r.Tags {
		in.Tags = append(in.Tags, string(tag))
	}
	for _, note := range r.Metadata {
		in.Metadata[note.Key] = note.Value
	}
	spelled := &spelling{r: strings.NewReader(r.Content)}
	if r.Encoding.Or("") == gen.ArtifactRequestEncodingBase64 {
		spelled.r = base64.NewDecoder(base64.StdEncoding, spelled.r)
	}
	v, err := h.Artifacts.Put(ctx, in, spelled)
	if spelled.err != nil {
		return nil, task.Errorf(task.InvalidParams,
			"`content` is not base64, as `encoding` says: spell it with the standard alphabet and padding").Because(spelled.err)
	}
	if err != nil {
		return nil, err
	}
	return &gen.ArtifactHeaders{Location: "/v1/artifacts/" + v.ID, Response: h.toArtifact(ctx, v)}, nil
}

// spelling remembers an error of the content's encoding, which is the client's fault, to tell it from an error of the disk.
type spelling struct {
	r   io.Reader
	err error
}

func (s *spelling) Read(p []byte) (n int, err error) {
	if n, err = s.r.Read(p); err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// ListArtifacts lists artifacts, newest first.
func (h artifacts) ListArtifacts(ctx context.Context, p gen.ListArtifactsParams) (*gen.ArtifactListHeaders, error) {
	f := ArtifactFilter{Kind: string(p.Kind.Or("")), TaskID: string(p.TaskID.Or("")), Tag: string(p.Tag.Or("")), Limit: p.Limit.Or(0)}
	list, err := h.Artifacts.List(ctx, f)
	if err != nil {
		return nil, err
	}
	out := gen.ArtifactList{Artifacts: make([]gen.Artifact, len(list))}
	for i, v := range list {
		out.Artifacts[i] = h.toArtifact(ctx, v)
	}
	return &gen.ArtifactListHeaders{Response: out}, nil
}

// GetArtifact shows one artifact.
func (h artifacts) GetArtifact(ctx context.Context, p gen.GetArtifactParams) (*gen.GetArtifactOKHeaders, error) {
	v, err := h.Artifacts.Get(ctx, string(p.ID))
	if err != nil {
		return nil, err
	}
	return &gen.GetArtifactOKHeaders{Response: h.toArtifact(ctx, v)}, nil
}

// GetArtifactContent sends an artifact's bytes, or the ranges of them that the client asks for. The bytes can be anything, so the
// headers tell a browser not to guess their type and not to run them.
func (h artifacts) GetArtifactContent(ctx context.Context, p gen.GetArtifactContentParams, w http.ResponseWriter) error {
	v, content, err := h.Artifacts.Open(ctx, string(p.ID))
	if err != nil {
		return err
	}
	defer content.Close()
	header := w.Header()
	header.Set("Content-Type", v.MediaType)
	header.Set("ETag", `"`+v.ID+`"`)
	header.Set("Cache-Control", "private, no-cache") // its bytes never change, but it may be removed
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	control := http.NewResponseController(w)
	out := &download{ResponseWriter: w, pace: delivery.Pace{Set: control.SetWriteDeadline, Timeout: h.WriteTimeout}}
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }() // or it would end the connection's next request
	http.ServeContent(out, asksFor(callFrom(ctx).request), "", time.Time{}, content)
	var why *task.Error
	switch out.refused {
	case 0:
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		why = task.Errorf(task.InvalidParams, "the range %q is not within the artifact's %d bytes: ask for less",
			task.Clip(callFrom(ctx).request.Header.Get("Range"), maxQuote), v.Size)
	default:
		why = task.Errorf(task.InvalidParams, "the artifact's ETag is %q, and the request wants another: send it without its condition", v.ID)
	}
	header.Del("ETag")
	h.write(w, out.refused, gate.Refuse(why).Envelope)
	return nil
}

// asksFor is a request as ServeContent takes it: a HEAD, where the client sent one, and without a range in a unit that is not bytes,
// which is to be ignored (LO-828).
func asksFor(r *http.Request) *http.Request {
	head := gate.CallFrom(r.Context()).Head
	asked := r.Header.Get("Range")
	unit, rest, _ := strings.Cut(asked, "=")
	plain := asked == "" || strings.HasPrefix(asked, "bytes=")
	if !head && plain {
		return r
	}
	r = r.Clone(r.Context())
	if head {
		r.Method = http.MethodHead
	}
	switch {
	case plain:
	case strings.EqualFold(strings.TrimSpace(unit), "bytes"):
		r.Header.Set("Range", "bytes="+rest)
	default:
		r.Header.Del("Range")
	}
	return r
}

// download bounds each write by itself, since a whole download may take longer than a dead client may stay. It also drops the
// plain text with which net/http refuses a request: the client gets the envelope.
type download struct {
	http.ResponseWriter
	pace    delivery.Pace
	refused int // the status; 0: it was not
}

func (d *download) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		d.refused = status
		return
	}
	d.ResponseWriter.WriteHeader(status)
}

func (d *download) Write(b []byte) (int, error) {
	if d.refused != 0 {
		return len(b), nil
	}
	if err := d.pace.Bound(); err != nil {
		return 0, err
	}
	return d.ResponseWriter.Write(b)
}

func (h artifacts) toArtifact(ctx context.Context, v ArtifactView) gen.Artifact {
	out := gen.Artifact{
		ID: gen.ArtifactID(v.ID), Kind: gen.ArtifactKind(v.Kind), MediaType: v.MediaType, SizeBytes: v.Size, CreatedAt: v.CreatedAt.UTC(),
		URL: origin(callFrom(ctx).request) + "/v1/artifacts/" + v.ID + "/content",
	}
	if v.TaskID != "" {
		out.TaskID = gen.NewOptTaskID(gen.TaskID(v.TaskID))
	}
	if v.Parent != "" {
		out.Parent = gen.NewOptArtifactID(gen.ArtifactID(v.Parent))
	}
	for _, tag := range v.Tags {
		out.Tags = append(out.Tags, gen.ArtifactTag(tag))
	}
	for _, key := range slices.Sorted(maps.Keys(v.Metadata)) {
		out.Metadata = append(out.Metadata, gen.ArtifactNote{Key: key, Value: v.Metadata[key]})
	}
	return out
}

// maxHost bounds the host name of the client's choice that comes back in a URL.
const maxHost = 512

// origin is this server's address as the client reached it. It works from the client's machine, whatever address the server is
// bound to (HME-022).
func origin(r *http.Request) string {
	scheme := "http"
	if port.Secure(r.Context()) || r.Header.Get("X-Forwarded-Proto") == "https" { // a tunnel in front of it speaks TLS
		scheme = "https"
	}
	host := r.Host
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && (host == "" || len(host) > maxHost) {
		host = local.String()
	}
	return scheme + "://" + task.Clip(host, maxHost)
}
