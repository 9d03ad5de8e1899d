// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Names are what a client calls the fields of the request that was made of its body (LO-404). A field that they do not have is called as natively.
type Names struct {
	// Messages and Tools say where in the body those of the task are, which may have fewer, more, or others in their place.
	Messages, Tools []string
	// Fields are names by the native ones. In both, [] stands for the number of an element. Of a field within a message or a tool it is the part behind
	// its place, such as tool_call_id for messages[].tool_call_id; where it is empty, the place is all that can be said.
	Fields map[string]string
}

// Call says what the client calls a native field.
func (n *Names) Call(native, client string) {
	if n.Fields == nil {
		n.Fields = map[string]string{}
	}
	n.Fields[native] = client
}

// Err names fields as the client does in a refusal of one.
func (n *Names) Err(err error) error {
	wrong, ok := errors.AsType[*task.FieldError](err)
	if !ok {
		return err
	}
	name := n.of(wrong.Field)
	return &ParamError{name, task.Errorf(task.InvalidParams, "`%s` %s", name, wrong.Why)}
}

// number is that of an element in a list.
var number = regexp.MustCompile(`\[\d+\]`)

func (n *Names) of(native string) string {
	numbers := number.FindAllString(native, -1)
	client, known := n.Fields[number.ReplaceAllString(native, "[]")]
	place, rest, within := n.place(native)
	if !within && !known {
		return native
	}
	if within {
		numbers = numbers[1:]
	}
	if known {
		rest = client
		for _, at := range numbers {
			rest = strings.Replace(rest, "[]", at, 1)
		}
	}
	return strings.Trim(place+"."+rest, ".")
}

// place is where the message or the tool is that a native field is of, and what of the field is behind it.
func (n *Names) place(native string) (place, rest string, within bool) {
	for list, places := range map[string][]string{"messages[": n.Messages, "tools[": n.Tools} {
		text, ok := strings.CutPrefix(native, list)
		at, rest, _ := strings.Cut(text, "]")
		if i, err := strconv.Atoi(at); ok && err == nil && i < len(places) {
			return places[i], strings.TrimPrefix(rest, "."), true
		}
	}
	return "", "", false
}
