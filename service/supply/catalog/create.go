// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/safefile"
	"github.com/llama-orch/llama-orch/service/task"
)

// Request asks for a model to be added. Only Ref is needed.
type Request struct {
	ID        string // empty: made from the ref
	Ref       string
	Digest    string        // `sha256:` and 64 hexadecimal digits; empty: any
	Signature string        // a .minisig file in base64
	SBOM      string        // where the bill of materials is
	Wait      time.Duration // how long Create waits for the model to be there
}

const (
	maxRef = 2048
	// clockStep is longer than a step of the clock by which file systems date changes.
	clockStep = 20 * time.Millisecond
)

// Create adds a model and waits a while for it to be there. If the model is refused within that time, no entry is left. If the fetch takes
// longer, the entry is Fetching and the fetch goes on. The same request again joins the first one. Errors: INVALID_PARAMS,
// UNTRUSTED_ARTIFACT, CONFLICT, and those of the fetcher.
func (c *Catalog) Create(ctx context.Context, r Request) (Model, error) {
	r, err := c.complete(r)
	if err != nil {
		return Model{}, err
	}
	id, j, err := c.begin(ctx, r)
	if err != nil {
		return Model{}, err
	}
	if j == nil {
		return c.Get(id)
	}
	timer := time.NewTimer(r.Wait)
	defer timer.Stop()
	select {
	case <-j.over:
	case <-ctx.Done():
	case <-timer.C:
	}
	c.mu.Lock()
	late := j.settled
	if !late {
		j.waiters--
	}
	c.mu.Unlock()
	if late { // it is about to end, and its result is decided
		<-j.over
		if j.err != nil {
			return Model{}, j.err
		}
	}
	if err := ctx.Err(); err != nil {
		return Model{}, fmt.Errorf("add a model: %w", err)
	}
	return c.Get(id)
}

// complete checks a request and fills in its defaults.
func (c *Catalog) complete(r Request) (Request, error) {
	bad := func(format string, args ...any) (Request, error) {
		return r, task.Errorf(task.InvalidParams, format, args...)
	}
	if len(r.Ref) > maxRef || strings.ContainsFunc(r.Ref, unicode.IsControl) {
		return bad("`ref` must have at most %d bytes, and no control characters", maxRef)
	}
	ref, err := c.o.Canonical(r.Ref)
	if err != nil {
		return bad("`ref` is no model's: %v", err)
	}
	if r.Ref = ref; strayed(ref) {
		return bad("`ref` must not hold the steps . and ..: write where it leads")
	}
	if r.ID == "" {
		r.ID = c.idFor(ref)
	}
	switch {
	case !ValidID(r.ID):
		return bad("`id` must be up to 128 letters, digits, dots, dashes and underscores, and begin with a letter or digit")
	case r.Digest != "" && !digestShape.MatchString(r.Digest):
		return bad("`digest` must be sha256: and 64 hexadecimal digits, in lower case")
	case len(r.SBOM) > maxRef || strings.ContainsFunc(r.SBOM, unicode.IsControl):
		return bad("`sbom` must have at most %d bytes, and no control characters", maxRef)
	}
	if r.Signature != "" {
		if _, err := readSignature(r.Signature); err != nil {
			return r, err
		}
	}
	if err := c.trust.source(ref); err != nil {
		return r, err
	}
	if r.Signature == "" && c.trust.strict { // this is known before anything is fetched
		f := c.trust.check(hashed{}, "", "")
		c.count(f, metadataOf(ref))
		return r, f.problem
	}
	return r, nil
}

// metadataOf guesses the format from a ref, for the label of a metric.
func metadataOf(ref string) *Metadata {
	if strings.HasSuffix(strings.ToLower(ref), ".gguf") {
		return &Metadata{}
	}
	return nil
}

// strayed reports whether a ref has a step upwards, however it is written.
func strayed(ref string) bool {
	plain := ref
	for range 3 { // a step may be escaped more than once
		next, err := url.PathUnescape(plain)
		if err != nil || next == plain {
			break
		}
		plain = next
	}
	for _, text := range []string{ref, plain} {
		if slices.ContainsFunc(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(`/\:?#`, r) }), func(step string) bool {
			return step == "." || step == ".."
		}) {
			return true
		}
	}
	return false
}

