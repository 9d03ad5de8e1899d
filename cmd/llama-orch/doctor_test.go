// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/gen"
	"github.com/llama-orch/llama-orch/sdk"
)

// doctor runs the command against the daemon, with a home of its own, and returns the findings by check.
func doctor(t *testing.T, addr string) (map[string]finding, output) {
	t.Helper()
	env := map[string]string{addrEnv: addr, "HOME": t.TempDir()}
	got := callWith(t.Context(), env, "", "doctor", "--json")
	var r report
	require.NoError(t, json.Unmarshal([]byte(got.out), &r), got.out)
	found := map[string]finding{}
	for _, f := range r.Findings {
		found[f.Check] = f
		require.NotEmpty(t, f.Detail, f.Check)
		require.Contains(t, []verdict{fine, warn, fail, skip}, f.Verdict)
	}
	require.Len(t, found, len(r.Findings), "each check has its own name")
	return found, got
}

// ORCH-3049
func TestDoctorOfAServerThatServes(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.gpus.Gpus = d.gpus.Gpus[:1]
	d.health = func(id gen.PoolID) gen.PoolHealth {
		h := healthy(id)
		h.Pool.ReplicasReady, h.Replicas = 2, h.Replicas[:1]
		return h
	}
	found, got := doctor(t, d.serve(t))
	require.Zero(t, got.code, got.out)
	require.Empty(t, got.err)
	for _, check := range []string{"server", "readiness", "pool default", "pool vectors", "driver", "GPU 0", "port"} {
		require.Equal(t, fine, found[check].Verdict, "%s: %s", check, found[check].Detail)
	}
	require.Equal(t, "haiku: 2 of 2 replicas ready, loaded in 700 ms", found["pool default"].Detail)
	require.Equal(t, skip, found["data folder"].Verdict, "the default folder is not this server's")
	require.Contains(t, found["data folder"].Fixes, "llama-orch doctor --config FILE  # the server's")
	require.NotContains(t, found, "disk")
	require.Equal(t, "driver 550.54, CUDA 12.4", found["driver"].Detail)
	for _, check := range []string{"GPU devices", "libnvidia-ml", "libffi", "engine libraries"} {
		require.Contains(t, found, check)
	}
}

// ORCH-3049: the table that the server showed at its start.
func TestDoctorShowsTheSelfTests(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.pools[0].SelfTest = gen.NewOptSelfTest(gen.SelfTest{
		State: gen.SelfTestStateFailed, Detail: "one cancel: a token\nfollowed", Steps: []gen.SelfTestStep{
			{Step: gen.SelfTestStepStepDecode, State: gen.SelfTestStatePassed},
			{Step: gen.SelfTestStepStepCancel, State: gen.SelfTestStateFailed},
			{Step: gen.SelfTestStepStepLog, State: gen.SelfTestStateSkipped},
		},
	})
	got := callWith(t.Context(), map[string]string{addrEnv: d.serve(t), "HOME": t.TempDir()}, "", "doctor")
	require.Contains(t, got.out, `
SELF-TEST  MODEL  PRELOAD  DECODE  CANCEL  METRICS  LOG      RESULT
default    haiku  -        passed  failed  -        skipped  failed: one cancel: a token followed

`)
	_, got = doctor(t, d.serve(t))
	require.Contains(t, got.out, `{"pool_id":"default","model_id":"haiku","self_test":{"state":"failed",`)
}

