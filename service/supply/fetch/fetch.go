// SPDX-License-Identifier: GPL-3.0-or-later

// Package fetch brings models to the disk. It resolves a ref, downloads what the ref names in a way that can be resumed, checks it, and puts
// it in its place in one step (ORCH-3090, ORCH-3091).
package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/task"
)

// Endpoints say where the services behind the schemes are, if they are mirrors or the user's own servers.
type Endpoints struct {
	HF  string            // empty: https://huggingface.co
	S3  string            // empty: https://s3.amazonaws.com
	OCI map[string]string // key: the registry that a ref names; value: the base URL of its mirror
}

// Settings of a Fetcher.
type Settings struct {
	// Client makes every call. It must ask the policy each time, as policy.Client does.
	Client    *http.Client
	Endpoints Endpoints
	// Getenv looks up HF_TOKEN, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, and DOCKER_CONFIG,
	// the folder of a config.json with logins of registries. nil: os.Getenv.
	Getenv    func(string) string
	Log       *zap.Logger
	Free      func(dir string) (int64, error) // bytes that may still be written there; nil: asks the file system
	Reserve   int64                           // bytes that must stay free; 0: 512 MiB
	MaxBytes  int64                           // of one model; 0: 4 TiB
	Stall     time.Duration                   // a connection that brings no byte for so long is given up; 0: 30 s
	Retries   int                             // in a row without a byte gained; 0: 5; negative: none
	RetryWait time.Duration                   // before the first retry; doubles each time; 0: 500 ms
}

const (
	defaultHF       = "https://huggingface.co"
	defaultS3       = "https://s3.amazonaws.com"
	defaultReserve  = 512 << 20
	defaultMaxBytes = 4 << 40
	defaultStall    = 30 * time.Second
	defaultRetries  = 5
	defaultWait     = 500 * time.Millisecond
)

// Options of one Fetch.
type Options struct {
	// Digest is the expected SHA-256, `sha256:<hex>`; empty: any. For a split model it covers all files, one after the other.
	Digest string
	// Progress is called with the number of bytes so far. total is 0 while it is not known. It must not block. The number may start from 0
	// again if the source has changed.
	Progress func(done, total int64)
}

// Part is one file of a model.
type Part struct {
	Path   string `json:"path"` // absolute
	Size   int64  `json:"size_bytes"`
	Digest string `json:"digest"` // sha256:<hex>
}

// File is a model on the disk.
type File struct {
	Path   string // of the first part, which is what an engine gets
	Size   int64  // of all parts
	Digest string // of all parts, one after the other
	Parts  []Part
}

// Fetcher fetches models. It is safe for concurrent use.
type Fetcher struct {
	s       Settings
	log     *zap.Logger
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	boot    string // id of the machine's current boot; empty: unknown
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flights map[string]*flight // key: the folder that the flight fills
}

// New makes a fetcher, without any call. Its owner closes it.
func New(s Settings) (*Fetcher, error) {
	if s.Client == nil || s.Client.Transport == nil {
		return nil, errors.New("the fetcher needs a client with a transport that asks the policy")
	}
	if s.Log == nil {
		s.Log = zap.NewNop()
	}
	if s.Getenv == nil {
		s.Getenv = os.Getenv
	}
	if s.Free == nil {
		s.Free = FreeBytes
	}
	fill(&s.Endpoints.HF, defaultHF)
	fill(&s.Endpoints.S3, defaultS3)
	fill(&s.Reserve, defaultReserve)
	fill(&s.MaxBytes, defaultMaxBytes)
	fill(&s.Stall, defaultStall)
	fill(&s.Retries, defaultRetries)
	fill(&s.RetryWait, defaultWait)
	s.Client = boundRedirects(s.Client)
	f := &Fetcher{s: s, log: s.Log.Named("fetch"), flights: map[string]*flight{}}
	for _, endpoint := range append([]string{s.Endpoints.HF, s.Endpoints.S3}, values(s.Endpoints.OCI)...) {
		if _, err := endpointURL(endpoint); err != nil {
			return nil, err
		}
	}
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		f.boot = strings.TrimSpace(string(id))
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f, nil
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func values(m map[string]string) (all []string) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// Close ends running fetches and waits for them. What they have is kept for another time.
func (f *Fetcher) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	f.running.Wait()
}

