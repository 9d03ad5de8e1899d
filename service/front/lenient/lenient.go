// SPDX-License-Identifier: GPL-3.0-or-later

// Package lenient reads the bodies of other dialects (LO-403). It ignores what it does not know, and refuses by its name what is wrong or
// cannot be had.
package lenient

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// ParamError is a refusal that names a parameter.
type ParamError struct {
	Param string
	Err   *task.Error
}

// Error implements error.
func (e *ParamError) Error() string { return e.Err.Error() }

// Unwrap returns the refusal itself.
func (e *ParamError) Unwrap() error { return e.Err }

// Bad refuses a parameter.
func Bad(param, format string, args ...any) error {
	return &ParamError{param, task.Errorf(task.InvalidParams, "`%s`: "+format, append([]any{param}, args...)...)}
}

// At names an element of a list, as refusals do.
func At(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// Cannot refuses what would change the answer and cannot be had.
func Cannot(param, what string) error {
	return Bad(param, "%s cannot be had here yet: leave it out", what)
}

// Decode reads a JSON body into v, and returns it without its white space.
func Decode(r *http.Request, v any) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return Read(body, v)
}

// Read reads JSON into v as Decode does.
func Read(body []byte, v any) ([]byte, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, task.Errorf(task.InvalidParams, "this call needs a JSON body and has none")
	}
	body = Readable(body)
	if err := json.Unmarshal(body, v); err != nil {
		return nil, undecodable(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		return nil, undecodable(err)
	}
	return compact.Bytes(), nil
}

// undecodable words what the decoder refused.
func undecodable(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return task.Errorf(task.InvalidParams, "the body must be a JSON object, not a JSON %s", wrong.Value)
		}
		if number, ok := strings.CutPrefix(wrong.Value, "number "); ok {
			return Bad(field(wrong.Field), "the number %s is out of range", task.Clip(number, maxQuote))
		}
		return Bad(field(wrong.Field), "it must be %s, not a JSON %s", wanted(wrong.Type), wrong.Value)
	}
	if wrong, ok := errors.AsType[*task.Error](err); ok {
		return wrong
	}
	return task.Errorf(task.InvalidParams, "the body is not valid JSON: %s", err)
}

// field is the name of a field as the client knows it: less the types that requests have in common.
func field(path string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(path, "."), func(part string) bool { return part == "common" || part == "Sampling" }), ".")
}

// maxQuote bounds what of a wrong value is told, in bytes.
const maxQuote = 40

// wanted says what JSON a Go type is decoded from.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	default:
		return "a number"
	}
}

// Bound returns a bound from 1 of how much is answered; 0: none. A larger one than any answer is none that a client could notice.
func Bound(param string, v *float64) (int, error) {
	if v != nil && *v > math.MaxInt32 {
		return math.MaxInt32, nil
	}
	return Whole(param, v, 1)
}

// Whole is a whole number from least; 0 where it is missing.
func Whole(param string, v *float64, least int) (int, error) {
	if v == nil {
		return 0, nil
	}
	if *v != math.Trunc(*v) || *v < float64(least) || *v > math.MaxInt32 {
		return 0, Bad(param, "it must be a whole number from %d, not %g", least, *v)
	}
	return int(*v), nil
}

// Seed is a seed as a task has it, whatever whole number the client sent; nil where it is missing.
func Seed(param string, v *float64) (*uint32, error) {
	if v == nil {
		return nil, nil
	}
	if *v != math.Trunc(*v) {
		return nil, Bad(param, "it must be a whole number")
	}
	seed := uint32(math.Mod(math.Abs(*v), task.MaxSeed+1))
	return &seed, nil
}

// Texts is one text, or several.
type Texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *Texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = nil
		if string(b) != "null" {
			*t = Texts{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}
