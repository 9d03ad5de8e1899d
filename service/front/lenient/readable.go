// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const replacement = `\ufffd`

// Readable is a JSON text with U+FFFD in the place of what is no character: bytes that are no UTF-8, and halves of surrogate pairs.
// Clients that cut texts by bytes or by UTF-16 send them. Go's decoder replaces them too, but not in what is handed on as it came:
// schemas, and the arguments of calls. Engines refuse the whole request for them.
func Readable(text []byte) []byte {
	if !bytes.Contains(text, []byte(`\u`)) && utf8.Valid(text) { // nearly all
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && text[i+1] == 'u':
			first, ok := unit(text[i:])
			switch second, _ := unit(text[min(i+6, len(text)):]); {
			case !ok || !utf16.IsSurrogate(first):
				out, i = append(out, text[i:i+2]...), i+2
			case utf16.DecodeRune(first, second) != utf8.RuneError:
				out, i = append(out, text[i:i+12]...), i+12
			default:
				out, i = append(out, replacement...), i+6
			}
		case c == '\\' && i+1 < len(text) && text[i+1] < utf8.RuneSelf:
			out, i = append(out, text[i:i+2]...), i+2
		case c < utf8.RuneSelf:
			out, i = append(out, c), i+1
		default:
			r, size := utf8.DecodeRune(text[i:])
			out, i = utf8.AppendRune(out, r), i+size
		}
	}
	return out
}

// unit is the UTF-16 code unit whose escape a text begins with.
func unit(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}

// Object is a text that is a JSON object; nothing and null are an empty one. Not ok: it is none, as arguments where the answer was cut off.
func Object(text string) (object json.RawMessage, ok bool) {
	raw := bytes.TrimSpace([]byte(text))
	if Missing(raw) {
		return json.RawMessage("{}"), true
	}
	return raw, raw[0] == '{' && json.Valid(raw)
}

// CutArguments is the field of an object in which arguments of a call stand that are no JSON.
const CutArguments = "_arguments"

// WholeArguments are those of a call that a model made, as a JSON object. A call without any has an empty one. What is none, because the
// answer was cut off, becomes a field of one: engines refuse a conversation for it, and with it all that comes after.
func WholeArguments(text string) string {
	if object, ok := Object(text); ok {
		return string(Readable(object))
	}
	object, err := json.Marshal(map[string]string{CutArguments: text})
	if err != nil {
		panic(err) // a text always encodes
	}
	return string(object)
}
