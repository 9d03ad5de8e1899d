// SPDX-License-Identifier: GPL-3.0-or-later

//go:build packaged

package release

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/debian"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// there is the repository, of which the targets are run.
func there(t *testing.T) context.Context {
	t.Helper()
	t.Chdir("../..")
	return t.Context()
}

var at = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// groups makes a control group of its own for a process, in each tree in which a machine in namespaces takes part, and takes it away at the end.
func groups(t *testing.T, pid int) {
	t.Helper()
	trees := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil { // version 1
		trees = []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/devices"}
	}
	for _, tree := range trees {
		group := filepath.Join(tree, fmt.Sprintf("llama-orch-life-%d", pid))
		require.NoError(t, os.Mkdir(group, 0o755))
		t.Cleanup(func() {
			var all []string
			_ = filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			for _, path := range slices.Backward(all) {
				_ = os.Remove(path)
			}
		})
		require.NoError(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), fmt.Append(nil, pid), 0o600))
	}
}

// boot starts a Debian of its own with systemd, whose /root has the files, and returns what runs a command in it.
func boot(t *testing.T, files ...string) func(command ...string) *exec.Cmd {
	t.Helper()
	base, err := debian.Root(t.Context(), func(said string) { t.Log(said) }, "systemd", "systemd-sysv", "libffi8", "libstdc++6")
	require.NoError(t, err)
	// It waits for a line, and so for its control group, before it takes its namespaces.
	machine := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `read -r go; exec unshare -m -p -n -u -i -C --fork --kill-child "$@"`, "sh", "bash", "ci/release/testdata/boot.sh", base}, files...)...)
	stdin, err := machine.StdinPipe()
	require.NoError(t, err)
	var said strings.Builder
	machine.Stdout, machine.Stderr = &said, &said
	require.NoError(t, machine.Start())
	groups(t, machine.Process.Pid)
	t.Cleanup(func() {
		_ = machine.Process.Kill() // and so the first process in its namespaces, and with it all others there
		_ = machine.Wait()
	})
	_, err = stdin.Write([]byte("go\n"))
	require.NoError(t, err)
	first := ""
	inside := func(command ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "nsenter", append([]string{
			"-t", first, "-m", "-p", "-n", "-u", "-i", "-C", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "LC_ALL=C.UTF-8",
		}, command...)...)
	}
	require.NoError(t, watch.Poll(t.Context(), "the machine", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", machine.Process.Pid))
		if first = strings.TrimSpace(string(children)); err != nil || first == "" {
			return fmt.Errorf("it has no process yet (%w): %s", err, said.String())
		}
		name, err := os.ReadFile("/proc/" + first + "/comm")
		if err != nil || strings.TrimSpace(string(name)) != "systemd" {
			return fmt.Errorf("systemd does not run in it yet, but %s (%w): %s", name, err, said.String())
		}
		state, err := inside("systemctl", "is-system-running").CombinedOutput()
		if strings.TrimSpace(string(state)) != "running" {
			return fmt.Errorf("it is %s (%w)", state, err)
		}
		return nil
	}))
	return inside
}

// LO-621, LO-634, LO-635, LO-636, LO-639: on a Debian of its own, by dpkg and under systemd: what is installed, started, reloaded, killed, hung, upgraded with tasks in flight, backed up, restored, removed and purged.
func TestTheLifeOfAPackage(t *testing.T) {
	ctx := there(t)
	require.Zero(t, os.Geteuid(), "this needs root: it boots a Debian in namespaces of its own, and changes nothing of the machine")
	dir := t.TempDir()
	life := filepath.Join(dir, "life.sh")
	text, err := os.ReadFile("ci/release/testdata/life.sh")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(life, text, 0o600))
	files := []string{life}
	for name, version := range map[string]string{"old.deb": "1.0.0", "new.deb": "1.0.1"} {
		made, err := source{version: version, commit: "abc", at: at}.packages(ctx, filepath.Join(dir, version))
		require.NoError(t, err)
		require.Len(t, made, 2)
		files = append(files, filepath.Join(dir, name))
		require.NoError(t, os.Rename(made[1], files[len(files)-1]))
	}
	inside := boot(t, files...)
	out, err := inside("bash", "/root/life.sh", "1.0.0", "1.0.1").CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "== done")
}

// LO-637, LO-638: another checkout of the same commit makes the same bytes, packages, archive, bills and sums.
func TestTwoReleasesOfOneCommitAreTheSame(t *testing.T) {
	ctx := there(t)
	s := source{version: "1.0.0", commit: "abc", at: at}
	dir := t.TempDir()
	first, second, elsewhere := filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "elsewhere")
	require.NoError(t, s.release(ctx, first, []string{runtime.GOARCH}))
	list, err := exec.CommandContext(ctx, "sh", "-c", `mkdir "$0" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$0"`, elsewhere).CombinedOutput()
	require.NoError(t, err, "%s", list)
	t.Chdir(elsewhere)
	require.NoError(t, s.release(ctx, second, []string{runtime.GOARCH}))
	want, err := os.ReadFile(filepath.Join(first, sumsName))
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(second, sumsName))
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	require.Len(t, got, len(want))
	check := exec.CommandContext(ctx, "sha256sum", "-c", sumsName)
	check.Dir = first
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// LO-638: a key with a password, which takes seconds on purpose.
func TestAKeyWithAPassword(t *testing.T) {
	public, secret, err := minisign.GenerateKey(rand.Reader)
	require.NoError(t, err)
	locked, err := minisign.EncryptKey("a password", secret)
	require.NoError(t, err)
	key := filepath.Join(t.TempDir(), "throwaway.key")
	require.NoError(t, os.WriteFile(key, locked, 0o600))
	_, err = secretKey(key, "another")
	require.Error(t, err)
	got, err := secretKey(key, "a password")
	require.NoError(t, err)
	require.True(t, public.Equal(got.Public()))
}