// Fetch brings what ref names into a folder of its own below dir. It returns once the model is complete, checked and in its place. If the model
// is there already, Fetch checks it and makes no call. A file: stays where it is. Requests for one ref share a download. It ends when the
// last of them gives up; then the partial file is kept, and the next Fetch goes on from it.
//
// Errors: UNTRUSTED_ARTIFACT for another digest; MODEL_NOT_FOUND; POLICY_DENIED; INVALID_PARAMS, also if a repository has several models and
// the ref does not say which; TOO_LARGE; CONFLICT while another process fetches the same model; INTERNAL for trouble with the disk, and,
// marked as retriable, for trouble with the network or the source.
func (f *Fetcher) Fetch(ctx context.Context, ref Ref, dir string, o Options) (File, error) {
	digest, err := parseDigest(o.Digest)
	if err != nil {
		return File{}, err
	}
	o.Digest = digest
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	if ref.scheme == SchemeFile {
		return f.inPlace(ctx, ref, o)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return File{}, disk(err)
	}
	key := filepath.Join(dir, ref.Folder())
	for {
		fl, joined, err := f.board(ctx, ref, dir, key, &o)
		switch {
		case err != nil:
			return File{}, err
		case joined:
			return fl.wait(ctx, &o)
		}
		select { // this request expects another digest, or the flight has been given up: wait for its end, then try again
		case <-fl.done:
		case <-ctx.Done():
			return File{}, fmt.Errorf("fetch %s: %w", ref.Shown(), context.Cause(ctx))
		}
	}
}

// board finds the flight for a folder, or starts one, and joins it if it still takes somebody who expects that digest.
func (f *Fetcher) board(ctx context.Context, ref Ref, dir, key string, o *Options) (fl *flight, joined bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, false, task.Errorf(task.ShuttingDown, "the server is shutting down: ask again when it is back").Retry(0)
	}
	if fl = f.flights[key]; fl == nil {
		fl = f.launch(ctx, ref, dir, key, o.Digest)
	}
	return fl, fl.digest == o.Digest && fl.join(o), nil
}

// flight is one download, with the callers who wait for it.
type flight struct {
	digest string
	cancel context.CancelFunc
	done   chan struct{} // closed when file and err are set and the flight has left the map
	file   File
	err    error

	mu      sync.Mutex
	waiting map[*Options]struct{}
	given   bool // given up: the last waiter has left
	now, of int64
	begun   bool
}

// launch starts a flight. The caller holds f.mu.
func (f *Fetcher) launch(caller context.Context, ref Ref, dir, key, digest string) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller)) // its values say who asked
	detach := context.AfterFunc(f.ctx, cancel)                       //nolint:contextcheck // it must also end with the fetcher
	fl := &flight{digest: digest, cancel: cancel, done: make(chan struct{}), waiting: map[*Options]struct{}{}}
	f.flights[key] = fl
	f.running.Go(func() {
		defer close(fl.done)
		defer f.land(key)
		defer cancel()
		defer detach()
		if panicked := contain.Do(f.log, "a fetch panicked", func() { fl.file, fl.err = f.fly(ctx, fl, ref, dir) }, zap.String("ref", ref.Shown())); panicked != nil {
			fl.err = panicked
		}
	})
	return fl
}

func (f *Fetcher) fly(ctx context.Context, fl *flight, ref Ref, dir string) (File, error) {
	file, err := f.run(ctx, ref, dir, fl.digest, fl.progress)
	if err != nil && ctx.Err() != nil && !task.HasCode(err, task.PolicyDenied) {
		err = fmt.Errorf("fetch %s: %w", ref.Shown(), ctx.Err())
		if f.ctx.Err() != nil {
			err = task.Errorf(task.ShuttingDown, "the server is shutting down; what there is of %s is kept: ask again when it is back", ref.Shown()).Retry(0)
		}
	}
	return file, err
}

// land takes a flight that has ended out of the map.
func (f *Fetcher) land(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flights, key)
}

// join adds somebody who waits, unless the flight has been given up.
func (fl *flight) join(o *Options) bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.given {
		return false
	}
	fl.waiting[o] = struct{}{}
	if fl.begun {
		o.Progress(fl.now, fl.of)
	}
	return true
}

func (fl *flight) wait(ctx context.Context, o *Options) (File, error) {
	select {
	case <-fl.done:
		return fl.file, fl.err
	case <-ctx.Done():
	}
	fl.mu.Lock()
	delete(fl.waiting, o)
	last := len(fl.waiting) == 0
	if last {
		fl.given = true
		fl.cancel()
	}
	fl.mu.Unlock()
	if last {
		<-fl.done // its partial file has been written
	}
	return File{}, fmt.Errorf("fetch: %w", context.Cause(ctx))
}

func (fl *flight) progress(done, total int64) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.now, fl.of, fl.begun = done, total, true
	for o := range fl.waiting {
		o.Progress(done, total)
	}
}

// parseDigest reads sha256:<hex> in upper or lower case, and returns it in lower case.
func parseDigest(text string) (string, error) {
	digest := strings.ToLower(strings.TrimSpace(text))
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if digest == "" || ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == "" {
		return digest, nil
	}
	return "", task.Errorf(task.InvalidParams, "the expected digest is none: write sha256: and 64 hexadecimal digits")
}