// idFor returns the id of the entry that has this ref, or the id that a new entry would get.
func (c *Catalog) idFor(ref string) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if e := c.byRef[ref]; e != nil {
		return e.rec.ID
	}
	return idFrom(ref)
}

// idFrom makes an id from the last part of a ref. An empty result is no id.
func idFrom(ref string) string {
	ref, _, _ = strings.Cut(ref, "?")
	ref = strings.TrimRight(ref, "/")
	name := ref[strings.LastIndexByte(ref, '/')+1:]
	if stem, part := gguf.Stem(name); part {
		name = stem
	}
	if strings.HasSuffix(strings.ToLower(name), ".gguf") {
		name = name[:len(name)-len(".gguf")]
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, name)
	return task.Clip(strings.TrimLeft(name, "._-"), 128)
}

// begin finds or makes the entry of a request. The job is nil if the model is there already.
func (c *Catalog) begin(ctx context.Context, r Request) (id string, j *job, err error) {
	c.change.Lock()
	defer c.change.Unlock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return "", nil, closing()
	}
	e := c.byID[r.ID]
	if e == nil {
		e = c.byRef[r.Ref]
	}
	if e != nil && e.rec.State != Failed {
		defer c.mu.Unlock()
		if err := joinable(e, r); err != nil {
			return "", nil, err
		}
		return e.rec.ID, c.join(e), nil
	}
	switch {
	case e != nil && (e.deleting || e.rec.Ref != r.Ref || e.rec.ID != r.ID):
		err = task.Errorf(task.Conflict, "model %s, which could not be fetched, has that id or ref: delete it first", e.rec.ID)
	case e == nil && len(c.byID) >= MaxModels:
		err = task.Errorf(task.Conflict, "the catalog holds its %d models: delete some first", MaxModels)
	case c.pending >= maxPending:
		err = task.Errorf(task.RateLimited, "%d models are being fetched: wait for some of them", c.pending).Retry(10 * time.Second)
	}
	c.mu.Unlock()
	if err != nil {
		return "", nil, err
	}
	if e == nil { // no model owns what is in that folder
		err = c.clear(r.ID)
	}
	if err == nil {
		err = c.disk.folder(home(r.ID))
	}
	if err != nil {
		return "", nil, notWritten(err)
	}
	rec := &record{
		Model: Model{
			ID: r.ID, Ref: r.Ref, Digest: r.Digest, State: Fetching, Signature: SignatureMissing, SBOM: r.SBOM, CreatedAt: c.o.Now().UTC(),
		},
		Given: r.Digest, SignatureText: r.Signature,
	}
	if r.Signature != "" {
		rec.Signature = SignatureUnchecked
	}
	if err := c.disk.write(recordName(r.ID), rec); err != nil {
		return "", nil, notWritten(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e == nil {
		e = &entry{}
	}
	e.rec = rec
	e.done.Store(0)
	e.total.Store(0)
	c.put(e)
	if c.closed {
		return "", nil, closing()
	}
	c.fetch(ctx, e)
	return r.ID, c.join(e), nil
}

// join counts the caller among those who wait for a fetch. The caller holds mu.
func (c *Catalog) join(e *entry) *job {
	if e.rec.State != Fetching || e.job == nil {
		return nil
	}
	if !e.job.settled {
		e.job.waiters++
	}
	return e.job
}

// joinable refuses a request that differs from the one that made the entry.
func joinable(e *entry, r Request) error {
	switch {
	case e.deleting:
		return task.Errorf(task.Conflict, "model %s is being deleted: try again in a moment", e.rec.ID).Retry(time.Second)
	case e.rec.Ref != r.Ref:
		return task.Errorf(task.Conflict, "the id %s is taken, by %s: give another id, or delete that model first", r.ID, task.Clip(e.rec.Ref, 256))
	case e.rec.ID != r.ID:
		return task.Errorf(task.Conflict, "that ref is in the catalog already, as model %s: use it, or delete it first", e.rec.ID)
	case r.Digest != "" && e.rec.Digest != r.Digest, r.Signature != "" && e.rec.SignatureText != r.Signature:
		return task.Errorf(task.Conflict, "model %s is in the catalog with another digest or signature: delete it first", e.rec.ID)
	}
	return nil
}

// fetch begins to fetch an entry's model. It goes on when the caller's context ends; what that holds says who asked. The caller holds mu.
func (c *Catalog) fetch(caller context.Context, e *entry) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller))
	detach := context.AfterFunc(c.ctx, cancel) //nolint:contextcheck // it must also end with the catalog
	j := &job{cancel: cancel, over: make(chan struct{})}
	e.job = j
	c.pending++
	rec := *e.rec
	c.jobs.Go(func() {
		defer close(j.over)
		defer cancel()
		defer detach()
		err := c.guard(rec.ID, func() error { return c.bring(ctx, e, &rec) })
		if panicked := c.guard(rec.ID, func() error {
			changed, told := c.end(ctx, e, j, &rec, err)
			if told {
				c.o.Changed(changed)
			}
			return nil
		}); panicked != nil && j.err == nil {
			j.err = panicked
		}
	})
}