// ORCH-3049
func TestDoctorOfAServerThatAils(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	d.unready = refusal(503, gen.ErrorCodePOOLUNREADY)
	d.pools = nil
	for _, id := range []gen.PoolID{"dead", "half", "idle", "drains", "starts"} {
		d.pools = append(d.pools, pool(id, "haiku", gen.WorkloadCompletion))
	}
	d.pools[0].Device = "auto"
	d.health = func(id gen.PoolID) gen.PoolHealth {
		h := healthy(id)
		switch id {
		case "dead":
			h.Pool.State, h.Pool.Ready, h.Pool.ReplicasReady, h.Pool.LastError = gen.PoolStateFailed, false, 0, gen.NewOptString("the model is no GGUF file")
		case "idle":
			h.Pool.State, h.Pool.Ready, h.Pool.ReplicasReady, h.Pool.Lifecycle, h.Pool.Loaded = gen.PoolStateUnloaded, false, 0, gen.LifecycleOnDemand, false
		case "drains":
			h.Pool.State, h.Pool.Ready, h.Pool.Draining = gen.PoolStateDrained, false, true
		case "starts":
			h.Pool.State, h.Pool.Ready, h.Pool.ReplicasReady = gen.PoolStateLoading, false, 0
			h.Replicas = []gen.Replica{{ID: "starts-0", State: gen.ReplicaStateLoading, Cards: []int{}, LogTail: []string{}}}
		}
		return h
	}
	found, got := doctor(t, d.serve(t))
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.err, "checks failed")
	for check, want := range map[string]finding{
		"readiness":   {"", fail, "not so", nil},
		"pool dead":   {"", fail, "haiku: 0 of 2 replicas ready: the model is no GGUF file", []string{"llama-orch pool health dead", "llama-orch pool load dead  # once that is mended"}},
		"pool half":   {"", warn, "haiku: 1 of 2 replicas ready: default-1 is in state backoff: it needs 9 GiB", []string{"llama-orch pool health half"}},
		"pool idle":   {"", fine, "on demand, not loaded", nil},
		"pool drains": {"", warn, "it is drained", []string{"llama-orch pool resume drains"}},
		"pool starts": {"", fail, "starts-0 is in state loading", nil},
		"GPU 0":       {"", fine, "RTX 3090: 21504 MiB of 24576 MiB free", nil},
		"GPU 1":       {"", fail, "XID 79: it has fallen off the bus", []string{"sudo dmesg | grep -i xid"}},
	} {
		require.Equal(t, want.Verdict, found[check].Verdict, check)
		require.Contains(t, found[check].Detail, want.Detail)
		require.Subset(t, found[check].Fixes, want.Fixes)
	}

	d.gpus = gen.GPUList{Problem: gen.NewOptString("there is no NVIDIA driver"), Gpus: []gen.GPU{}}
	found, _ = doctor(t, d.serve(t))
	require.Equal(t, fail, found["GPUs"].Verdict)
	require.Contains(t, strings.Join(found["GPUs"].Fixes, "\n"), "apt-get install")
	require.Contains(t, strings.Join(found["GPUs"].Fixes, "\n"), "pacman -S")
	d.pools = d.pools[1:]
	found, _ = doctor(t, d.serve(t))
	require.Equal(t, fine, found["GPUs"].Verdict, "no pool wants one")
}

// ORCH-3049
func TestDoctorWithoutAServer(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := taken.Addr().String()
	require.NoError(t, taken.Close())
	found, got := doctor(t, "http://"+addr)
	require.Equal(t, exitFailed, got.code)
	require.Equal(t, fail, found["server"].Verdict)
	require.Contains(t, found["server"].Fixes, serveCommand)
	require.Equal(t, fine, found["port"].Verdict)

	require.Equal(t, []string{"export LLORCH_API_TOKEN=TOKEN  # the server's"}, serverFix("http://127.0.0.1:1", &sdk.Error{Status: 401}))
	require.Nil(t, serverFix("http://127.0.0.1:1", &sdk.Error{Status: 500}))

	found, _ = doctor(t, "http://192.0.2.1.invalid:8080")
	require.Equal(t, skip, found["machine"].Verdict)
	require.NotContains(t, found, "port")
}

// ORCH-3049
func TestDoctorsText(t *testing.T) {
	t.Parallel()
	env := map[string]string{addrEnv: newDaemon().serve(t), "HOME": t.TempDir()}
	got := callWith(t.Context(), env, "", "doctor")
	require.Contains(t, got.out, "ok    server")
	require.Contains(t, got.out, "warn  pool default")
	require.Contains(t, got.out, "llama-orch pool health default\n")
	require.Regexp(t, `\n\n[0-9]+ checks: [0-9]+ ok, [0-9]+ warnings?, 0 failures, 1 not made\n$`, got.out)
	require.NotContains(t, got.out, "\x1b")
	require.Zero(t, got.code, "warnings do not fail it")
}

