// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/service/task"
)

// shelf hands out one download, decides, and keeps records.
type shelf struct {
	mu      sync.Mutex
	data    []byte
	fetched int
	asked   []string
	deny    string
	records []Prepared
	checked []bool // what the downloads' digests were found to be
}

func (s *shelf) Fetch(_ context.Context, _, into, _ string, progress func(done, total int64)) (string, int64, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched++
	progress(int64(len(s.data)), int64(len(s.data)))
	file := filepath.Join(into, "x")
	return file, int64(len(s.data)), "", os.WriteFile(file, s.data, 0o600)
}

func (s *shelf) Decide(_ context.Context, target string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, target)
	if s.deny != "" && strings.Contains(target, s.deny) {
		return task.Errorf(task.PolicyDenied, "the rule says no")
	}
	return nil
}

func (s *shelf) Prepared(e Prepared) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, e)
	return nil
}

func (s *shelf) Checked(engine string, matches bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if engine == task.LlamaCpp {
		s.checked = append(s.checked, matches)
	}
}

// rig is a machine with a cache, a folder of programs at the front of PATH, and a log of their calls.
type rig struct {
	t     *testing.T
	m     Machine
	bin   string
	calls string
	shelf *shelf
	o     Options
	said  *[]string
}

func newRig(t *testing.T) rig {
	t.Helper()
	dir := t.TempDir()
	r := rig{t: t, bin: filepath.Join(dir, "bin"), calls: filepath.Join(dir, "calls"), shelf: &shelf{}, said: &[]string{}}
	require.NoError(t, os.Mkdir(r.bin, 0o755))
	t.Setenv("PATH", r.bin+":"+os.Getenv("PATH"))
	r.m = Machine{CacheDir: filepath.Join(dir, "cache"), Platform: platform(), Jobs: 2, Manager: "apt-get"}
	r.o = Options{CacheDir: r.m.CacheDir, Fetch: r.shelf, Decide: r.shelf, Record: r.shelf, Progress: func(m string) { *r.said = append(*r.said, m) }}
	return r
}

// program puts a script at the front of PATH; it notes how it was called.
func (r rig) program(name, script string) {
	r.t.Helper()
	text := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >> %q\n%s\n", name, r.calls, script)
	require.NoError(r.t, os.WriteFile(filepath.Join(r.bin, name), []byte(text), 0o755))
}

func (r rig) called() []string {
	r.t.Helper()
	data, err := os.ReadFile(r.calls)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(r.t, err)
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (r rig) count(prefix string) (n int) {
	for _, c := range r.called() {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (r rig) run(w Want) (Prepared, error) {
	r.t.Helper()
	return Run(r.t.Context(), r.o, inPlan(r.t, w, r.m))
}

// left returns the names in the folder of a mode, without the locks.
func (r rig) left(mode Mode) (names []string) {
	r.t.Helper()
	entries, err := os.ReadDir(filepath.Join(r.m.CacheDir, "engines", string(mode)))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(r.t, err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			names = append(names, e.Name())
		}
	}
	return names
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

const fakeServer = "#!/bin/sh\necho 'version: 77 (abc)' >&2\necho 'built with cc' >&2\n"

// ORCH-3200, OC-CAT-56
func TestADownloadedEngineIsPreparedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		url, path string
		data      []byte
	}{
		"zip":    {"https://host/llama.zip", "bin/llama-server", zipped(t, member{"bin/llama-server", fakeServer, 0o755}, member{"lib/l.so", "x", 0o644})},
		"tar.gz": {"https://host/llama.tar.gz", "", tarred(t, member{"llama-server", fakeServer, 0o755})},
		"plain":  {"https://host/llama-server", "", []byte(fakeServer)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.shelf.data = c.data
			w := Want{Pool: "p", Mode: Binary, URL: c.url, Digest: digestOf(c.data), Path: c.path}
			first, err := r.run(w)
			require.NoError(t, err)
			require.Equal(t, Prepared{
				Engine: "llamacpp", Mode: Binary, Version: "77 (abc)", BuildRef: w.Digest, Digest: digestOf([]byte(fakeServer)),
				Flags: []string{}, Path: inPlan(t, w, r.m).Program,
			}, first)
			again, err := r.run(w)
			require.NoError(t, err)
			require.Equal(t, first, again)
			require.Equal(t, 1, r.shelf.fetched, "the second time it is in the cache")
			require.Equal(t, []string{c.url}, r.shelf.asked)
			require.Equal(t, []Prepared{first, first}, r.shelf.records)
			require.Len(t, r.left(Binary), 1, "nothing half done is left")

			require.NoError(t, os.WriteFile(first.Path, []byte("changed"), 0o755))
			_, err = r.run(w)
			require.NoError(t, err)
			require.Equal(t, 2, r.shelf.fetched, "what was changed is not run, but prepared again")
			require.Equal(t, []bool{true, true}, r.shelf.checked, "one for each download")
		})
	}
}

