// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// Redacted stands where a secret stood.
const Redacted = "[redacted]"

// minSecret is the length of the shortest secret that a Redactor looks for. A shorter one would be found in innocent words.
const minSecret = 4

// bearer matches the credentials of an Authorization header wherever they are quoted (RFC 6750, b64token). It wants at least
// 8 bytes, so that it leaves the words "bearer token" alone.
var bearer = regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/-]{8,}=*`)

// hasBearer reports whether the word is in a text. Hardly any text has it, and to look for it alone costs a hundredth of what the
// expression costs.
func hasBearer(text []byte) bool {
	for _, first := range [...]byte{'b', 'B'} {
		rest := text
		for i := bytes.IndexByte(rest, first); i >= 0; i = bytes.IndexByte(rest, first) {
			rest = rest[i+1:]
			if len(rest) >= len(earer) && bytes.EqualFold(rest[:len(earer)], earer) {
				return true
			}
		}
	}
	return false
}

var earer = []byte("earer")

// A Redactor takes secrets out of text: those that it was told of, and whatever follows the word Bearer. It may be used by several
// goroutines.
type Redactor struct {
	adding  sync.Mutex
	secrets atomic.Pointer[[]secret] // longest first: one secret may contain another
}

type secret struct{ plain, inJSON []byte }

// NewRedactor makes a redactor that knows these secrets.
func NewRedactor(secrets ...string) *Redactor {
	r := &Redactor{}
	r.secrets.Store(&[]secret{})
	for _, s := range secrets {
		r.Add(s)
	}
	return r
}

// Add tells the redactor of a secret. One that is shorter than 4 bytes is not looked for.
func (r *Redactor) Add(text string) {
	if len(text) < minSecret {
		return
	}
	r.adding.Lock()
	defer r.adding.Unlock()
	quoted := quote(text)
	known := append(slices.Clone(*r.secrets.Load()), secret{plain: []byte(text), inJSON: quoted[1 : len(quoted)-1]})
	slices.SortStableFunc(known, func(a, b secret) int { return len(b.plain) - len(a.plain) })
	r.secrets.Store(&known)
}

// String returns the text without the secrets.
func (r *Redactor) String(text string) string { return string(r.redact([]byte(text))) }

func (r *Redactor) redact(text []byte) []byte {
	for _, s := range *r.secrets.Load() {
		if bytes.Contains(text, s.plain) {
			text = bytes.ReplaceAll(text, s.plain, []byte(Redacted))
		}
	}
	if hasBearer(text) && bearer.Match(text) {
		text = bearer.ReplaceAll(text, []byte("${1}"+Redacted))
	}
	return text
}

// finds says whether a line of JSON may need redacting; hardly any does.
func (r *Redactor) finds(line []byte) bool {
	for _, s := range *r.secrets.Load() {
		if bytes.Contains(line, s.inJSON) {
			return true
		}
	}
	return hasBearer(line) && bearer.Match(line)
}

// findsIn says whether a text that is no JSON may need redacting.
func (r *Redactor) findsIn(text []byte) bool {
	for _, s := range *r.secrets.Load() {
		if bytes.Contains(text, s.plain) {
			return true
		}
	}
	return hasBearer(text) && bearer.Match(text)
}

// line redacts the strings in a line of JSON, and nothing else. It unquotes each string first. So a secret of digits cannot break a
// number, and a secret that looks like part of an escape sequence cannot break that.
func (r *Redactor) line(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for {
		open := bytes.IndexByte(line, '"')
		if open < 0 {
			return append(out, line...)
		}
		end := open + 1
		for end < len(line) && line[end] != '"' {
			if line[end] == '\\' {
				end++
			}
			end++
		}
		end = min(end+1, len(line))
		out = append(out, line[:open]...)
		out = append(out, r.literal(line[open:end])...)
		line = line[end:]
	}
}

func (r *Redactor) literal(quoted []byte) []byte {
	var text string
	if json.Unmarshal(quoted, &text) != nil {
		return []byte(`"` + Redacted + `"`)
	}
	if clean := r.String(text); clean != text {
		return quote(clean)
	}
	return quoted
}

// quote writes text as a JSON string the way zap does: without escapes for HTML.
func quote(text string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string into memory: cannot fail
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// redactingEncoder redacts what the encoder inside it has written. It works on the finished line: only there has everything become
// text, messages, errors, stringers, nested objects and the fields of With.
type redactingEncoder struct {
	zapcore.Encoder
	redactor *Redactor
}

func (e *redactingEncoder) Clone() zapcore.Encoder {
	return &redactingEncoder{e.Encoder.Clone(), e.redactor}
}

func (e *redactingEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	line, err := e.Encoder.EncodeEntry(entry, fields)
	if err != nil || !e.redactor.finds(line.Bytes()) {
		return line, err
	}
	clean := e.redactor.line(line.Bytes())
	line.Reset()
	_, err = line.Write(clean)
	return line, err
}
