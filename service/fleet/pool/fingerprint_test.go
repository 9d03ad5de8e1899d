// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-204, LO-205, ORCH-3045
func TestEveryFactChangesTheFingerprint(t *testing.T) {
	base := Facts{
		Engine: "llamacpp", Build: "b1", EngineDigest: "sha256:1", ModelDigest: "sha256:2", Device: "cpu:x", Threads: 1, Ctx: 256,
		Slots: 1, Batch: 2048, Flags: []string{"-a", "b"},
	}
	first, again := Fingerprint(base), Fingerprint(base)
	require.Equal(t, first, again)
	require.Regexp(t, `^fp-[0-9a-f]{16}$`, first)
	seen := map[string]string{first: "none"}
	for i := range reflect.TypeFor[Facts]().NumField() {
		changed := base
		field := reflect.ValueOf(&changed).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString(field.String() + "x")
		case reflect.Int:
			field.SetInt(field.Int() + 1)
		case reflect.Slice:
			field.Set(reflect.ValueOf([]string{"-a b"}))
		default:
			t.Fatalf("a fact of kind %s", field.Kind())
		}
		name, changedPrint := reflect.TypeFor[Facts]().Field(i).Name, Fingerprint(changed)
		require.NotContains(t, seen, changedPrint, "%s changes nothing", name)
		seen[changedPrint] = name
	}
	require.Equal(t, Fingerprint(Facts{}), Fingerprint(Facts{Flags: []string{}}))
}

// LO-205
func TestCPUClassIsModelAndInstructionSets(t *testing.T) {
	const info = "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: fpu ibrs avx2 sse2 avx\ncpu MHz\t\t: 1234\n\nprocessor\t: 1\nmodel name\t: Other\n"
	require.Equal(t, "Some CPU @ 2GHz;avx,avx2,sse2", cpuClass(strings.NewReader(info)))
	same := strings.ReplaceAll(strings.ReplaceAll(info, "1234", "999"), "ibrs", "ibpb")
	require.Equal(t, cpuClass(strings.NewReader(info)), cpuClass(strings.NewReader(same)))
	require.Regexp(t, `^cpu:.+;.+`, cpuDevice())
}

// ORCH-3002
func TestSmallModelsGetOneThread(t *testing.T) {
	require.Equal(t, 1, defaultThreads(2<<20, 16))
	require.Equal(t, 8, defaultThreads(1<<30, 16))
	require.Equal(t, 1, defaultThreads(1<<30, 1))
}

// ORCH-3037
func TestADigestIsComputedAgainWhenTheFileChanged(t *testing.T) {
	var d digests
	path := t.TempDir() + "/f"
	sum := func(content string) string {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		s, err := d.of(t.Context(), path)
		require.NoError(t, err)
		return s.Digest
	}
	require.Equal(t, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", sum("abc"))
	require.NotEqual(t, sum("abc"), sum("abcd"))
}
