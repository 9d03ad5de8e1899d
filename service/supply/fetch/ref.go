// SPDX-License-Identifier: GPL-3.0-or-later

package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"oras.land/oras-go/v2/registry"

	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/task"
)

// Scheme says how a model is fetched.
type Scheme string

// The schemes of model refs (ORCH-3090).
const (
	SchemeFile  Scheme = "file"
	SchemeHF    Scheme = "hf"
	SchemeHTTPS Scheme = "https"
	SchemeS3    Scheme = "s3"
	SchemeOCI   Scheme = "oci"
)

// Ref is a checked model ref, in the same canonical spelling that package config uses.
type Ref struct {
	scheme   Scheme
	text     string // canonical
	repo     string // hf: org/repo; s3: the bucket
	revision string // hf: a branch, a tag or a commit; empty: main
	file     string // hf: path in the repository, or empty; s3: the key; file: the path
	url      *url.URL
	oci      registry.Reference
}

const maxRef = 2048

var (
	hubName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$`)
	hubRef     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
)

const forms = "write hf:ORG/REPO/FILE.gguf, hf:ORG/REPO, https://HOST/PATH, s3:BUCKET/KEY, oci:REGISTRY/REPOSITORY:TAG, or file:/PATH"

// ParseRef reads a ref. A path of file: must be absolute, since only the configuration knows where a relative one starts. Errors are
// INVALID_PARAMS. They do not repeat a query, which may hold credentials.
func ParseRef(text string) (Ref, error) {
	text = strings.TrimSpace(text)
	bad := func(why string) (Ref, error) {
		return Ref{}, task.Errorf(task.InvalidParams, "the model ref %q %s: %s", shown(text), why, forms)
	}
	if len(text) > maxRef {
		return bad(fmt.Sprintf("is longer than %d bytes", maxRef))
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return bad("has characters that no ref has")
	}
	scheme, rest, found := strings.Cut(text, ":")
	if !found {
		return bad("has no scheme")
	}
	r := Ref{scheme: Scheme(strings.ToLower(scheme))}
	var why string
	switch r.scheme {
	case SchemeFile:
		why = r.parseFile(rest)
	case SchemeHTTPS:
		why = r.parseHTTPS(rest)
	case SchemeHF, SchemeS3, SchemeOCI:
		why = r.parseParts(rest)
	default:
		why = "has a scheme that is not known"
	}
	if why == "" && strings.TrimSpace(r.text) != r.text {
		why = "ends in a space" // a space at the end gets lost when the ref is written and read again
	}
	if why != "" {
		return bad(why)
	}
	return r, nil
}

func (r *Ref) parseFile(rest string) string {
	if after, ok := strings.CutPrefix(rest, "//"); ok { // file:///path, the URL form
		u, err := url.Parse("file://" + after)
		if err != nil || (u.Host != "" && u.Host != "localhost") || strings.ContainsRune(u.Path, 0) {
			return "names no file"
		}
		rest = u.Path
	}
	if !filepath.IsAbs(rest) {
		return "needs an absolute path here"
	}
	r.file = filepath.Clean(rest)
	r.text = "file:" + r.file
	return ""
}

func (r *Ref) parseHTTPS(rest string) string {
	u, err := url.Parse("https:" + rest)
	if err != nil || u.Host == "" || u.Opaque != "" || u.User != nil || strings.Trim(u.Path, "/") == "" {
		return "names no file of a host (credentials have no place in it)"
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if part == ".." || part == "." {
			return "has a path that leads up"
		}
	}
	u.Host, u.Fragment, u.RawFragment = strings.TrimSuffix(strings.ToLower(u.Host), ":443"), "", ""
	if u.Hostname() == "" {
		return "names no host"
	}
	r.url, r.text, r.file = u, u.String(), u.Path
	return ""
}

func (r *Ref) parseParts(rest string) string {
	parts := strings.Split(strings.Trim(rest, "/"), "/")
	for _, part := range parts {
		if part == "" || part == "." || part == ".." {
			return "has an empty part, or one that leads up"
		}
	}
	if len(parts) < 2 {
		return "is not complete"
	}
	joined := strings.Join(parts, "/")
	r.text = string(r.scheme) + ":" + joined
	switch r.scheme {
	case SchemeHF:
		repo, revision, pinned := strings.Cut(parts[1], "@")
		if !hubName.MatchString(parts[0]) || !hubName.MatchString(repo) || pinned && !hubRef.MatchString(revision) {
			return "names no repository: ORG/REPO, or ORG/REPO@REVISION, of letters, digits and ._-"
		}
		r.repo, r.revision, r.file = parts[0]+"/"+repo, revision, strings.Join(parts[2:], "/")
		if r.file != "" && !strings.HasSuffix(strings.ToLower(r.file), ".gguf") {
			return "names a file that does not end in .gguf"
		}
	case SchemeS3:
		if !bucketName.MatchString(parts[0]) || strings.Contains(parts[0], "..") {
			return "names no bucket"
		}
		r.repo, r.file = parts[0], strings.Join(parts[1:], "/")
	default:
		parsed, err := registry.ParseReference(joined)
		if err != nil {
			return "names no image of a registry"
		}
		if parsed.Reference == "" {
			parsed.Reference = "latest"
		}
		r.oci = parsed
	}
	return ""
}

// String returns the canonical spelling of the whole ref.
func (r Ref) String() string { return r.text }

// Shown returns the ref for logs and messages: without the query, which may hold credentials.
func (r Ref) Shown() string { return shown(r.text) }

func shown(text string) string {
	const most = 256
	if len(text) >= 6 && strings.EqualFold(text[:6], "https:") {
		text, _, _ = strings.Cut(text, "?")
		text, _, _ = strings.Cut(text, "#")
		if slash, at := strings.Index(text, "//"), strings.LastIndexByte(text, '@'); slash >= 0 && at > slash {
			text = text[:slash+2] + text[at+1:]
		}
	}
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

// Folder returns the name of the folder for the ref's files. It has a part that people recognise, and a digest. So no two refs share a folder,
// and nothing in a ref can lead elsewhere.
func (r Ref) Folder() string {
	sum := sha256.Sum256([]byte(r.text))
	name := r.file
	switch {
	case r.scheme == SchemeOCI:
		name = r.oci.Repository
	case name == "":
		name = r.repo
	}
	name = strings.ToLower(localName(name))
	name = strings.TrimSuffix(name, ".gguf")
	const most = 48
	return name[:min(len(name), most)] + "-" + hex.EncodeToString(sum[:8])
}

// localName turns a source's name for a file into the name on our disk, which only has letters, digits and ._+-.
func localName(remote string) string {
	name := []byte(path.Base(remote))
	for i, b := range name {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && strings.IndexByte("._+-", b) < 0 {
			name[i] = '_'
		}
	}
	if name[0] == '.' || name[0] == '-' {
		name[0] = '_'
	}
	const most = 200
	return string(name[max(0, len(name)-most):])
}

// partsOf returns the names of all parts of the split model that name belongs to. If name is no such part, it returns name alone.
func partsOf(name string) ([]string, error) {
	all, err := gguf.Parts(name)
	if err != nil {
		return nil, task.Errorf(task.InvalidParams, "%v", err)
	}
	return all, nil
}
