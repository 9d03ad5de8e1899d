// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/llama-orch/llama-orch/service/task"
)

var update = flag.Bool("update", false, "write the golden files anew")

const someDigest = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// laptop is a made-up machine.
func laptop() Machine {
	return Machine{CacheDir: "/cache", Platform: "linux-x64", Jobs: 4, UID: 1000, GID: 1000, Manager: "pacman"}
}

func wants() []Want {
	return []Want{
		{Pool: "builtin", Mode: Builtin},
		{Pool: "builtin-gpu", Mode: Builtin, GPU: true},
		{Pool: "external", Mode: External, URLs: []string{"http://10.0.0.2:9700"}},
		{Pool: "binary", Mode: Binary, Path: "/opt/llama-server"},
		{Pool: "binary-zip", Mode: Binary, URL: "https://host/llama.zip", Digest: someDigest, Path: "build/bin/llama-server"},
		{Pool: "binary-plain", Mode: Binary, URL: "https://host/llama-server", Digest: someDigest},
		{Pool: "package", Mode: System, Package: "llama.cpp", AllowPackages: true},
		{Pool: "container", Mode: Container, Image: "ghcr.io/ggml-org/llama.cpp:server", Model: "/models/a b.gguf"},
		{Pool: "container-gpu", Mode: Container, Image: "llama@" + someDigest, GPU: true},
		{Pool: "container-podman", Mode: Container, Runtime: "podman", Image: "localhost/llama:1", GPU: true},
		{Pool: "source", Mode: Source},
		{Pool: "source-cuda", Mode: Source, Repository: "https://host/llama.git", Ref: "release/v1", CMakeFlags: []string{"-DGGML_CUDA=ON"}},
	}
}

func inPlan(t *testing.T, w Want, m Machine) Plan {
	t.Helper()
	p, err := MakePlan(w, m)
	require.NoError(t, err)
	return p
}

// ORCH-3200
func TestPlansAreExactlyThese(t *testing.T) {
	t.Setenv(EnvEngineLibs, "")
	var b strings.Builder
	for _, w := range wants() {
		b.WriteString(inPlan(t, w, laptop()).String() + "\n")
	}
	debian := laptop()
	debian.Manager, debian.UID = "apt-get", 0
	b.WriteString(inPlan(t, wants()[6], debian).String())
	got := strings.ReplaceAll(b.String(), "/"+Version+"-"+platform(), "/"+Version+"-PLATFORM")
	got = strings.ReplaceAll(got, ".preparing-"+Version+"-"+platform(), ".preparing-"+Version+"-PLATFORM")
	golden := filepath.Join("testdata", "plans.txt")
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// The same want on the same machine has the same plan, byte for byte. Other content has another folder.
//
// ORCH-3200
func TestPlansAreDeterministic(t *testing.T) {
	t.Setenv(EnvEngineLibs, "")
	folders := map[string]string{}
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.SampledFrom(wants()).Draw(t, "want")
		w.Ref = rapid.SampledFrom([]string{"", "v1", "v2", "0123abc"}).Draw(t, "ref")
		w.CMakeFlags = rapid.SliceOfN(rapid.SampledFrom([]string{"-DA=1", "-DA=2", "-DB:BOOL=ON"}), 0, 3).Draw(t, "flags")
		m := laptop()
		m.Jobs = rapid.IntRange(1, 64).Draw(t, "jobs")
		m.Manager = rapid.SampledFrom([]string{"pacman", "apt-get"}).Draw(t, "manager")
		first, err := MakePlan(w, m)
		require.NoError(t, err)
		again, err := MakePlan(w, m)
		require.NoError(t, err)
		one, err := json.Marshal(first)
		require.NoError(t, err)
		two, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(one), string(two))
		require.Equal(t, first.String(), again.String())
		if w.Mode != Source {
			return
		}
		made, err := json.Marshal([]any{w.Repository, first.BuildRef, first.Flags})
		require.NoError(t, err)
		if before, seen := folders[first.Folder]; seen {
			require.Equal(t, before, string(made), "one folder, two contents")
		}
		folders[first.Folder] = string(made)
	})
}

// ORCH-3200, LO-807
func TestAContainerGetsAllPartsOfAModel(t *testing.T) {
	plan, err := MakePlan(Want{Mode: Container, Image: "x", Model: "/srv/m-00002-of-00002.gguf"}, laptop())
	require.NoError(t, err)
	require.Contains(t, plan.String(), "--mount type=bind,source=/srv/m-00001-of-00002.gguf,target=/models/model-00001-of-00002.gguf,readonly "+
		"--mount type=bind,source=/srv/m-00002-of-00002.gguf,target=/models/model-00002-of-00002.gguf,readonly")
}