// box is a machine whose files are in a folder.
func box(t *testing.T, files ...string) *machine {
	t.Helper()
	home := t.TempDir()
	m := &machine{root: t.TempDir(), addr: "http://127.0.0.1:0", env: func(key string) string { return map[string]string{"HOME": home}[key] }}
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		path := m.path(name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	return m
}

func (m *machine) with(env map[string]string) *machine {
	m.env = func(key string) string { return env[key] }
	return m
}

func examined(m *machine) map[string]finding {
	r := &report{}
	m.examine(context.Background(), r)
	found := map[string]finding{}
	for _, f := range r.Findings {
		found[f.Check] = f
	}
	return found
}

// ORCH-1102, ORCH-3049
func TestDoctorLooksForTheDriver(t *testing.T) {
	t.Parallel()
	card := []string{"sys/bus/pci/devices/0000:01:00.0/vendor=0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class=0x030000\n"}
	driver := append([]string{"dev/nvidia0", "dev/nvidiactl", "dev/nvidia-uvm"}, card...)
	for name, c := range map[string]struct {
		files         []string
		wantsGPU      bool
		devices, nvml verdict
		says          string
	}{
		"no card, none wanted":         {nil, false, fine, fine, "none is wanted"},
		"no card, one wanted":          {nil, true, fail, fail, "shows no NVIDIA card"},
		"a card without its driver":    {card, false, warn, fine, "no driver for it is loaded"},
		"the same, and it is wanted":   {card, true, fail, fail, "no driver for it is loaded"},
		"another maker's card":         {[]string{"sys/bus/pci/devices/0/vendor=0x8086\n", "sys/bus/pci/devices/0/class=0x030000\n"}, false, fine, fine, "no NVIDIA card"},
		"its sound device":             {[]string{"sys/bus/pci/devices/0/vendor=0x10de\n", "sys/bus/pci/devices/0/class=0x040300\n"}, false, fine, fine, "no NVIDIA card"},
		"a driver without its library": {driver, true, fine, fail, "/dev/nvidia0"},
		"a driver with its library":    {append([]string{"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"}, driver...), true, fine, fine, "/dev/nvidia0"},
		"no uvm":                       {append([]string{"usr/lib64/libnvidia-ml.so.1", "dev/nvidia0", "dev/nvidiactl"}, card...), true, fail, fine, "/dev/nvidia-uvm is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := box(t, c.files...)
			m.wantsGPU = c.wantsGPU
			found := examined(m)
			require.Equal(t, c.devices, found["GPU devices"].Verdict)
			require.Contains(t, found["GPU devices"].Detail, c.says)
			require.Equal(t, c.nvml, found["libnvidia-ml"].Verdict)
			for _, check := range []string{"GPU devices", "libnvidia-ml"} {
				f := found[check]
				require.Equal(t, f.Verdict == fine, len(f.Fixes) == 0, "what is wrong has a fix")
				if len(f.Fixes) > 1 {
					all := strings.Join(f.Fixes, "\n")
					require.Contains(t, all, "apt-get install ")
					require.Contains(t, all, "pacman -S ")
				}
			}
		})
	}
}

