// SPDX-License-Identifier: GPL-3.0-or-later

package keptfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/keptfile"
)

type content struct {
	Names []string `json:"names"`
}

func check(c content) error {
	if len(c.Names) == 0 {
		return errors.New("it has no names")
	}
	return nil
}

func TestWhatWasKeptIsRecalled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names.json")
	got, err := keptfile.Recall(path, "the names", check, time.Now(), zap.NewNop())
	require.NoError(t, err, "there is no file yet")
	require.Empty(t, got)
	require.NoError(t, keptfile.Keep(path, content{[]string{"a", "b"}}))
	got, err = keptfile.Recall(path, "the names", check, time.Now(), zap.NewNop())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, got.Names)
}

func TestAFileThatCannotBeUsedIsSetAside(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "an unknown field": `{"names": ["a"], "more": 1}`, "more behind it": `{"names": ["a"]} {}`, "what makes no sense": `{"names": []}`,
		"too large": `{"names": ["` + strings.Repeat("a", 5<<20) + `"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "names.json")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			core, logs := observer.New(zap.WarnLevel)
			got, err := keptfile.Recall(path, "the names", check, time.Unix(0, 0), zap.New(core))
			require.NoError(t, err)
			require.Empty(t, got)
			require.NoFileExists(t, path)
			aside, err := os.ReadFile(path + ".aside-19700101T000000.000Z")
			require.NoError(t, err)
			require.Equal(t, text, string(aside))
			require.Equal(t, 1, logs.FilterMessageSnippet("the names cannot be read").Len())
		})
	}
}
