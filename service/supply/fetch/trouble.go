// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// errRedirects says that a source redirected too often.
var errRedirects = errors.New("too many redirects")

const maxRedirects = 10

// boundRedirects returns a copy of the client that bounds the number of redirects before it asks the client's own rule about each.
func boundRedirects(c *http.Client) *http.Client {
	bounded, inner := *c, c.CheckRedirect
	bounded.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return errRedirects
		}
		if inner != nil {
			return inner(r, via)
		}
		return nil
	}
	return &bounded
}

func asTyped(err error) error {
	if e, ok := errors.AsType[*task.Error](err); ok {
		return e
	}
	return nil
}

// typed turns an error of a source into one for clients. An unknown error counts as trouble with the network, which may pass.
func typed(err error, ref Ref) *task.Error {
	if e, ok := errors.AsType[*task.Error](err); ok {
		return e
	}
	err = clean(err)
	if errors.Is(err, errRedirects) {
		return task.Errorf(task.InvalidParams, "%s is redirected more than %d times: give the address that it ends at", ref.Shown(), maxRedirects).Because(err)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return task.Errorf(task.UntrustedArtifact, "the source of %s cannot prove by a certificate that it is what it says: correct its address, or install its authority", ref.Shown()).Because(err)
	}
	return task.Errorf(task.Internal, "%s could not be fetched, the source or the way to it fails; what there is of it is kept: try again later, it goes on from there", ref.Shown()).
		Because(err).Retry(0)
}

// clean takes the address out of net/http's error text, since its query may hold credentials.
func clean(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		host := "the source"
		if u, parseErr := url.Parse(e.URL); parseErr == nil && u.Host != "" {
			host = u.Host
		}
		return fmt.Errorf("%s %s: %w", strings.ToUpper(e.Op), host, clean(e.Err))
	}
	return err
}

// status turns an answer that is no success into an error.
func status(code int, retryAfter, where, login string) error {
	switch {
	case code == http.StatusNotFound || code == http.StatusGone:
		return task.Errorf(task.ModelNotFound, "%s does not exist: see that it is written as its source does", where)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return task.Errorf(task.ModelNotFound, "%s does not exist, or may not be read without a login (%d): %s", where, code, login)
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests || code >= 500:
		return task.Errorf(task.Internal, "%s could not be fetched, its source answers %d; what there is of it is kept: try again later", where, code).
			Retry(after(retryAfter))
	}
	return task.Errorf(task.ModelNotFound, "%s cannot be had, its source answers %d: see that the ref is right", where, code)
}

// after reads a Retry-After in seconds. It ignores dates, for which it would need a clock.
func after(header string) time.Duration {
	seconds, err := strconv.ParseUint(strings.TrimSpace(header), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

func mismatch(where, got, want string) error {
	return task.Errorf(task.UntrustedArtifact, "%s has the digest %s, not the expected %s: nothing of it was kept. Find out which is right before you change the expected one", where, got, want)
}

func tooLarge(ref string, most int64) error {
	return task.Errorf(task.TooLarge, "%s has more than %d bytes, the most that a model may have here: choose a smaller one", ref, most)
}

func full(ref, dir string, need, free int64) error {
	return task.Errorf(task.Internal, "no room for %s: it needs %d bytes more, and %s has %d to give: delete models that are not used, or choose a smaller one", ref, need, dir, free)
}

func disk(err error) error {
	var e *task.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return task.Errorf(task.Internal, "the disk filled up while a model was fetched: delete models that are not used, then try again").Because(err)
	case errors.Is(err, fs.ErrPermission):
		return task.Errorf(task.Internal, "the folder of models cannot be written: give the server's user the right to").Because(err)
	}
	return task.Errorf(task.Internal, "a model could not be kept on the server's disk: its log says why").Because(err)
}
