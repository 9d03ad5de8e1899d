// SPDX-License-Identifier: GPL-3.0-or-later

package handbook_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// blocks are all blocks of a language in a document.
func blocks(t *testing.T, file, language string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			all = append(all, m[2])
		}
	}
	require.NotEmpty(t, all, "%s has no block of %s", file, language)
	return all
}

// The blocks of each guide run one after the other in one shell, as somebody would paste them, and nothing in them is refused.
//
// LO-648
func TestTheGuides(t *testing.T) {
	for _, file := range []string{".docs/api.md", ".docs/own-model.md"} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			p := newPlace(t)
			p.up(t)
			out, errs, err := p.paste(t, "set -o pipefail\n"+strings.Join(blocks(t, file, "bash"), "\n"))
			require.NoError(t, err, "%s\n%s", out, errs)
			require.NotEmpty(t, out)
			require.NotRegexp(t, `(?m)^(data: )?\{"(code|error)":`, out, "it is a refusal")
		})
	}
}

// The configurations in the guides are taken as they are, on a machine that has the engine which they name.
//
// LO-648
func TestTheConfigurationsOfTheGuides(t *testing.T) {
	p := newPlace(t)
	tools := filepath.Join(p.dir, "tools")
	require.NoError(t, os.Mkdir(tools, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(tools, "llama-server"), []byte("#!/bin/sh\n"), 0o755))
	p.env = append(p.env, "PATH="+tools+":"+os.Getenv("PATH"))
	for _, file := range []string{".docs/own-model.md"} {
		for i, config := range blocks(t, file, "yaml") {
			name := filepath.Join(p.dir, fmt.Sprintf("guide-%d.yaml", i))
			require.NoError(t, os.WriteFile(name, []byte(config), 0o600))
			out, errs, err := p.paste(t, "bin/orchestratord check --config "+name)
			require.NoError(t, err, "%s\n%s\n%s", file, out, errs)
			require.Contains(t, out, "would serve", file)
		}
	}
}
