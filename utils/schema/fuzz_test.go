// SPDX-License-Identifier: GPL-3.0-or-later

package schema

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzCheck: whatever the schema and the answer are, the schema is compiled or refused, and the answer is held to it or told where it is not.
//
// LO-916, LO-861
func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"type":"object","properties":{"a":{"type":"string","pattern":"^b"}},"required":["a"],"additionalProperties":false}`), []byte(`{"a":"b","c":1}`))
	f.Add([]byte(`{"$ref":"#/$defs/x","$defs":{"x":{"type":"array","items":{"$ref":"#/$defs/x"}}}}`), []byte(`[[[]]]`))
	f.Add([]byte(`{"$ref":"#"}`), []byte("{"))
	f.Add([]byte(`{"$ref":"file:///etc/passwd"}`), []byte("1"))
	f.Fuzz(func(t *testing.T, schema, answer []byte) {
		s, err := Compile(schema)
		if err != nil {
			_, ok := errors.AsType[*InvalidError](err)
			require.True(t, ok, "%v", err)
			return
		}
		_ = s.Required()
		err = s.Check(answer)
		if err == nil {
			require.True(t, json.Valid(answer))
			return
		}
		_, broken := errors.AsType[*BrokenError](err)
		mismatch, _ := errors.AsType[*MismatchError](err)
		require.True(t, broken || len(mismatch.Problems) > 0)
	})
}
