// SPDX-License-Identifier: GPL-3.0-or-later

package api

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/go-faster/jx"
)

// shape is what of a body's schema decides on its normal form: gen's decoders take neither `null` for what is absent, nor 42.0 for
// an integer (LO-844).
type shape struct {
	integer bool
	fields  map[string]*shape // of an object, by name
	needed  []string          // the fields that must be there
	items   *shape            // of a list
}

// shapeOf reads a schema. A schema that leads back to itself gives a shape that does.
func (c *contract) shapeOf(s schema, known map[string]*shape) *shape {
	ref, _ := s["$ref"].(string)
	if have, ok := known[ref]; ok && ref != "" {
		return have
	}
	out := &shape{}
	if ref != "" {
		known[ref] = out
	}
	s = c.resolve(s)
	out.integer = s["type"] == "integer"
	alternatives, _ := s["oneOf"].([]any) // of which at most one is a list, and one an object
	for _, a := range alternatives {
		a, _ := a.(schema)
		if one := c.shapeOf(a, known); one.items != nil {
			out.items = one.items
		} else if one.fields != nil {
			out.fields, out.needed = one.fields, one.needed
		}
	}
	if items, ok := s["items"].(schema); ok {
		out.items = c.shapeOf(items, known)
	}
	if properties, ok := s["properties"].(schema); ok {
		out.fields = make(map[string]*shape, len(properties))
		for name, v := range properties {
			if field, ok := v.(schema); ok {
				out.fields[name] = c.shapeOf(field, known)
			}
		}
	}
	required, _ := s["required"].([]any)
	for _, v := range required {
		if name, ok := v.(string); ok {
			out.needed = append(out.needed, name)
		}
	}
	return out
}

// normal returns a body, which must be valid JSON, without the optional fields that are null, and with integers written as such.
// What it cannot make sense of it leaves for gen to refuse. A body with neither comes back as it is.
func (s *shape) normal(body []byte) []byte {
	if !unusual(body) {
		return body
	}
	d := jx.GetDecoder()
	defer jx.PutDecoder(d)
	d.ResetBytes(body)
	e := jx.GetEncoder()
	defer jx.PutEncoder(e)
	if err := s.copy(d, e); err != nil {
		return body
	}
	return bytes.Clone(e.Bytes())
}

// copy writes the next value in its normal form.
func (s *shape) copy(d *jx.Decoder, e *jx.Encoder) error {
	switch kind := d.Next(); {
	case s == nil:
	case kind == jx.Object && s.fields != nil:
		e.ObjStart()
		err := d.ObjBytes(func(d *jx.Decoder, key []byte) error {
			name := string(key)
			field, known := s.fields[name]
			if known && d.Next() == jx.Null && !slices.Contains(s.needed, name) {
				return d.Skip()
			}
			e.FieldStart(name)
			return field.copy(d, e)
		})
		e.ObjEnd()
		return err
	case kind == jx.Array && s.items != nil:
		e.ArrStart()
		err := d.Arr(func(d *jx.Decoder) error { return s.items.copy(d, e) })
		e.ArrEnd()
		return err
	case kind == jx.Number && s.integer:
		n, err := d.Num()
		if err == nil {
			e.Raw([]byte(whole(string(n))))
		}
		return err
	}
	raw, err := d.Raw()
	if err == nil {
		e.Raw(raw)
	}
	return err
}

// unusual reports whether valid JSON has, outside of its strings, a `null` or a number that is written with a point or an exponent.
func unusual(body []byte) bool {
	for i := 0; i < len(body); i++ {
		switch c := body[i]; c {
		case '"':
			i = stringEnd(body, i)
		case 'n', '.', 'E': // neither true nor false has one
			return true
		case 'e':
			if digit(body[i-1]) {
				return true
			}
		}
	}
	return false
}

// stringEnd is where the string that begins at i ends.
func stringEnd(body []byte, i int) int {
	for i++; ; i++ {
		at := bytes.IndexByte(body[i:], '"')
		if at < 0 {
			return len(body)
		}
		i += at
		escapes := 0
		for body[i-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// maxDigits bounds what is written out. It is more than any integer of the contract has.
const maxDigits = 32

// whole writes a number of JSON without point and exponent, if it has no fraction. Any other comes back as it is.
func whole(number string) string {
	text, minus := strings.CutPrefix(number, "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	before, after, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(before+after, "0")
	point := len(digits) - len(after) // where the point stands in digits
	digits = strings.TrimRight(digits, "0")
	if digits == "" {
		return "0"
	}
	if exponent != "" {
		n, err := strconv.Atoi(exponent)
		if err != nil || n > maxDigits || n < -len(number) {
			return number
		}
		point += n
	}
	if point < len(digits) || point > maxDigits {
		return number
	}
	digits += strings.Repeat("0", point-len(digits))
	if minus {
		return "-" + digits
	}
	return digits
}
