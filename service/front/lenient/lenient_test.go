// SPDX-License-Identifier: GPL-3.0-or-later

package lenient

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/task"
)

// LO-403: templates take one system message, at the beginning.
func TestOneSystem(t *testing.T) {
	user, system := task.Message{Role: "user", Content: "u"}, task.Message{Role: "system", Content: "s"}
	require.Equal(t, []task.Message{user}, OneSystem([]task.Message{user}))
	require.Equal(t, []task.Message{{Role: "system", Content: "s\n\ns"}, user, user}, OneSystem([]task.Message{user, system, user, system}))
	require.Empty(t, OneSystem(nil))
}

// LO-403: images and schemas, and what is none.
func TestImagesAndSchemas(t *testing.T) {
	image, err := DataImage("p", "data:image/png;base64,aGk=")
	require.NoError(t, err)
	require.Equal(t, &task.Image{MIME: "image/png", Data: []byte("hi")}, image)
	image, err = DataImage("p", "data:image/jpg;base64,aGk")
	require.NoError(t, err)
	require.Equal(t, "image/jpeg", image.MIME)
	for _, uri := range []string{"http://127.0.0.1/a.png", "data:image/png,hi", "data:image/png;base64", "data:image/png;base64,%%", "data:text/html;base64,aGk=", ""} {
		_, err := DataImage("p", uri)
		wrong, ok := errors.AsType[*ParamError](err)
		require.True(t, ok, uri)
		require.Equal(t, "p", wrong.Param)
		require.True(t, task.HasCode(err, task.InvalidParams))
	}
	for raw, want := range map[string]string{"": "", "null": "", ` {"type":"object"}`: `{"type":"object"}`} {
		schema, err := Schema("p", json.RawMessage(raw))
		require.NoError(t, err)
		require.Equal(t, want, string(schema))
	}
	for _, raw := range []string{"1", `"x"`, "[]", "true"} {
		_, err := Schema("p", json.RawMessage(raw))
		require.True(t, task.HasCode(err, task.InvalidParams), raw)
	}
}