// ORCH-3200
func TestWhatCannotBePlannedIsTyped(t *testing.T) {
	for name, c := range map[string]struct {
		want Want
		code task.Code
		says string
	}{
		"mode":              {Want{Mode: "magic"}, task.InvalidParams, "use builtin, external, binary, package, container or source"},
		"no program":        {Want{Mode: Binary}, task.InvalidParams, "`path`"},
		"in the clear":      {Want{Mode: Binary, URL: "http://h/x", Digest: someDigest}, task.InvalidParams, "https://"},
		"credentials":       {Want{Mode: Binary, URL: "https://u:p@h/x", Digest: someDigest}, task.InvalidParams, "leave them out"},
		"no digest":         {Want{Mode: Binary, URL: "https://h/x"}, task.InvalidParams, "provisioning.digest"},
		"out of archive":    {Want{Mode: Binary, URL: "https://h/x", Digest: someDigest, Path: "../x"}, task.InvalidParams, "inside the archive"},
		"not allowed":       {Want{Mode: System, Package: "llama.cpp"}, task.PolicyDenied, "allow_system_packages: true"},
		"package option":    {Want{Mode: System, Package: "--root", AllowPackages: true}, task.InvalidParams, "names no package"},
		"image option":      {Want{Mode: Container, Image: "--privileged"}, task.InvalidParams, "names no image"},
		"runtime":           {Want{Mode: Container, Image: "x", Runtime: "sh"}, task.InvalidParams, "docker or podman"},
		"mount with comma":  {Want{Mode: Container, Image: "x", Model: "/m,ro=no"}, task.InvalidParams, "comma"},
		"ref option":        {Want{Mode: Source, Ref: "--upload-pack=x"}, task.InvalidParams, "no branch, tag or commit"},
		"ref range":         {Want{Mode: Source, Ref: "a..b"}, task.InvalidParams, "no branch, tag or commit"},
		"flag":              {Want{Mode: Source, CMakeFlags: []string{"-P/x"}}, task.InvalidParams, "-DNAME=VALUE"},
		"no such part":      {Want{Mode: Container, Image: "x", Model: "/m-00003-of-00002.gguf"}, task.InvalidParams, "not part of a split model"},
		"target":            {Want{Mode: Source, Target: "../x"}, task.InvalidParams, "no target"},
		"protocol":          {Want{Mode: Source, Repository: "ssh://h/x"}, task.InvalidParams, "https://"},
		"relative":          {Want{Mode: Source, Repository: "x.bundle"}, task.InvalidParams, "absolute"},
		"absent repository": {Want{Mode: Source, Repository: "/nowhere/x.bundle"}, task.InvalidParams, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := MakePlan(c.want, laptop())
			require.True(t, task.HasCode(err, c.code), "%v", err)
			require.ErrorContains(t, err, c.says)
		})
	}
	m := laptop()
	m.Manager = ""
	_, err := MakePlan(Want{Mode: System, Package: "llama.cpp", AllowPackages: true}, m)
	require.ErrorContains(t, err, "neither pacman nor apt-get")
}

// ORCH-3200
func TestPreflightNamesWhatIsMissingAndHowToGetIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	m := laptop()
	for mode, says := range map[string]string{
		"builtin":       "missing on this machine: npm. Debian: apt-get install -y npm; Arch: pacman -S --needed npm",
		"container-gpu": "missing on this machine: docker, nvidia-ctk. Debian: apt-get install -y docker.io nvidia-container-toolkit; Arch: pacman -S --needed docker nvidia-container-toolkit",
		"source":        "missing on this machine: npm, git, cmake, ninja, c++. Debian: apt-get install -y npm git cmake ninja-build g++; Arch: pacman -S --needed npm git cmake ninja gcc",
		"source-cuda":   "missing on this machine: git, cmake, ninja, c++, nvcc. Debian: apt-get install -y git cmake ninja-build g++ nvidia-cuda-toolkit; Arch: pacman -S --needed git cmake ninja gcc cuda",
		"external":      "",
		"binary-zip":    "",
	} {
		for _, w := range wants() {
			if w.Pool != mode {
				continue
			}
			t.Setenv(EnvEngineLibs, "")
			err := Preflight(inPlan(t, w, m))
			if says == "" {
				require.NoError(t, err, mode)
			} else {
				require.EqualError(t, err, says, mode)
			}
		}
	}
	_, err := Run(t.Context(), Options{Decide: ByHand{}}, inPlan(t, Want{Pool: "p", Mode: Source}, Machine{CacheDir: t.TempDir(), Platform: "p"}))
	require.ErrorContains(t, err, "missing on this machine: npm, git, cmake", "before anything is run")
}