// ORCH-3200, ORCH-3037, ORCH-3080
func TestADownloadThatIsNotTheOneIsRefused(t *testing.T) {
	r := newRig(t)
	r.shelf.data = []byte("another program")
	w := Want{Pool: "p", Mode: Binary, URL: "https://host/llama-server", Digest: someDigest}
	_, err := r.run(w)
	require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
	require.Equal(t, []bool{false}, r.shelf.checked)

	r.shelf.deny = "host"
	_, err = r.run(w)
	require.True(t, task.HasCode(err, task.PolicyDenied), "%v", err)
	require.Equal(t, 1, r.shelf.fetched, "no call is made that was denied")

	r.o.Decide = nil
	_, err = r.run(w)
	require.True(t, task.HasCode(err, task.PolicyDenied), "without a policy no call leaves the machine: %v", err)
	r.o.Decide, r.o.Fetch, r.shelf.deny = r.shelf, nil, ""
	_, err = r.run(w)
	require.True(t, task.HasCode(err, task.NotImplemented), "%v", err)

	bad := newRig(t)
	bad.shelf.data = zipped(t, member{"../llama-server", fakeServer, 0o755})
	_, err = bad.run(Want{Pool: "p", Mode: Binary, URL: "https://host/x.zip", Digest: digestOf(bad.shelf.data)})
	require.True(t, task.HasCode(err, task.UntrustedArtifact), "%v", err)
	without := newRig(t)
	without.shelf.data = zipped(t, member{"readme", "", 0o644})
	_, err = without.run(Want{Pool: "p", Mode: Binary, URL: "https://host/x.zip", Digest: digestOf(without.shelf.data)})
	require.ErrorContains(t, err, "llama-server is no program that can be run")
	require.Equal(t, []bool{false}, r.shelf.checked, "nothing else was brought")
	for _, r := range []rig{r, bad, without} {
		require.Empty(t, r.left(Binary))
		require.Empty(t, r.shelf.records)
	}
}

// ORCH-3200
func TestAProgramThatIsThereIsRecorded(t *testing.T) {
	r := newRig(t)
	r.program("llama-server", "exit 1")
	e, err := r.run(Want{Pool: "p", Mode: Binary, Path: "llama-server"})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(r.bin, "llama-server"), e.Path)
	require.Regexp(t, digestPattern, e.Digest)
	require.Empty(t, r.called(), "it is looked at, and not run")
	_, err = r.run(Want{Pool: "p", Mode: Binary, Path: "/nowhere/llama-server"})
	require.ErrorContains(t, err, "no program that can be run")
}

