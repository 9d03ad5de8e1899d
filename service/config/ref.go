// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// The schemes of model refs (ORCH-3090).
const (
	schemeFile  = "file"
	schemeHF    = "hf"
	schemeHTTPS = "https"
	schemeS3    = "s3"
	schemeOCI   = "oci"
)

// A ref is a model ref in its one canonical spelling.
type ref struct {
	scheme string
	rest   string // for a file: ref, its absolute path
}

func (r ref) String() string { return r.scheme + ":" + r.rest }

var (
	errBareName = errors.New("a bare name is no ref: write file:PATH, where a relative PATH starts at this file's folder")
	errScheme   = errors.New("unknown scheme: use file:PATH, or an hf:, https:, s3: or oci: ref, which is fetched")
	errRefShape = errors.New("incomplete: write file:PATH, hf:ORG/REPO or hf:ORG/REPO/FILE, https://HOST/PATH, s3:BUCKET/KEY, oci:REGISTRY/REPOSITORY:TAG")
	errHome     = errors.New("~ needs the environment variable HOME, which is not set: write the path out")
)

// CanonicalRef returns the one spelling of a ref, for comparing: a request's model_ref means the pool whose Model.Canonical equals
// CanonicalRef(model_ref). Relative paths start at the config file's folder. Nothing is opened. A text that is no ref, such as a bare name, is
// returned as it is.
func (c Config) CanonicalRef(text string) string {
	r, err := parseRef(text, c.Dir, c.home)
	if err != nil {
		return strings.TrimSpace(text)
	}
	return r.String()
}

func parseRef(text, dir, home string) (ref, error) {
	text = strings.TrimSpace(text)
	scheme, rest, found := strings.Cut(text, ":")
	if !found || strings.ContainsAny(scheme, "/.~") {
		if !strings.Contains(text, "/") {
			return ref{}, errBareName
		}
		return fileRef(text, dir, home)
	}
	switch scheme = strings.ToLower(scheme); scheme {
	case schemeFile:
		if strings.HasPrefix(rest, "//") { // file:///path, the URL form
			u, err := url.Parse(schemeFile + ":" + rest)
			if err != nil || (u.Host != "" && u.Host != "localhost") || u.Path == "" {
				return ref{}, errRefShape
			}
			rest = u.Path
		}
		return fileRef(rest, dir, home)
	case schemeHTTPS:
		u, err := url.Parse(schemeHTTPS + ":" + rest)
		if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") == "" {
			return ref{}, errRefShape
		}
		u.Host, u.Fragment = strings.TrimSuffix(strings.ToLower(u.Host), ":443"), ""
		return ref{scheme, strings.TrimPrefix(u.String(), schemeHTTPS+":")}, nil
	case schemeHF, schemeS3, schemeOCI:
		parts := strings.Split(strings.Trim(rest, "/"), "/")
		for _, part := range parts {
			if part == "" || part == "." || part == ".." {
				return ref{}, errRefShape
			}
		}
		if len(parts) < 2 {
			return ref{}, errRefShape
		}
		return ref{scheme, strings.Join(parts, "/")}, nil
	}
	return ref{}, errScheme
}

func fileRef(path, dir, home string) (ref, error) {
	if path == "" {
		return ref{}, errRefShape
	}
	path, err := expand(path, dir, home)
	return ref{schemeFile, path}, err
}

// expand makes a path absolute: ~ is the home folder, a relative path starts at dir.
func expand(path, dir, home string) (string, error) {
	if path == "~" || strings.HasPrefix(path, "~/") {
		if home == "" {
			return "", errHome
		}
		return filepath.Join(home, path[1:]), nil
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return filepath.Clean(path), nil
}

// modelName returns the name of a model without an id: the last part of its ref.
func modelName(ref string) string {
	ref = strings.TrimRight(strings.TrimSpace(ref), "/")
	ref = ref[strings.LastIndexAny(ref, "/:")+1:]
	for _, suffix := range []string{".gguf", ".GGUF"} {
		ref = strings.TrimSuffix(ref, suffix)
	}
	return ref
}

// ModelAt returns the model that a ref names, by the same rules as model.ref. It is for a pool that will get this model instead of its own.
// Nothing is opened.
func (c Config) ModelAt(text string) (Model, error) {
	r, err := parseRef(text, c.Dir, c.home)
	if err != nil {
		return Model{}, fmt.Errorf("%q is no model that can be loaded: %w", task.Clip(text, maxQuote), err)
	}
	return Model{Ref: text, Canonical: r.String(), Path: r.path()}, nil
}

// Folder returns the model that a ref names, for a pool FromFolder. Its error says how to fetch it.
func (c Config) Folder(text string) (Model, error) {
	m, err := c.ModelAt(text)
	if err != nil || m.Path != "" {
		return m, err
	}
	r, _ := parseRef(text, c.Dir, c.home) // ModelAt has read it
	return m, fmt.Errorf("%q is no folder here, and the engine of the pool takes a model from one: %s", task.Clip(text, maxQuote), r.fetched())
}

// path returns the file of a file: ref, and nothing for a ref that is fetched.
func (r ref) path() string {
	if r.scheme == schemeFile {
		return r.rest
	}
	return ""
}