// guard runs a part of a job. A panic in it is logged, and ends that job alone, with INTERNAL.
func (c *Catalog) guard(id string, f func() error) (err error) {
	if panicked := contain.Do(c.log, "the work for a model of the catalog panicked", func() { err = f() }, zap.String("model_id", id)); panicked != nil {
		return panicked
	}
	return err
}

// bring fetches a model, checks it, and fills in the record.
func (c *Catalog) bring(ctx context.Context, e *entry, rec *record) error {
	give, err := c.fetching.take(ctx, sourceOf(rec.Ref))
	if err != nil {
		return err
	}
	defer give()
	c.log.Info("fetching a model", zap.String("model_id", rec.ID), zap.String("ref", shown(rec.Ref)))
	if err := c.disk.folder(home(rec.ID)); err != nil {
		return notWritten(err)
	}
	began := time.Now().Add(-clockStep) // by the clock of the file system, which is no test's
	path, _, digest, err := c.o.Fetcher.Fetch(ctx, rec.Ref, c.homePath(rec.ID), rec.Given, func(done, total int64) {
		e.done.Store(max(done, 0))
		e.total.Store(max(total, 0))
	})
	if err != nil {
		if task.HasCode(err, task.UntrustedArtifact) {
			c.count(finding{result: fail, reason: digestMismatch}, metadataOf(rec.Ref))
		}
		return fmt.Errorf("fetch model %s: %w", rec.ID, err)
	}
	l, err := c.place(ctx, rec, path)
	if err != nil {
		return err
	}
	rec.Metadata, err = safefile.Wait(ctx, func(context.Context) (*Metadata, error) { return describeModel(l) })
	if err != nil {
		return task.Errorf(task.InvalidParams, "the model cannot be read: %v", err)
	}
	if rec.Cached { // nobody else writes there
		began = time.Time{}
	}
	h, err := c.digest(ctx, l, digest, rec.SignatureText != "", began)
	if err != nil {
		return err
	}
	f := c.trust.check(h, rec.Given, rec.SignatureText)
	c.count(f, rec.Metadata)
	if f.problem != nil {
		return f.problem
	}
	rec.Digest, rec.Size, rec.Files = h.digest, h.size, h.files
	rec.State, rec.Verified, rec.Signature, rec.Warnings, rec.VerifiedAt = Active, true, f.signature, f.warnings, c.o.Now().UTC()
	return nil
}

// place returns where the fetched model is, and refuses a place that is not allowed.
func (c *Catalog) place(ctx context.Context, rec *record, path string) (layout, error) {
	refuse := func(err error) error {
		return task.Errorf(task.InvalidParams, "the model cannot be read: %v", err)
	}
	if !filepath.IsAbs(path) {
		return layout{}, refuse(errors.New("its place is not known"))
	}
	own := c.homePath(rec.ID)
	within, err := filepath.Rel(own, filepath.Clean(path))
	rec.Cached = err == nil && filepath.IsLocal(within)
	if !rec.Cached && !strings.HasPrefix(rec.Ref, "file:") {
		return layout{}, task.Errorf(task.UntrustedArtifact, "the model was put out of the cache, and is refused: fetch it again")
	}
	inside := ""
	if rec.At = filepath.Clean(path); rec.Cached {
		rec.At, inside = filepath.ToSlash(within), own
	}
	at := rec.path(c)
	l, err := safefile.Wait(ctx, func(context.Context) (layout, error) { return lay(at, inside) })
	if err != nil {
		return l, refuse(err)
	}
	return l, nil
}

// path returns where the model is, or nothing if it is not there yet.
func (r *record) path(c *Catalog) string {
	if r.Cached {
		return filepath.Join(c.homePath(r.ID), filepath.FromSlash(r.At))
	}
	return r.At
}