// ORCH-3200
func TestASystemPackageIsInstalledWhereItIsAllowed(t *testing.T) {
	for manager, c := range map[string]struct{ query, absent, present, install string }{
		"apt-get": {"dpkg-query", "echo 'config-files 1.0'", "echo 'installed 2.0-1'", "apt-get install -y --no-install-recommends llama.cpp"},
		"pacman":  {"pacman", "exit 1", "echo 'llama.cpp 2.0-1'", "pacman -S --needed --noconfirm llama.cpp"},
	} {
		t.Run(manager, func(t *testing.T) {
			r := newRig(t)
			r.m.Manager = manager
			flag := filepath.Join(r.bin, "installed")
			script := fmt.Sprintf("if [ -e %[1]q ]; then %[2]s; else %[3]s; fi", flag, c.present, c.absent)
			install := fmt.Sprintf("touch %q; printf '#!/bin/sh\\n' > %q; chmod +x %[2]q", flag, filepath.Join(r.bin, "llama-server"))
			if manager == "pacman" {
				script = fmt.Sprintf("if [ $1 = -S ]; then %s; else %s; fi", install, script)
			} else {
				r.program("apt-get", install)
			}
			r.program(c.query, script)

			w := Want{Pool: "p", Mode: System, Package: "llama.cpp"}
			_, err := MakePlan(w, r.m)
			require.True(t, task.HasCode(err, task.PolicyDenied), "%v", err)
			require.Empty(t, r.called())

			w.AllowPackages = true
			for range 2 {
				e, err := r.run(w)
				require.NoError(t, err)
				require.Equal(t, "2.0-1", e.Version)
				require.Equal(t, filepath.Join(r.bin, "llama-server"), e.Path)
				require.Equal(t, System, e.Mode)
			}
			require.Equal(t, 1, r.count(c.install), "%v", r.called())
			require.Equal(t, []string{"package://" + manager}, r.shelf.asked, "asked only when there is something to fetch")

			r.m.UID = 1000
			r.program("sudo", "shift; exec \"$@\"")
			require.NoError(t, os.Remove(flag))
			_, err = r.run(w)
			require.NoError(t, err)
			require.Equal(t, 1, r.count("sudo -n "+c.install), "%v", r.called())
		})
	}
	r := newRig(t)
	r.program("dpkg-query", "exit 1")
	r.program("apt-get", "echo 'E: Unable to locate package llama.cpp' >&2; exit 100")
	_, err := r.run(Want{Pool: "p", Mode: System, Package: "llama.cpp", AllowPackages: true})
	require.ErrorContains(t, err, "E: Unable to locate package llama.cpp")
}

// ORCH-3200, OC-CAT-56
func TestAnImageIsPulledOnce(t *testing.T) {
	r := newRig(t)
	flag := filepath.Join(r.bin, "pulled")
	r.program("docker", fmt.Sprintf("case $1 in image) [ -e %[1]q ] || exit 1; echo %[2]s;; pull) touch %[1]q;; esac", flag, someDigest))
	w := Want{Pool: "p", Mode: Container, Image: "ghcr.io/org/llama:server"}
	for range 2 {
		e, err := r.run(w)
		require.NoError(t, err)
		require.Equal(t, Prepared{
			Engine: "llamacpp", Mode: Container, Version: w.Image, BuildRef: w.Image, Digest: someDigest, Flags: []string{}, Path: someDigest,
		}, e)
	}
	require.Equal(t, 1, r.count("docker pull --quiet "+w.Image))
	require.Equal(t, []string{"https://ghcr.io"}, r.shelf.asked)
}

// repository makes a git repository with one C program, and gives its commit.
func repository(t *testing.T, program string) (dir, commit string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.c"), []byte(program), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "CMakeLists.txt"), []byte("project(toy C)\nadd_executable(toy main.c)\n"), 0o600))
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@localhost"}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet")
	git("add", ".")
	git("commit", "--quiet", "-m", "toy")
	git("tag", "v1")
	return dir, git("rev-parse", "HEAD")
}

// builders makes fakes of cmake and ninja that only use the C compiler, so that a machine that runs the tests need not have these tools.
func (r rig) builders() {
	r.program("ninja", "exit 1")
	r.program("c++", "exit 1")
	r.program("cmake", `[ "$1" = -S ] && exec mkdir build
set -e
mkdir build/bin
echo "[1/1] building $4"
cc -o "build/bin/$4" source/main.c`)
}

const toy = "#include <stdio.h>\nint main(void) { puts(\"toy\"); return 0; }\n"