// ORCH-3049
func TestDoctorLooksForLibraries(t *testing.T) {
	t.Parallel()
	found := examined(box(t))
	require.Equal(t, warn, found["libffi"].Verdict)
	require.Equal(t, warn, found["engine libraries"].Verdict)
	require.Equal(t, fetchFixes, found["engine libraries"].Fixes)

	libs := t.TempDir()
	for _, name := range []string{"libllama.so", "libffi.so.8", "libnvidia-ml.so.1"} {
		require.NoError(t, os.WriteFile(filepath.Join(libs, name), nil, 0o600))
	}
	given := map[string]string{"HOME": t.TempDir(), libsEnv: libs, "LD_LIBRARY_PATH": ":" + libs}
	found = examined(box(t).with(given))
	require.Equal(t, fine, found["libffi"].Verdict)
	require.Equal(t, libs, found["engine libraries"].Detail)
	require.Equal(t, filepath.Join(libs, "libnvidia-ml.so.1"), found["libnvidia-ml"].Detail)

	m := box(t).with(given)
	m.wantsGPU = true
	found = examined(m)
	require.Contains(t, found["engine libraries"].Detail, "no CUDA back end")
	require.Equal(t, cudaFixes, found["engine libraries"].Fixes)

	cache := t.TempDir()
	dir := filepath.Join(cache, "llama-orch", "engine-libs", "3.22.1-linux-x64")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	found = examined(box(t).with(map[string]string{"HOME": t.TempDir(), "XDG_CACHE_HOME": cache}))
	require.Equal(t, warn, found["engine libraries"].Verdict, "it is not whole")
	for _, name := range []string{"libllama.so", "manifest.json"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	found = examined(box(t).with(map[string]string{"HOME": t.TempDir(), "XDG_CACHE_HOME": cache}))
	require.Equal(t, dir, found["engine libraries"].Detail)

	found = examined(box(t).with(map[string]string{"HOME": t.TempDir(), libsEnv: cache}))
	require.Contains(t, found["engine libraries"].Detail, "has no libllama.so")

	m = box(t).with(map[string]string{"HOME": t.TempDir()})
	packaged := filepath.Join(m.root, "usr", "lib", "llama-orch")
	require.NoError(t, os.MkdirAll(packaged, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(packaged, "libllama.so"), nil, 0o600))
	require.Equal(t, packaged, examined(m)["engine libraries"].Detail)
}

// ORCH-3049
func TestDoctorReadsTheConfig(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	home := t.TempDir()
	check := func(text string, env map[string]string) map[string]finding {
		m := box(t)
		m.config = write("config.yaml", text, 0o600)
		all := map[string]string{"HOME": home}
		maps.Copy(all, env)
		return examined(m.with(all))
	}

	found := check(fmt.Sprintf("bind_addr: %s\ndata_dir: state\npools: [{id: a, device: cpu, model: {ref: x}}]\n", taken.Addr()), nil)
	require.Equal(t, warn, found["config"].Verdict, "nothing to check it with")
	require.Equal(t, fail, found["port"].Verdict)
	require.Contains(t, found["port"].Detail, "is taken by another program")
	require.Contains(t, found["data folder"].Detail, filepath.Join(dir, "state")+" will be made")
	require.Equal(t, fail, found["libffi"].Verdict, "its pool is built-in")
	require.Equal(t, fine, found["GPU devices"].Verdict)

	for text, wants := range map[string]bool{
		"pools: [{device: cpu}]":                           false,
		"pools: [{device: auto}]":                          true,
		"pools: [{id: a}]":                                 true, // auto is the default
		"pools: [{device: 0}]":                             true,
		`pools: [{device: "0,1"}]`:                         true,
		"pools: [{id: a, provisioning: {mode: external}}]": false,
		"pools: [{device: cpu}, {device: [0, 1]}]":         true,
		"pools: []": false,
	} {
		found := check(text, nil)
		require.Equal(t, wants, found["GPU devices"].Verdict == fail, text)
	}
	found = check("pools: [{id: a, provisioning: {mode: external}}]", nil)
	require.NotContains(t, found, "libffi")

	for _, text := range []string{"pools: {", "\x00", "pools: 7", "- a"} {
		found := check(text, nil)
		require.Equal(t, fail, found["config"].Verdict, "%q", text)
		require.Contains(t, found, "disk", "the other checks go on")
	}
	m := box(t)
	m.config = filepath.Join(dir, "none.yaml")
	require.Equal(t, fail, examined(m)["config"].Verdict)

	bin := t.TempDir()
	program := filepath.Join(bin, "orchestratord")
	script := func(text string) {
		syscall.ForkLock.RLock() // the file could not be run while a child of another test still holds it
		defer syscall.ForkLock.RUnlock()
		require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"+text), 0o700))
	}
	script("echo \"line 3: $3 is wrong\"\nexit 2\n")
	found = check("pools: []", map[string]string{"PATH": bin})
	require.Equal(t, fail, found["config"].Verdict)
	require.Equal(t, "line 3: "+filepath.Join(dir, "config.yaml")+" is wrong", found["config"].Detail)
	script("echo 'warning: the certificate expires' >&2\nexit 0\n")
	found = check("pools: []", map[string]string{"PATH": bin})
	require.Equal(t, warn, found["config"].Verdict)
	require.Equal(t, "warning: the certificate expires", found["config"].Detail)
	script("exit 0\n")
	require.Equal(t, fine, check("pools: []", map[string]string{"PATH": bin})["config"].Verdict)
}

// ORCH-3049
func TestDoctorLooksAtPortsAndFolders(t *testing.T) {
	t.Parallel()
	check := func(env map[string]string) map[string]finding { return examined(box(t).with(env)) }
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	private, open := filepath.Join(dir, "private"), filepath.Join(dir, "open")
	require.NoError(t, os.Mkdir(private, 0o700))
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o755))

	require.Equal(t, private, check(map[string]string{dataEnv: private})["data folder"].Detail)
	found := check(map[string]string{dataEnv: open})
	require.Equal(t, warn, found["data folder"].Verdict)
	require.Equal(t, []string{"chmod 700 '" + open + "'"}, found["data folder"].Fixes)
	require.Equal(t, fail, check(map[string]string{dataEnv: file})["data folder"].Verdict)
	require.Equal(t, fail, check(map[string]string{dataEnv: filepath.Join(file, "below")})["data folder"].Verdict)
	require.Contains(t, check(map[string]string{})["data folder"].Detail, "HOME is not set")
	require.Contains(t, check(map[string]string{"HOME": dir})["data folder"].Detail, filepath.Join(dir, ".local/state/llama-orch")+" will be made")

	for bind, want := range map[string]verdict{"127.0.0.1:0": fine, "nonsense": fail, "192.0.2.1:8080": fail, "127.0.0.1:99999": fail} {
		require.Equal(t, want, check(map[string]string{"HOME": dir, bindEnv: bind})["port"].Verdict, bind)
	}
}

