// SPDX-License-Identifier: GPL-3.0-or-later

package task

import "fmt"

// FieldError says what is wrong with one field of a request. Field is its name in the native API; fronts of other dialects have their own for it.
type FieldError struct{ Field, Why string }

// Error implements error.
func (e *FieldError) Error() string { return "the field " + e.Field }

// RefuseField refuses a request for one of its fields. What the format makes is read behind the field's name.
func RefuseField(field, format string, args ...any) *Error {
	wrong := &FieldError{Field: field, Why: fmt.Sprintf(format, args...)}
	return Errorf(InvalidParams, "`%s` %s", field, wrong.Why).Because(wrong)
}

// Setting is the name of a value by which the configuration may change requests (LO-429).
type Setting string

// The settings.
const (
	SetTemperature   Setting = "temperature"
	SetTopP          Setting = "top_p"
	SetTopK          Setting = "top_k"
	SetMinP          Setting = "min_p"
	SetRepeatPenalty Setting = "repeat_penalty"
	SetMaxTokens     Setting = "max_tokens"
	SetSeed          Setting = "seed"
	SetStop          Setting = "stop"
	SetThinking      Setting = "thinking"
	SetEffort        Setting = "effort"
)

// Unfit is a setting that a client of a front sent with a value that no task can have. It refuses the request, unless the configuration takes the
// setting out or has one of its own.
type Unfit struct {
	Setting Setting
	Err     error
}

// Lacks notes that a setting could not be read; a nil error notes nothing.
func (r *Request) Lacks(s Setting, err error) {
	if err != nil {
		r.Unfit = append(r.Unfit, Unfit{s, err})
	}
}
