// SPDX-License-Identifier: GPL-3.0-or-later

package fetch_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/supply/fetch"
	"github.com/llama-orch/llama-orch/service/task"
)

// ORCH-3090
func TestRefs(t *testing.T) {
	for text, want := range map[string]string{
		"hf:org/repo/m.gguf": "hf:org/repo/m.gguf", " HF://org/repo/ ": "hf:org/repo", "hf:org/repo@v1.0/sub dir/m.GGUF": "hf:org/repo@v1.0/sub dir/m.GGUF",
		"https://Host.example:443/a/m.gguf?k=v#x": "https://host.example/a/m.gguf?k=v", "s3://bucket/a/b.gguf": "s3:bucket/a/b.gguf",
		"oci:reg.example:5000/a/b:v1": "oci:reg.example:5000/a/b:v1", "oci:reg.example/a": "oci:reg.example/a", "file:///m/../n.gguf": "file:/n.gguf", "file:/m.gguf": "file:/m.gguf",
	} {
		ref, err := fetch.ParseRef(text)
		require.NoError(t, err, text)
		require.Equal(t, want, ref.String())
		require.Equal(t, want, config.Config{Dir: "/"}.CanonicalRef(text), "the configuration spells it the same")
	}
	for _, text := range []string{
		"", "m.gguf", "hf:", "hf:org", "hf:org/..", "hf:org/repo/../x.gguf", "hf:org/repo/m.bin", "hf:../x/m.gguf", "hf:org/repo@/m.gguf", "hf:org/repo@../m.gguf", "hf:o?rg/repo", "hf:org//m.gguf",
		"hf:org/repo/a\\..\\m.gguf", "hf:org/repo/a\x00.gguf", "https:", "https://", "https://host", "https://host/", "https://user:PWSECRET@host/m", "https://host/a/../m", "https://host/%2e%2e/m", "https:/host/m",
		"http://host/m.gguf", "ftp://host/m", "s3:bucket", "s3:B/k", "s3:a/k", "s3:buck..et/k", "s3:bucket/../k", "s3:bucket/a/./k", "oci:reg", "oci:reg.example/A", "oci:reg.example/a:b:c",
		"oci:reg.example/../a", "file:m.gguf", "file:", "file://other/m.gguf", "file:~/m.gguf", "hf:org/repo/" + strings.Repeat("a", 3000) + ".gguf", "hf:org/repo/\xff.gguf",
	} {
		_, err := fetch.ParseRef(text)
		require.True(t, task.HasCode(err, task.InvalidParams), "%q: %v", text, err)
		require.NotContains(t, err.Error(), "SECRET")
		require.Less(t, len(err.Error()), 1000)
	}
	a, b := parse(t, "hf:org/repo/a/m.gguf"), parse(t, "hf:org/repo/b/m.gguf")
	require.NotEqual(t, a.Folder(), b.Folder())
	require.Equal(t, "https://host/m", parse(t, "https://host/m?token=x").Shown())
}

func FuzzRef(f *testing.F) {
	for _, seed := range []string{
		"hf:org/repo/m.gguf", "hf:org/repo@main", "https://h/%2e%2e/m?x#y", "s3:bucket/a/../b", "oci:r.io/a/b@sha256:00", "file:///a/./b", "https://u@h/x", "hf:a/b/..%2f.gguf",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := fetch.ParseRef(text)
		if err != nil {
			require.True(t, task.HasCode(err, task.InvalidParams))
			require.Less(t, len(err.Error()), 2000)
			return
		}
		again, err := fetch.ParseRef(ref.String())
		require.NoError(t, err, ref.String())
		require.Equal(t, ref.String(), again.String())
		require.Equal(t, ref.Folder(), again.Folder())
		require.Equal(t, ref.String(), config.Config{Dir: "/"}.CanonicalRef(ref.String()), "the configuration spells it the same")
		folder := ref.Folder()
		require.True(t, filepath.IsLocal(folder) && folder == filepath.Base(folder) && len(folder) < 80 && folder[0] != '.', folder)
		require.Less(t, len(ref.Shown()), 300)
	})
}
