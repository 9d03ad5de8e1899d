// SPDX-License-Identifier: GPL-3.0-or-later

package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-420: the programs use what is installed for them, and nothing is installed that none of them uses.
func TestTheProgramsUseWhatIsInstalled(t *testing.T) {
	var set struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(packages, &set))
	programs, err := filepath.Glob("../../harness/clients/programs/*.mjs")
	require.NoError(t, err)
	require.NotEmpty(t, programs)
	used, from := map[string]bool{}, regexp.MustCompile(`(?m)^import .* from "([^"]+)";$`)
	for _, program := range programs {
		text, err := os.ReadFile(program)
		require.NoError(t, err)
		for _, m := range from.FindAllStringSubmatch(string(text), -1) {
			parts := strings.Split(m[1], "/")
			name := parts[0]
			switch {
			case name == "." || strings.HasPrefix(name, "node:"):
				continue
			case strings.HasPrefix(name, "@"):
				name = strings.Join(parts[:2], "/")
			}
			require.Contains(t, set.Dependencies, name, program)
			used[name] = true
		}
	}
	tests, err := filepath.Glob("../../harness/clients/*_test.go") // which run some of it as programs
	require.NoError(t, err)
	tests = append(tests, "../generate/bindings.go", "../../cmd/llama-orch/bindings/ts.tmpl")
	for _, test := range tests {
		text, err := os.ReadFile(test)
		require.NoError(t, err)
		for name := range set.Dependencies {
			used[name] = used[name] || strings.Contains(string(text), strconv.Quote(name))
		}
	}
	for name := range set.Dependencies {
		require.True(t, used[name], "no program uses %s", name)
	}
}
