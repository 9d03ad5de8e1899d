// SPDX-License-Identifier: GPL-3.0-or-later

package release

import (
	"bytes"
	"crypto/rand"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/service/config"
)

var commitTime = time.Date(2026, 12, 1, 14, 30, 0, 0, time.UTC)

// LO-636: a version begins with a digit and grows as commits do; what dpkg and pacman take for a separator is not in it.
func TestVersionsOfPackages(t *testing.T) {
	for described, want := range map[string]string{
		"abcdef123456":            "0.0.0+20261201143000.abcdef123456",
		"v1.2.0-0-gabcdef123456":  "1.2.0",
		"v1.2.0-3-gabcdef123456":  "1.2.0+3.abcdef123456",
		"v1.2.0-rc.1-0-gabcdef12": "1.2.0~rc.1",
	} {
		require.Equal(t, want, versionOf(described, "abcdef123456", commitTime, false), described)
		require.Equal(t, want+".dirty", versionOf(described, "abcdef123456", commitTime, true), described)
		require.NotContains(t, want, "-")
	}
}

// unit reads a unit's file: all values of each setting, in their order.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy/systemd", name))
	require.NoError(t, err)
	settings := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		require.True(t, ok, line)
		settings[key] = append(settings[key], value)
	}
	return settings
}

// LO-636: what the unit promises. .docs/operations.md says what systemd's own analysis gives it.
func TestTheUnitIsHardened(t *testing.T) {
	u := unit(t, "orchestratord.service")
	for key, want := range map[string]string{
		"Type": "notify", "Restart": "on-failure", "StateDirectory": "llama-orch", "User": "llama-orch", "KillMode": "mixed", "WatchdogSec": "2min",
		"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "CapabilityBoundingSet": "", "DevicePolicy": "closed", "RestrictNamespaces": "yes",
		"PrivateTmp": "yes", "SystemCallArchitectures": "native", "RestrictSUIDSGID": "yes", "ProtectKernelModules": "yes", "LimitNOFILE": "65536",
		"RestartPreventExitStatus": "2", "LimitCORE": "0",
	} {
		require.Equal(t, []string{want}, u[key], key)
	}
	for _, group := range []string{"char-nvidia rw", "char-nvidia-frontend rw", "char-nvidia-uvm rw", "char-nvidia-caps rw"} {
		require.Contains(t, u["DeviceAllow"], group, "a card is reachable")
	}
	for _, never := range []string{"PrivateDevices", "MemoryDenyWriteExecute", "ProtectProc", "PrivateNetwork"} {
		require.NotContains(t, u, never, "the daemon could not do its work")
	}
	require.Contains(t, u["Environment"][0], "GOTRACEBACK=crash", "else a crash has the exit code of a wrong configuration, after which nothing is started again")
	stop, err := time.ParseDuration(u["TimeoutStopSec"][0] + "s")
	require.NoError(t, err)
	require.Greater(t, stop, 20*time.Second, "the default of --stop-within")
	require.Contains(t, u["ExecStart"][0], "/etc/llama-orch/config.yaml")
	nvidia := unit(t, "llama-orch-nvidia.service")
	require.Equal(t, []string{"orchestratord.service"}, nvidia["Before"])
	require.Contains(t, u["After"][0], "llama-orch-nvidia.service")
}

// LO-632, LO-645: systemd itself takes the units and the folders, and finds no fault in the units. The folders are there before the first start, for a restore, and are the user's alone.
func TestSystemdTakesTheUnits(t *testing.T) {
	root := t.TempDir()
	system := filepath.Join(root, "usr/lib/systemd/system")
	// The program and what the units name of systemd's own.
	require.NoError(t, put(filepath.Join(root, "usr/bin/orchestratord"), []byte("#!/bin/sh\n")))
	require.NoError(t, os.Chmod(filepath.Join(root, "usr/bin/orchestratord"), 0o755))
	for _, name := range []string{"sysinit.target", "basic.target", "shutdown.target", "timers.target", "network-online.target", "multi-user.target", "time-set.target", "time-sync.target"} {
		require.NoError(t, put(filepath.Join(system, name), []byte("[Unit]\nDescription=x\n")))
	}
	units := []string{"orchestratord.service", "llama-orch-nvidia.service", "llama-orch-backup.service", "llama-orch-backup.timer"}
	for _, name := range units {
		text, err := os.ReadFile(filepath.Join("../../deploy/systemd", name))
		require.NoError(t, err)
		require.NoError(t, put(filepath.Join(system, name), text))
	}
	verify := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--root="+root, system+"/llama-orch-backup.timer", system+"/llama-orch-backup.service") //nolint:misspell // its name
	out, err := verify.CombinedOutput()
	require.NoError(t, err, "%s (Debian has it in the package systemd)", out)
	require.Empty(t, string(out), "it says what it ignores")

	b := unit(t, "llama-orch-backup.service")
	require.Contains(t, b["ExecStart"][0], "--keep")
	require.Equal(t, []string{"llama-orch"}, b["User"])
	require.NotContains(t, b["ExecStart"][0], "$(", "systemd calls no shell")
	folders, err := os.ReadFile("../../deploy/systemd/llama-orch.tmpfiles")
	require.NoError(t, err)
	require.Contains(t, string(folders), "d /var/lib/llama-orch 0700 llama-orch llama-orch")
	require.Contains(t, b["ReadWritePaths"], "-/var/backups/llama-orch")
	require.Contains(t, string(folders), "d /var/backups/llama-orch 0700 llama-orch llama-orch")
	own := filepath.Join(root, "folders.conf")
	require.NoError(t, os.WriteFile(own, []byte(strings.ReplaceAll(string(folders), "llama-orch llama-orch", "- -")), 0o600))
	out, err = exec.CommandContext(t.Context(), "systemd-tmpfiles", "--create", "--root="+root, own).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"var/lib/llama-orch", "var/backups/llama-orch"} {
		info, err := os.Stat(filepath.Join(root, name))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	}
}

