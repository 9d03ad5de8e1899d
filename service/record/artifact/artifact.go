// SPDX-License-Identifier: GPL-3.0-or-later

// Package artifact keeps what tasks leave behind in a content-addressed store, and shows it together with the proof bundles
// that the ledger's records give (ORCH-3097, OC-CTRL-2067).
package artifact

import (
	"mime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/llama-orch/llama-orch/service/task"
)

// Kind says what an artifact is for.
type Kind string

// The kinds.
const (
	KindPlan    Kind = "plan"
	KindSummary Kind = "summary"
	KindDiff    Kind = "diff"
	KindTrace   Kind = "trace"
	KindProof   Kind = "proof"
	KindOther   Kind = "other"
)

// Kinds lists every kind.
func Kinds() []Kind {
	return []Kind{KindPlan, KindSummary, KindDiff, KindTrace, KindProof, KindOther}
}

// Meta describes an artifact.
type Meta struct {
	Kind      Kind              `json:"kind"`
	MediaType string            `json:"media_type"`         // empty: application/octet-stream
	TaskID    string            `json:"task_id,omitempty"`  // the task that it belongs to
	Parent    string            `json:"parent,omitempty"`   // id of the artifact that it was made from
	Tags      []string          `json:"tags,omitempty"`     // sorted, each once
	Metadata  map[string]string `json:"metadata,omitempty"` // of the writer's own
}

// Entry is an artifact's id, description and size. Its tags and metadata are shared between copies, and must not be changed.
type Entry struct {
	ID string `json:"id"` // `sha256-<64 hex>` of the bytes
	Meta
	Size      int64     `json:"size_bytes"`
	CreatedAt time.Time `json:"created_at"`
	RenewedAt time.Time `json:"renewed_at"` // when its bytes were stored last; its age counts from here
}

// silent reports whether a description says nothing. Such is that of an artifact whose own was lost, before it was promised to anyone.
func (m Meta) silent() bool {
	return m.Kind == KindOther && m.MediaType == defaultMediaType && m.TaskID == "" && m.Parent == "" && len(m.Tags) == 0 && len(m.Metadata) == 0
}

// Filter chooses entries; an empty field takes all.
type Filter struct {
	Kind   Kind
	Tag    string
	TaskID string
	Limit  int // 0: no limit
}

func (f Filter) takes(e *Entry) bool {
	return (f.Kind == "" || e.Kind == f.Kind) && (f.TaskID == "" || e.TaskID == f.TaskID) &&
		(f.Tag == "" || slices.Contains(e.Tags, f.Tag))
}

// The bounds of a Meta.
const (
	maxMediaType = 128
	maxTags      = 32
	maxTag       = 64
	maxQuote     = 64 // bytes of a client's input that an error repeats at most
	maxPairs     = 32
	maxKey       = 64
	maxValue     = 1024
	maxTaskID    = 128
)

const defaultMediaType = "application/octet-stream"

const (
	idPrefix = "sha256-"
	idHex    = 64
)

// ValidID reports whether id has the form of an artifact's id.
func ValidID(id string) bool {
	digits, ok := strings.CutPrefix(id, idPrefix)
	return ok && len(digits) == idHex && strings.Trim(digits, "0123456789abcdef") == ""
}

func invalid(format string, args ...any) error {
	return task.Errorf(task.InvalidParams, format, args...)
}

// completed returns a copy of m with its defaults filled in, or says what is wrong with m.
func (m Meta) completed() (Meta, error) {
	if !slices.Contains(Kinds(), m.Kind) {
		return m, invalid("an artifact's kind must be one of plan, summary, diff, trace, proof and other, not %q", task.Clip(string(m.Kind), maxQuote))
	}
	if m.MediaType == "" {
		m.MediaType = defaultMediaType
	}
	kind, _, err := mime.ParseMediaType(m.MediaType)
	if err != nil || !strings.Contains(kind, "/") || len(m.MediaType) > maxMediaType || !printable(m.MediaType) {
		return m, invalid("the media type %q is none: give one such as text/markdown, of at most %d characters", task.Clip(m.MediaType, maxQuote), maxMediaType)
	}
	if m.TaskID != "" && (len(m.TaskID) > maxTaskID || !word(m.TaskID, "._-")) {
		return m, invalid("%q cannot be a task's id: it has letters, digits, dots, dashes and underscores, at most %d", task.Clip(m.TaskID, maxQuote), maxTaskID)
	}
	if m.Parent != "" && !ValidID(m.Parent) {
		return m, invalid("the parent %q is no artifact's id: it is sha256- and 64 hexadecimal digits", task.Clip(m.Parent, maxQuote))
	}
	m.Tags = slices.Compact(slices.Sorted(slices.Values(m.Tags)))
	if len(m.Tags) > maxTags {
		return m, invalid("an artifact takes at most %d tags, not %d", maxTags, len(m.Tags))
	}
	for _, tag := range m.Tags {
		if len(tag) > maxTag || !word(tag, "._:/-") {
			return m, invalid("the tag %q must have 1 to %d letters, digits and ._:/- and begin with a letter or a digit", task.Clip(tag, maxQuote), maxTag)
		}
	}
	if len(m.Metadata) > maxPairs {
		return m, invalid("an artifact takes at most %d pairs of metadata, not %d", maxPairs, len(m.Metadata))
	}
	metadata := make(map[string]string, len(m.Metadata))
	for key, value := range m.Metadata {
		if len(key) > maxKey || !word(key, "._:/-") {
			return m, invalid("the metadata key %q must have 1 to %d letters, digits and ._:/- and begin with a letter or a digit", task.Clip(key, maxQuote), maxKey)
		}
		if len(value) > maxValue || !utf8.ValidString(value) {
			return m, invalid("the metadata value of %q must be at most %d bytes of UTF-8", key, maxValue)
		}
		metadata[key] = value
	}
	m.Metadata = metadata
	if len(metadata) == 0 {
		m.Metadata = nil
	}
	return m, nil
}

// word reports whether s begins with a letter or a digit and has only letters, digits and the bytes of also.
func word(s, also string) bool {
	for i, b := range []byte(s) {
		alphanumeric := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
		if !alphanumeric && (i == 0 || strings.IndexByte(also, b) < 0) {
			return false
		}
	}
	return s != ""
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
