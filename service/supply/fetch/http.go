// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// resolve asks the source which files a ref names.
func (f *Fetcher) resolve(ctx context.Context, ref Ref) ([]remote, error) {
	switch ref.scheme {
	case SchemeHF:
		return f.resolveHub(ctx, ref)
	case SchemeS3:
		return f.resolveS3(ctx, ref)
	case SchemeOCI:
		return f.resolveOCI(ctx, ref)
	case SchemeHTTPS:
		return f.resolveHTTPS(ref)
	case SchemeFile:
	}
	return nil, task.Errorf(task.Internal, "%s is not fetched from anywhere", ref.Shown())
}

// endpointURL reads the base URL of a service.
func endpointURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("an endpoint models are fetched from is no base URL: write https://HOST, without credentials or a query")
	}
	return u, nil
}

const noLogin = "a plain https: ref is fetched without one"

func (f *Fetcher) resolveHTTPS(ref Ref) ([]remote, error) {
	dir, name := path.Split(ref.url.Path)
	names, err := partsOf(name)
	if err != nil {
		return nil, err
	}
	var all []remote
	for _, name := range names {
		at := *ref.url
		if len(names) > 1 {
			at.Path, at.RawPath = dir+name, ""
		}
		where := at
		where.RawQuery = ""
		all = append(all, f.overHTTP(f.s.Client, at.String(), remote{name: localName(name), where: where.String(), size: -1}, nil, noLogin))
	}
	return all, nil
}

// doer is an HTTP client. The one for registries logs in by itself.
type doer interface {
	Do(r *http.Request) (*http.Response, error)
}

// overHTTP completes a remote that a single GET request fetches.
func (f *Fetcher) overHTTP(c doer, address string, r remote, header http.Header, login string) remote {
	r.open = func(ctx context.Context, from int64, validator string) (*stream, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
		if err != nil {
			return nil, clean(err)
		}
		maps.Copy(request.Header, header)
		request.Header.Set("Accept-Encoding", "identity")
		if from > 0 {
			span := fmt.Sprintf("bytes=%d-", from)
			if r.size > 0 { // some registries only accept ranges with an end
				span += strconv.FormatInt(r.size-1, 10)
			}
			request.Header.Set("Range", span)
			if validator != "" {
				request.Header.Set("If-Range", validator)
			}
		}
		response, err := c.Do(request)
		if err != nil {
			return nil, err
		}
		s, err := answered(response, from, validator, r.where, login)
		if err != nil {
			_ = response.Body.Close()
			return nil, err
		}
		return s, nil
	}
	return r
}

var contentRange = regexp.MustCompile(`^bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)$`)

// answered reads a server's answer to a request for a file from a given byte on.
func answered(response *http.Response, from int64, validator, where, login string) (*stream, error) {
	s := &stream{body: response.Body, size: -1, validator: validatorOf(response.Header)}
	if encoding := response.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, task.Errorf(task.InvalidParams, "%s is sent in an encoding that was not asked for: use a source that sends the file as it is", where)
	}
	switch response.StatusCode {
	case http.StatusOK:
		s.size = response.ContentLength
		return s, nil
	case http.StatusPartialContent:
		m := contentRange.FindStringSubmatch(response.Header.Get("Content-Range"))
		if m == nil {
			return nil, errors.New("the source does not say which part of the file it sends")
		}
		s.from, _ = strconv.ParseInt(m[1], 10, 64) // 18 digits fit
		if m[3] != "*" {
			s.size, _ = strconv.ParseInt(m[3], 10, 64)
		}
		if changed(validator, response.Header) {
			return nil, errStale // the server ignores If-Range
		}
		return s, nil
	case http.StatusRequestedRangeNotSatisfiable:
		if from > 0 {
			return nil, errStale
		}
	}
	return nil, status(response.StatusCode, response.Header.Get("Retry-After"), where, login)
}

// validatorOf returns a value for If-Range: a strong ETag, or otherwise the time of the last change.
func validatorOf(h http.Header) string {
	if tag := h.Get("Etag"); strings.HasPrefix(tag, `"`) && len(tag) < 512 {
		return tag
	}
	return h.Get("Last-Modified")
}

func changed(validator string, h http.Header) bool {
	tag := h.Get("Etag")
	return strings.HasPrefix(validator, `"`) && strings.HasPrefix(tag, `"`) && tag != validator
}

// readAll reads an answer of at most the given number of bytes.
func readAll(r io.Reader, most int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(body)) > most {
		err = fmt.Errorf("the source's answer is longer than %d bytes", most)
	}
	return body, err
}