// LO-636: the packages have all that they promise, and the configuration serves.
func TestThePackagesAreComplete(t *testing.T) {
	t.Chdir("../..")
	list, err := files()
	require.NoError(t, err)
	var to []string
	for _, f := range list {
		require.FileExists(t, f.from)
		to = append(to, f.to)
	}
	for _, want := range []string{
		"usr/lib/systemd/system/orchestratord.service", "usr/lib/sysusers.d/llama-orch.conf", "usr/lib/tmpfiles.d/llama-orch.conf", "usr/lib/systemd/system/llama-orch-backup.timer", "etc/llama-orch/config.yaml", "usr/share/doc/llama-orch/copyright",
		"usr/share/man/man1/llama-orch.1.gz", "usr/share/man/man1/orchestratord.1.gz", "usr/share/man/man1/llama-orch-run.1.gz", "usr/share/llama-orch/haiku.gguf",
	} {
		require.Contains(t, to, want)
	}
	slices.Sort(to)
	require.Len(t, slices.Compact(to), len(list), "no file takes another's place")
	at := filepath.Join(t.TempDir(), "nfpm.yaml")
	require.NoError(t, source{version: "1.0.0", at: commitTime}.configure(at, "root"))
	text, err := os.ReadFile(at)
	require.NoError(t, err)
	require.NotContains(t, string(text), "$")
	require.Contains(t, string(text), "mtime: 2026-12-01T14:30:00Z")
	for _, script := range []string{"postinstall", "preremove", "postremove"} {
		require.Contains(t, string(text), "deploy/package/"+script+".sh")
		require.FileExists(t, "deploy/package/"+script+".sh")
	}
	for _, file := range []string{"deploy/package/config.yaml", "deploy/container/config.yaml"} {
		c, err := config.Load(file, func(string) string { return "" })
		require.NoError(t, err)
		require.Equal(t, "/var/lib/llama-orch", c.DataDir, "as StateDirectory= and VOLUME have it")
		require.Len(t, c.Pools, 1)
		require.Equal(t, c.Loopback(), c.Auth.OptionalOnLoopback, "what comes through a published port needs the token")
	}
}

