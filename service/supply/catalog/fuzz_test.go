// SPDX-License-Identifier: GPL-3.0-or-later

package catalog

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"aead.dev/minisign"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// FuzzSignature: whatever is sent as a signature, it is read whole, or refused.
//
// ORCH-3037, LO-861
func FuzzSignature(f *testing.F) {
	_, key, err := minisign.GenerateKey(nil)
	require.NoError(f, err)
	good := minisign.Sign(key, []byte("model"))
	f.Add(base64.StdEncoding.EncodeToString(good))
	f.Add(base64.StdEncoding.EncodeToString(good[:len(good)/2]))
	f.Add("====")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := readSignature(text)
		if err != nil {
			require.True(t, task.HasCode(err, task.InvalidParams))
			return
		}
		again, err := s.MarshalText()
		require.NoError(t, err)
		back, err := readSignature(base64.StdEncoding.EncodeToString(again))
		require.NoError(t, err)
		require.Equal(t, s, back)
		require.NotEqual(t, pass, trust{}.check(hashed{}, "", text).result, "nobody has said which keys are trusted")
	})
}

// FuzzRecord: whatever stands in the file of a model, what is read of it keeps within its folder, or the file is set aside.
//
// ORCH-3060, LO-861
func FuzzRecord(f *testing.F) {
	const id = "0123456789abcdef0123456789abcdef"
	good, err := json.Marshal(record{Model: Model{ID: id, Ref: "file:/m.gguf", State: Fetching}, Files: []File{{Name: "m.gguf", Size: 3}}})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"id":"` + id + `","ref":"file:/m","state":"retired","at":"../x","cached":true,"files":[{"name":"/etc/passwd"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		d, err := openDisk(dir)
		require.NoError(t, err)
		defer func() { _ = d.root.Close() }()
		require.NoError(t, os.WriteFile(filepath.Join(dir, recordName(id)), text, 0o600))
		c := &Catalog{disk: d, log: zap.NewNop(), byID: map[string]*entry{}, byRef: map[string]*entry{}}
		require.NoError(t, c.loadOne(id))
		for _, e := range c.byID {
			require.NoError(t, e.rec.sound(id))
			require.True(t, e.rec.At == "" || !e.rec.Cached || filepath.IsLocal(e.rec.At))
		}
	})
}