// ORCH-3200, OC-CAT-56
func TestAnEngineIsBuiltFromItsSourceOnce(t *testing.T) {
	r := newRig(t)
	r.builders()
	dir, commit := repository(t, toy)
	w := Want{Pool: "p", Mode: Source, Repository: dir, Ref: "v1", Target: "toy", CMakeFlags: []string{"-DTOY=1"}}
	plan := inPlan(t, w, r.m)
	require.NoError(t, os.MkdirAll(filepath.Join(plan.work, "out"), 0o755)) // of one that was killed
	require.NoError(t, os.WriteFile(filepath.Join(plan.work, "out", "half"), nil, 0o600))

	var both sync.WaitGroup
	for range 2 { // two replicas at once
		both.Go(func() {
			o := r.o
			o.Progress = nil
			_, err := Run(t.Context(), o, plan)
			require.NoError(t, err)
		})
	}
	both.Wait()
	require.Equal(t, 1, r.count("cmake --build build --target toy --parallel 2"), "%v", r.called())
	require.Equal(t, 1, r.count("cmake -S source -B build -G Ninja -DCMAKE_BUILD_TYPE=Release"))
	e := r.shelf.records[0]
	require.Equal(t, commit, e.BuildRef)
	require.Equal(t, "v1", e.Version)
	require.Equal(t, "-DTOY=1", e.Flags[len(e.Flags)-1])
	require.Equal(t, plan.Program, e.Path)
	require.Equal(t, []string{filepath.Base(plan.Folder)}, r.left(Source))
	require.NoFileExists(t, filepath.Join(plan.Folder, "half"))
	out, err := exec.Command(e.Path).Output()
	require.NoError(t, err)
	require.Equal(t, "toy\n", string(out))

	w.CMakeFlags = []string{"-DTOY=2"}
	other, err := r.run(w)
	require.NoError(t, err)
	require.NotEqual(t, e.Path, other.Path, "other flags, another engine")
	require.Len(t, r.left(Source), 2)
}

// ORCH-3200
func TestABuildThatFailsSaysWhatTheCompilerSaid(t *testing.T) {
	r := newRig(t)
	r.builders()
	dir, _ := repository(t, "#error broken on purpose\n")
	w := Want{Pool: "p", Mode: Source, Repository: dir, Target: "toy"}
	_, err := r.run(w)
	require.ErrorContains(t, err, "broken on purpose")
	require.ErrorContains(t, err, "cmake --build build --target")
	require.Less(t, len(err.Error()), (keptLines+2)*lineBytes)
	require.Empty(t, r.left(Source))

	w.Ref = "no-such-tag"
	_, err = r.run(w)
	require.ErrorContains(t, err, "no-such-tag")
	require.Empty(t, r.left(Source))
	require.Empty(t, r.shelf.records)
}

// ORCH-3200
func TestAnEndedBuildLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.builders()
	r.program("cmake", `[ "$1" = -S ] && exec mkdir build
sleep 600 &
echo "children $$ $!"
wait`)
	dir, _ := repository(t, toy)
	plan := inPlan(t, Want{Pool: "p", Mode: Source, Repository: dir, Target: "toy"}, r.m)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the pool is not wanted any more")
	var pids []int
	r.o.Output = func(line string) {
		if rest, ok := strings.CutPrefix(line, "children "); ok {
			for text := range strings.FieldsSeq(rest) {
				pid, err := strconv.Atoi(text)
				require.NoError(t, err)
				pids = append(pids, pid)
			}
			cancel(why)
		}
	}
	_, err := Run(ctx, r.o, plan)
	require.ErrorIs(t, err, why)
	require.Len(t, pids, 2)
	require.ErrorIs(t, unix.Kill(pids[0], 0), unix.ESRCH)
	require.Eventually(t, func() bool { return ended(pids[1]) }, bound, tick, "its children end with it")
	require.Empty(t, r.left(Source))
}

// ORCH-3200
func TestCommandsInheritNoSecret(t *testing.T) {
	t.Setenv("LLORCH_API_TOKEN", "secret")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	env := strings.Join(environment([]string{"LC_ALL=C"}), "\n")
	require.NotContains(t, env, "secret")
	require.Contains(t, env, "HTTPS_PROXY=")
	require.Contains(t, env, "PATH=")
	require.True(t, strings.HasSuffix(env, "\nLC_ALL=C"))
}

const (
	bound = 10 * time.Second
	tick  = 5 * time.Millisecond
)

// ended reports whether a process is gone, or a zombie that nobody has reaped yet.
func ended(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	text := string(data)
	return strings.HasPrefix(text[strings.LastIndexByte(text, ')')+1:], " Z")
}

// LO-803: where somebody who is shown the lines of a command panics, the command ends, and the panic is the caller's.
func TestAPanicOfWhoIsShownTheLinesIsTheCallers(t *testing.T) {
	shown := 0
	require.PanicsWithError(t, "panic: index out of range", func() {
		_, _ = command(t.Context(), t.TempDir(), nil, []string{"/bin/sh", "-c", "echo one; echo two"}, func(string) {
			shown++
			panic("index out of range")
		})
	})
	require.Equal(t, 1, shown)
}