// LO-639: an upgrade stops a daemon that runs before its files are replaced, and starts it after that. It starts none that does not run, and nothing deletes what was accepted.
func TestAnUpgradeStopsTheDaemonAndStartsItAgain(t *testing.T) {
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "systemd/system"), 0o755))
	for name, text := range map[string]string{
		"systemctl":        "#!/bin/sh\necho \"$*\" >>" + calls + "\ncase $1 in is-active) [ -e " + dir + "/active ] ;; start) ! [ -e " + dir + "/broken ] ;; esac\n",
		"systemd-sysusers": "#!/bin/sh\n", "systemd-tmpfiles": "#!/bin/sh\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	script := func(name string, args ...string) (said []string) {
		t.Helper()
		require.NoError(t, os.WriteFile(calls, nil, 0o600))
		cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"../../deploy/package/" + name + ".sh"}, args...)...)
		cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "LLORCH_RUN=" + dir}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		text, err := os.ReadFile(calls)
		require.NoError(t, err)
		return strings.Fields(strings.ReplaceAll(string(text), " ", "_"))
	}
	require.Equal(t, []string{"daemon-reload"}, script("postinstall", "configure"), "a first installation")
	require.Equal(t, []string{"is-active_--quiet_orchestratord.service"}, script("preupgrade"), "it does not run")
	require.Equal(t, []string{"daemon-reload"}, script("postinstall", "configure", "1.0.0"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "active"), nil, 0o600))
	require.Equal(t, []string{"is-active_--quiet_orchestratord.service", "stop_orchestratord.service"}, script("preupgrade"))
	require.Equal(t, []string{"daemon-reload", "start_orchestratord.service"}, script("postinstall", "configure", "1.0.0"))
	require.Equal(t, []string{"daemon-reload"}, script("postinstall", "configure", "1.0.0"), "once")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "broken"), nil, 0o600))
	require.Equal(t, []string{"is-active_--quiet_orchestratord.service", "stop_orchestratord.service"}, script("preupgrade"))
	require.Equal(t, []string{"daemon-reload", "start_orchestratord.service"}, script("postinstall", "configure", "1.0.0"), "a daemon that does not start leaves the package manager in order")
	require.NoError(t, os.Remove(filepath.Join(dir, "broken")))
	require.NoError(t, os.Remove(filepath.Join(dir, "active")))
	require.Equal(t, []string{"is-active_--quiet_orchestratord.service"}, script("preupgrade"), "it does not run since")
	require.Equal(t, []string{"daemon-reload", "start_orchestratord.service"}, script("postinstall", "configure", "1.0.0"), "it ran before the upgrade that failed")
	require.Equal(t, []string{"daemon-reload"}, script("postinstall", "configure", "1.0.0"))
	require.Equal(t, []string{"disable_--now_llama-orch-backup.timer_orchestratord.service"}, script("preremove", "remove"))
	for _, name := range []string{"postinstall", "preupgrade", "preremove", "postremove"} {
		text, err := os.ReadFile("../../deploy/package/" + name + ".sh")
		require.NoError(t, err)
		require.NotContains(t, string(text), "/var/lib")
		require.NotContains(t, string(text), "userdel")
	}
}

// LO-637, LO-638: an archive depends on nothing but the files and the commit.
func TestAnArchiveIsTheSameEachTime(t *testing.T) {
	var packed [2]bytes.Buffer
	for i := range packed {
		root := filepath.Join(t.TempDir(), "root")
		for _, name := range []string{"bin/b", "a"} {
			require.NoError(t, put(filepath.Join(root, name), []byte(name)))
		}
		s := source{at: commitTime}
		require.NoError(t, s.settle(root))
		require.NoError(t, s.pack(&packed[i], root))
	}
	require.Equal(t, packed[0].Bytes(), packed[1].Bytes())
}

// LO-638: the signature of the sums is one that minisign takes, by the key that made it, and for nothing else.
func TestTheSumsAreSigned(t *testing.T) {
	dir := t.TempDir()
	public, secret, err := minisign.GenerateKey(rand.Reader)
	require.NoError(t, err)
	other, _, err := minisign.GenerateKey(rand.Reader)
	require.NoError(t, err)
	open, err := secret.MarshalText()
	require.NoError(t, err)
	key := filepath.Join(dir, "throwaway.key")
	require.NoError(t, os.WriteFile(key, open, 0o600))
	release := filepath.Join(dir, "release")
	require.NoError(t, put(filepath.Join(release, "a"), []byte("a")))
	require.NoError(t, sums(release))
	at := filepath.Join(release, sumsName)
	text, err := os.ReadFile(at)
	require.NoError(t, err)
	require.Equal(t, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a\n", string(text))

	require.ErrorContains(t, sign(at, at, "", commitTime), passwordEnv, "that is no key")
	require.NoError(t, sign(at, key, "", commitTime))
	signature, err := os.ReadFile(at + ".minisig")
	require.NoError(t, err)
	verify := func(key minisign.PublicKey, text []byte) bool {
		r := minisign.NewReader(bytes.NewReader(text))
		_, err := io.Copy(io.Discard, r)
		require.NoError(t, err)
		return r.Verify(key, signature)
	}
	require.True(t, verify(public, text))
	require.False(t, verify(other, text))
	require.False(t, verify(public, append(text, 'x')))
	require.Contains(t, string(signature), "timestamp:1796135400\tfile:SHA256SUMS")
}

// LO-638: what a release is for, and what it needs.
func TestProcessorsOfARelease(t *testing.T) {
	require.Equal(t, []string{"amd64", "arm64"}, processors(nil))
	one := "arm64 arm64"
	require.Equal(t, []string{"arm64"}, processors(&one))
	t.Setenv("PATH", t.TempDir())
	require.ErrorContains(t, source{}.compile(t.Context(), "riscv64", t.TempDir()), "only for amd64 and arm64")
	for arch, name := range compilers {
		if err := (source{}).compile(t.Context(), arch, t.TempDir()); strings.Contains(err.Error(), "C compiler") {
			require.ErrorContains(t, err, "install gcc-"+strings.TrimSuffix(name, "-gcc"))
			return
		}
	}
	t.Fatal("no processor is another machine's")
}