// The doctor calls no folder sound that the server does not use: the lock says which folder is in use.
//
// LO-847
func TestDoctorLooksAtTheServersOwnFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	lock, err := os.Create(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	defer lock.Close()
	config := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(config, []byte("data_dir: "+dir+"\n"), 0o600))
	look := func(config string, serving bool, env map[string]string) finding {
		m := box(t).with(env)
		m.root, m.config, m.serving = "/", config, serving
		r := &report{}
		m.examineData(r, settings{DataDir: map[bool]string{true: dir}[config != ""]})
		return r.Findings[0]
	}
	named := map[string]string{dataEnv: dir}
	require.Equal(t, fine, look("", false, named).Verdict, "no server answers: it is the folder of the next one")
	require.Equal(t, skip, look("", true, named).Verdict)
	require.Equal(t, warn, look(config, true, map[string]string{}).Verdict)

	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	require.Equal(t, finding{"data folder", fine, dir, nil}, look("", true, named))
	require.Equal(t, fine, look(config, true, map[string]string{}).Verdict)
}

// LO-847: the folder of a service belongs to another user. That is no fault, and nobody is told to take it from that user.
func TestDoctorDoesNotTakeAFolderFromItsUser(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "service")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600))
	if os.Getuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		require.NoError(t, syscall.Setfsuid(65534)) // this thread sees files as nobody does
		defer func() { require.NoError(t, syscall.Setfsuid(0)) }()
	} else {
		require.NoError(t, os.Chmod(dir, 0))
		defer func() { require.NoError(t, os.Chmod(dir, 0o700)) }()
	}
	for _, serving := range []bool{true, false} {
		m := &machine{root: "/", env: func(string) string { return "" }, config: "/etc/llama-orch/config.yaml", serving: serving}
		r := &report{}
		m.examineData(r, settings{DataDir: dir})
		require.Equal(t, []finding{{"data folder", skip, dir + " belongs to another user, and was not looked at", []string{"sudo llama-orch doctor --config /etc/llama-orch/config.yaml"}}}, r.Findings)
	}
}
