// SPDX-License-Identifier: GPL-3.0-or-later

package sdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/uuid"
	"github.com/ogen-go/ogen/validate"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/internal/plainjson"
)

// RequestError says that a request breaks a rule of the contract. Nothing was sent.
type RequestError struct {
	Field string // by its name in JSON, such as `messages[2].role`; of a call's own arguments, such as `id`
	Why   string
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("the field `%s` of the request breaks the API's contract, and nothing was sent: %s", e.Field, e.Why)
}

// shape is a type of gen, which knows the contract's rules.
type shape[T any] interface {
	*T
	json.Unmarshaler
}

// check holds JSON to the contract, by the type that gen has for it.
func check[Gen any, P shape[Gen]](text []byte) error {
	value := P(new(Gen))
	if err := value.UnmarshalJSON(text); err != nil {
		return err
	}
	if rules, ok := any(value).(interface{ Validate() error }); ok {
		return rules.Validate()
	}
	return nil
}

// bodyOf is a request as it is sent, once it is held to the contract.
func bodyOf[Gen any, P shape[Gen]](request any) ([]byte, error) {
	text, err := plainjson.Encode(request)
	if err != nil {
		return nil, unfit(reflect.ValueOf(request), "", err)
	}
	if err := check[Gen, P](text); err != nil {
		return nil, broken("", err)
	}
	return text, nil
}

// broken names the first field that breaks a rule.
func broken(at string, err error) error {
	if all, ok := errors.AsType[*validate.Error](err); ok && len(all.Fields) > 0 {
		first := all.Fields[0]
		if at != "" && !strings.HasPrefix(first.Name, "[") {
			at += "."
		}
		return broken(at+first.Name, first.Error)
	}
	return &RequestError{Field: at, Why: inWords(err)}
}

// inWords says what a rule of the contract wants.
func inWords(err error) string {
	if e, ok := errors.AsType[*validate.MinLengthError](err); ok {
		return fmt.Sprintf("it has the length %d, and must have at least %d", e.Len, e.MinLength)
	}
	if e, ok := errors.AsType[*validate.MaxLengthError](err); ok {
		return fmt.Sprintf("it has the length %d, and must have at most %d", e.Len, e.MaxLength)
	}
	if e, ok := errors.AsType[*validate.NoRegexMatchError](err); ok {
		return "it must match " + e.Pattern.String()
	}
	return err.Error()
}

// unfit finds the field that has no form in JSON: text that was to be JSON and is not, or a number that is none.
func unfit(v reflect.Value, at string, err error) error {
	within := func(child reflect.Value, name string) error {
		if _, err := json.Marshal(child.Interface()); err != nil {
			return unfit(child, name, err)
		}
		return nil
	}
	v = reflect.Indirect(v)
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if at != "" {
				name = at + "." + name
			}
			if err := within(v.Field(i), name); err != nil {
				return err
			}
		}
	case v.Kind() == reflect.Slice && v.Type() != reflect.TypeFor[json.RawMessage]():
		for i := range v.Len() {
			if err := within(v.Index(i), fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	}
	if inner, ok := errors.AsType[*json.MarshalerError](err); ok {
		err = inner.Err
	}
	return &RequestError{Field: at, Why: err.Error()}
}

// rule is a scalar of the contract.
type rule interface {
	gen.TaskID | gen.PoolID | gen.ModelID | gen.ArtifactID | gen.ArtifactKind | gen.ArtifactTag | gen.TaskState | gen.ModelState | gen.EventID | gen.FingerprintID | gen.LogLevel
	Validate() error
}

// hold holds an argument to the contract.
func hold[R rule](name, value string) error {
	if err := R(value).Validate(); err != nil {
		return &RequestError{Field: name, Why: fmt.Sprintf("%.140q is none: %s", value, inWords(err))}
	}
	return nil
}

// holdSome holds an argument that may be empty to the contract.
func holdSome[R rule](name, value string) error {
	if value == "" {
		return nil
	}
	return hold[R](name, value)
}

// holdSession holds a session's id to the contract.
func holdSession(name, value string) error {
	if _, err := uuid.Parse(value); err != nil {
		return &RequestError{Field: name, Why: fmt.Sprintf("%.140q is no UUID", value)}
	}
	return nil
}

// maxList is the most that a list may be asked for.
const maxList = 500

func holdLimit(limit int) error {
	if limit < 0 || limit > maxList {
		return &RequestError{Field: "limit", Why: fmt.Sprintf("%d is not within 1 and %d", limit, maxList)}
	}
	return nil
}