// describeModel reads the metadata. A single file must be a GGUF, since no engine loads any other.
func describeModel(l layout) (*Metadata, error) {
	path := l.gguf()
	if path == "" && l.folder {
		return nil, nil
	}
	if path == "" {
		path = filepath.Join(l.dir, filepath.FromSlash(l.names[0]))
	}
	m, err := ReadGGUF(path)
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// digest hashes a model, unless the fetcher has already hashed the files as their bytes came. Of files that are where somebody else may write to
// them, that holds only if nobody has since began.
func (c *Catalog) digest(ctx context.Context, l layout, known string, sign bool, began time.Time) (hashed, error) {
	if !digestShape.MatchString(known) || l.folder || sign {
		return c.hash(ctx, l, sign)
	}
	h := hashed{digest: known}
	for _, name := range l.names {
		m, err := safefile.MarkOf(filepath.Join(l.dir, name))
		if err != nil {
			return h, task.Errorf(task.InvalidParams, "the model is gone again: fetch it anew").Because(err)
		}
		if !began.IsZero() && !m.Changed.Before(began) {
			return c.hash(ctx, l, sign)
		}
		h.size += m.Size
		h.files = append(h.files, fileOf(name, m))
	}
	return h, nil
}

// hash reads the bytes of a model. It does not wait for a read that does not come back.
func (c *Catalog) hash(ctx context.Context, l layout, sign bool) (hashed, error) {
	h, err := safefile.Wait(ctx, func(ctx context.Context) (hashed, error) { return hashLayout(ctx, l, sign, c.hashing) })
	if err != nil && ctx.Err() == nil {
		return h, task.Errorf(task.InvalidParams, "the model's files cannot be read: see that they are there and may be read by the server").Because(err)
	}
	return h, err
}

// end records how a fetch ended. If a creator still waits, a failure leaves no entry.
func (c *Catalog) end(ctx context.Context, e *entry, j *job, rec *record, failed error) (changed Model, told bool) {
	c.change.Lock()
	defer c.change.Unlock()
	c.mu.Lock()
	j.settled = true
	deleting, waiters := e.deleting, j.waiters
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		e.job = nil
		c.pending--
	}()
	switch {
	case deleting:
		j.err = task.Errorf(task.Conflict, "model %s was deleted while it was fetched", rec.ID)
		return Model{}, false
	case failed != nil && ctx.Err() != nil: // the server stops. The record still says Fetching, so the fetch goes on at the next start
		j.err = closing()
		return Model{}, false
	case failed == nil:
		changed, failed = c.store(e, rec)
	}
	if failed == nil {
		c.log.Info("a model is there", zap.String("model_id", rec.ID), zap.String("digest", rec.Digest), zap.Int64("size_bytes", rec.Size), zap.Strings("warnings", rec.Warnings))
		return changed, true
	}
	return c.failed(e, j, failed, waiters > 0)
}

func (c *Catalog) failed(e *entry, j *job, failed error, heard bool) (Model, bool) {
	id := e.rec.ID
	known := task.AsError(failed)
	c.log.Warn("a model could not be added", zap.String("model_id", id), zap.Error(failed))
	if heard {
		j.err = known
		if err := c.erase(id); err != nil {
			c.log.Error("what was fetched of a model that was refused could not be removed", zap.String("model_id", id), zap.Error(err))
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.drop(e)
		return Model{}, false
	}
	if !known.Retriable && known.Code != task.Internal { // it was refused, so another try could not go on from what is there
		if err := c.clear(id); err != nil {
			c.log.Error("what was fetched of a model that was refused could not be removed", zap.String("model_id", id), zap.Error(err))
		}
	}
	rec := *e.rec
	rec.State, rec.Problem = Failed, &Problem{Code: known.Code, Message: task.Clip(known.Message, 4096), Retriable: known.Retriable}
	m, err := c.store(e, &rec)
	if err != nil { // the next start tries again
		c.log.Error("that a model could not be added could not be recorded", zap.String("model_id", id), zap.Error(err))
		c.mu.Lock()
		defer c.mu.Unlock()
		e.rec = &rec
		m = c.model(e)
	}
	return m, true
}

// shown returns a ref without its query, which may be a secret.
func shown(ref string) string {
	ref, _, _ = strings.Cut(ref, "?")
	return ref
}
