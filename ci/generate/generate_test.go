// SPDX-License-Identifier: GPL-3.0-or-later

package generate

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsStaleIsNamed(t *testing.T) {
	have := map[string][]byte{"same.go": []byte("a"), "edited.go": []byte("b"), "dropped.go": []byte("c")}
	want := map[string][]byte{"same.go": []byte("a"), "edited.go": []byte("B"), "new/one.go": []byte("d")}
	require.Equal(t, []string{"gen/dropped.go", "gen/edited.go", "gen/new/one.go"}, differences("gen", have, want))
	require.Empty(t, differences("gen", want, want))
}

// ogen sees one error for all, and no answer that handlers write themselves. Everything else stays, in its order.
//
// LO-845
func TestTheGeneratorSeesOneErrorForAll(t *testing.T) {
	const before = `
paths:
  /b:
    parameters: [{name: id}]
    get:
      operationId: read
      responses:
        "200": {content: {"*/*": {schema: {type: string}}}}
        "206": {content: {"*/*": {schema: {type: string}}}}
        "404": {$ref: "#/components/responses/NotFound"}
components:
  responses:
    NotFound: {description: no}
  schemas: {z: {type: string}, a: {type: string}}
`
	made, err := view([]byte(before))
	require.NoError(t, err)
	text := string(made)
	require.NotContains(t, text, `"206"`)
	require.NotContains(t, text, `"404"`)
	require.NotContains(t, text, `*/*`)
	require.Regexp(t, `(?s)"200": .*application/octet-stream.*default:.*responses/Error`, text)
	require.Regexp(t, `(?s)NotFound: .*Error:.*schemas: .*z: .*a: `, text)

	_, err = view([]byte("paths: {}"))
	require.ErrorContains(t, err, "no shared answers")
}

func TestATreeIsReadWhole(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "in"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "top"), []byte("1"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in", "deep"), []byte("2"), 0o600))
	files, err := readTree(dir)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"top": []byte("1"), "in/deep": []byte("2")}, files)

	_, err = readTree(filepath.Join(dir, "missing"))
	require.ErrorContains(t, err, "run `go tool mage gen`")
}
