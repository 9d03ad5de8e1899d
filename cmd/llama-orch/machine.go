// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/go-faster/yaml"
	"golang.org/x/sys/unix"
)

// The commands that install a missing part, on Debian and on Arch.
var (
	driverFixes = []string{
		"sudo apt-get install nvidia-driver          # Debian, with the components contrib and non-free enabled",
		"sudo pacman -S nvidia-open nvidia-utils     # Arch",
		"sudo modprobe nvidia && nvidia-smi          # then, or restart the machine",
	}
	nvmlFixes = []string{
		"sudo apt-get install libnvidia-ml1          # Debian, with the component non-free enabled",
		"sudo pacman -S nvidia-utils                 # Arch",
	}
	uvmFixes = []string{
		"sudo apt-get install nvidia-modprobe        # Debian",
		"sudo pacman -S nvidia-utils                 # Arch",
		"sudo nvidia-modprobe -u -c 0                # then",
	}
	ffiFixes = []string{
		"sudo apt-get install libffi8                # Debian",
		"sudo pacman -S libffi                       # Arch",
	}
	cudaFixes = []string{
		"sudo apt-get install nvidia-cuda-toolkit    # Debian",
		"sudo pacman -S cuda                         # Arch",
		"export " + libsEnv + "=DIR          # then: llama.cpp built with -DGGML_CUDA=ON -DBUILD_SHARED_LIBS=ON",
	}
	fetchFixes = []string{"orchestratord libs"}
)

// Environment variables that the daemon reads, too.
const (
	libsEnv        = "LLORCH_ENGINE_LIBS"
	bindEnv        = "LLORCH_BIND_ADDR"
	dataEnv        = "LLORCH_DATA_DIR"
	defaultDataDir = "~/.local/state/llama-orch"
)

// Free bytes on the disk below which something is wrong, or soon will be.
const (
	diskFail = 128 << 20
	diskWarn = 2 << 30
)

// machine is what the checks of the machine look at.
type machine struct {
	root     string // of the file system; tests have their own, with devices and libraries
	env      func(string) string
	config   string // file; empty: none was given
	addr     string // the server's
	serving  bool   // a llama-orch server answers there
	wantsGPU bool
}

// settings has the part of a configuration that the checks need. The daemon decides whether all of it is valid.
type settings struct {
	BindAddr string `yaml:"bind_addr"`
	DataDir  string `yaml:"data_dir"`
	Pools    []struct {
		Device       any `yaml:"device"`
		Provisioning struct {
			Mode string `yaml:"mode"`
		} `yaml:"provisioning"`
	} `yaml:"pools"`
}

func (m *machine) examine(ctx context.Context, r *report) {
	var s settings
	known, builtin := false, false
	if m.config != "" {
		if known = m.examineConfig(ctx, r, &s); known {
			for _, p := range s.Pools {
				external := p.Provisioning.Mode == "external"
				builtin = builtin || p.Provisioning.Mode == "" || p.Provisioning.Mode == "builtin"
				m.wantsGPU = m.wantsGPU || !external && p.Device != "cpu"
			}
		}
	}
	m.examineDevices(r)
	m.examineLibraries(r, builtin, known)
	m.examinePort(ctx, r, s)
	m.examineData(r, s)
}

// examineConfig reads the file, and has the daemon's program check it if that program is there.
func (m *machine) examineConfig(ctx context.Context, r *report, s *settings) bool {
	data, err := readAtMost(m.config, 256<<10)
	if err == nil {
		err = yaml.Unmarshal(data, s)
	}
	if err != nil {
		r.add("config", fail, fmt.Sprintf("%s cannot be read: %v", m.config, err), "orchestratord check --config "+m.config)
		return false
	}
	program, err := m.daemon()
	if err != nil {
		r.add("config", warn, m.config+" was not checked: there is no program orchestratord beside this one or on PATH",
			"go tool mage build:all  # makes it, in bin")
		return true
	}
	var said bytes.Buffer // what it only warns of
	check := exec.CommandContext(ctx, program, "check", "--config", m.config)
	check.Stderr = &said
	out, err := check.Output()
	if err != nil {
		r.add("config", fail, strings.TrimSpace(said.String()+string(out)), "orchestratord check --config "+m.config)
		return true
	}
	if warning := strings.TrimSpace(said.String()); warning != "" {
		r.add("config", warn, warning, "orchestratord check --config "+m.config)
		return true
	}
	r.add("config", fine, m.config+" is valid")
	return true
}

func readAtMost(name string, n int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, n))
}

// daemon finds the program orchestratord.
func (m *machine) daemon() (string, error) {
	if own, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(own), "orchestratord")); err == nil {
			return path, nil
		}
	}
	for _, dir := range filepath.SplitList(m.env("PATH")) {
		if path, err := exec.LookPath(filepath.Join(dir, "orchestratord")); err == nil && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// severe returns the verdict on something that matters only if a GPU is wanted.
func (m *machine) severe() verdict {
	if m.wantsGPU {
		return fail
	}
	return warn
}

// examineDevices looks for NVIDIA cards, the driver's device files, and whether this user may use them.
func (m *machine) examineDevices(r *report) {
	const check = "GPU devices"
	var cards []string
	for _, dev := range m.glob("dev/nvidia[0-9]*") {
		cards = append(cards, filepath.Base(dev))
	}
	switch {
	case len(cards) == 0 && m.hasCard():
		r.add(check, m.severe(), "this machine has an NVIDIA card, and no driver for it is loaded", driverFixes...)
	case len(cards) == 0 && m.wantsGPU:
		r.add(check, fail, "a pool wants a GPU, and this machine shows no NVIDIA card", "# put the card in, pass it on to the container, or set `device: cpu` for the pool")
	case len(cards) == 0:
		r.add(check, fine, "no NVIDIA card, and none is wanted")
	default:
		m.examineCards(r, cards)
	}
}

func (m *machine) examineCards(r *report, cards []string) {
	const check = "GPU devices"
	var closed []string
	for _, name := range append(slices.Clone(cards), "nvidiactl", "nvidia-uvm") {
		path := m.path("dev/" + name)
		if _, err := os.Stat(path); err == nil && unix.Access(path, unix.R_OK|unix.W_OK) != nil {
			closed = append(closed, "/dev/"+name)
		}
	}
	switch _, err := os.Stat(m.path("dev/nvidia-uvm")); {
	case len(closed) > 0:
		r.add(check, m.severe(), "this user may not use "+strings.Join(closed, ", "), `sudo usermod -aG video "$USER"  # then log in again`)
	case err != nil:
		r.add(check, m.severe(), "/dev/nvidia-uvm is missing, which CUDA needs", uvmFixes...)
	default:
		r.add(check, fine, "/dev/"+strings.Join(cards, ", /dev/"))
	}
}

// hasCard looks for NVIDIA's cards on the PCI bus, which needs no driver.
func (m *machine) hasCard() bool {
	for _, dir := range m.glob("sys/bus/pci/devices/*") {
		vendor, err := os.ReadFile(filepath.Join(dir, "vendor"))
		if err != nil || strings.TrimSpace(string(vendor)) != "0x10de" {
			continue
		}
		class, err := os.ReadFile(filepath.Join(dir, "class"))
		if err == nil && strings.HasPrefix(string(class), "0x03") {
			return true
		}
	}
	return false
}

func (m *machine) path(name string) string { return filepath.Join(m.root, name) }

func (m *machine) glob(pattern string) []string {
	found, err := filepath.Glob(m.path(pattern))
	if err != nil {
		return nil
	}
	return found
}

// examineLibraries looks for the libraries of the driver, the built-in worker and CUDA.
func (m *machine) examineLibraries(r *report, builtin, known bool) {
	switch nvml := m.library("libnvidia-ml.so.1"); {
	case nvml != "":
		r.add("libnvidia-ml", fine, nvml)
	case m.wantsGPU || len(m.glob("dev/nvidia[0-9]*")) > 0:
		r.add("libnvidia-ml", m.severe(), "libnvidia-ml.so.1 is missing: without it no GPU is seen", nvmlFixes...)
	default:
		r.add("libnvidia-ml", fine, "not there, and not wanted")
	}
	if known && !builtin {
		return
	}
	missing := warn // nobody knows whether a pool has built-in workers
	if builtin {
		missing = fail
	}
	if ffi := m.library("libffi.so.8"); ffi != "" {
		r.add("libffi", fine, ffi)
	} else {
		r.add("libffi", missing, "libffi.so.8 is missing: the built-in worker needs it", ffiFixes...)
	}
	dir, err := m.engineLibs()
	switch {
	case err != nil:
		r.add("engine libraries", missing, err.Error(), fetchFixes...)
		return
	case m.wantsGPU && !holds(dir, "libggml-cuda*.so"):
		r.add("engine libraries", missing, dir+" has no CUDA back end (libggml-cuda.so): built-in workers cannot use a GPU", cudaFixes...)
	default:
		r.add("engine libraries", fine, dir)
	}
}

// library finds a shared library in the folders where the loader looks. It ignores the loader's cache, which names the same folders on these
// systems.
func (m *machine) library(name string) string {
	for _, dir := range filepath.SplitList(m.env("LD_LIBRARY_PATH")) {
		if path := filepath.Join(dir, name); dir != "" && exists(path) {
			return path
		}
	}
	for _, dir := range []string{
		"usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/nvidia/current", "lib/*-linux-gnu", "usr/lib", "usr/lib64", "lib", "lib64", "usr/local/lib",
		"usr/lib/wsl/lib", "usr/local/nvidia/lib64", "run/opengl-driver/lib",
	} {
		if found := m.glob(filepath.Join(dir, name)); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// engineLibs returns the folder of the built-in worker's libraries: a given one, a package's, or the one in the cache.
func (m *machine) engineLibs() (string, error) {
	if dir := m.env(libsEnv); dir != "" {
		if !exists(filepath.Join(dir, "libllama.so")) {
			return "", fmt.Errorf("%s names %s, which has no libllama.so", libsEnv, dir)
		}
		return dir, nil
	}
	if dir := m.path("usr/lib/llama-orch"); exists(filepath.Join(dir, "libllama.so")) { // a package's
		return dir, nil
	}
	cache := m.env("XDG_CACHE_HOME")
	if cache == "" {
		home := m.env("HOME")
		if home == "" {
			return "", errors.New("neither HOME nor XDG_CACHE_HOME is set, so there is no cache folder")
		}
		cache = filepath.Join(home, ".cache")
	}
	cache = filepath.Join(cache, "llama-orch", "engine-libs")
	found, err := filepath.Glob(filepath.Join(cache, "*", "manifest.json"))
	for _, manifest := range slices.Backward(found) {
		if dir := filepath.Dir(manifest); holds(dir, "libllama.so") {
			return dir, nil
		}
	}
	return "", errors.Join(err, fmt.Errorf("they are not in the cache, %s", cache))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func holds(dir, pattern string) bool {
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	return err == nil && len(found) > 0
}

// examinePort tries whether the server could listen on its port.
func (m *machine) examinePort(ctx context.Context, r *report, s settings) {
	bind := m.env(bindEnv)
	if bind == "" {
		bind = s.BindAddr
	}
	u, err := url.Parse(m.addr)
	if err != nil {
		r.add("port", fail, err.Error())
		return
	}
	if bind == "" {
		bind = u.Host
	}
	_, port, err := net.SplitHostPort(bind)
	if err != nil {
		r.add("port", fail, fmt.Sprintf("%s is no address with a port", bind), "# correct bind_addr, or --addr")
		return
	}
	if m.serving && port == u.Port() {
		r.add("port", fine, "the server listens on "+u.Host)
		return
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", bind)
	if err == nil {
		err = listener.Close()
	}
	switch {
	case err == nil:
		r.add("port", fine, bind+" is free")
	case errors.Is(err, unix.EADDRINUSE):
		r.add("port", fail, bind+" is taken by another program", fmt.Sprintf("ss -ltnp 'sport = :%s'  # says by which; else change bind_addr", port))
	case errors.Is(err, unix.EACCES):
		r.add("port", fail, "this user may not listen on "+bind, "# take a port above 1023 as bind_addr")
	default:
		r.add("port", fail, fmt.Sprintf("nobody can listen on %s: %v", bind, err), "# set bind_addr to an address of this machine")
	}
}

// examineData looks at the data folder, or at the place where it will be made.
func (m *machine) examineData(r *report, s settings) {
	dir, err := m.dataDir(s)
	if err != nil {
		r.add("data folder", fail, err.Error(), "export HOME=~  # or set data_dir in the configuration")
		return
	}
	used, err := m.inUse(dir)
	if errors.Is(err, fs.ErrPermission) {
		m.closedFolder(r, dir)
		return
	}
	if m.serving && !used {
		if m.config == "" {
			r.add("data folder", skip, fmt.Sprintf("the server that answers does not use %s, and its own folder is not known", dir),
				"llama-orch doctor --config FILE  # the server's")
		} else {
			r.add("data folder", warn, fmt.Sprintf("the server that answers does not use %s", dir),
				fmt.Sprintf("# was it started with another configuration than %s, or with %s?", m.config, dataEnv))
		}
		return
	}
	at, there := dir, true
	for !exists(at) && at != filepath.Dir(at) {
		at, there = filepath.Dir(at), false
	}
	info, err := os.Stat(at)
	switch {
	case err != nil:
		r.add("data folder", fail, err.Error())
		return
	case !info.IsDir():
		r.add("data folder", fail, at+" is no folder", "# set data_dir to another path")
		return
	case there && unix.Access(at, unix.R_OK|unix.W_OK|unix.X_OK) != nil && !ours(info):
		m.closedFolder(r, dir)
		return
	case unix.Access(at, unix.R_OK|unix.W_OK|unix.X_OK) != nil:
		r.add("data folder", fail, "this user may not write into "+at, fmt.Sprintf(`sudo install -d -o "$USER" -m 700 '%s'`, dir))
	case there && info.Mode()&fs.FileMode(0o077) != 0:
		r.add("data folder", warn, fmt.Sprintf("%s, which holds prompts and answers, is open to others (mode %04o)", dir, info.Mode().Perm()), fmt.Sprintf("chmod 700 '%s'", dir))
	case !there:
		r.add("data folder", fine, dir+" will be made")
	default:
		r.add("data folder", fine, dir)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(at, &disk); err != nil {
		r.add("disk", warn, fmt.Sprintf("its free space is not known: %v", err))
		return
	}
	free := int64(disk.Bavail) * disk.Bsize
	v := fine
	switch {
	case free < diskFail:
		v = fail
	case free < diskWarn:
		v = warn
	}
	r.add("disk", v, mib(free)+" free for "+dir, fmt.Sprintf("df -h '%s'", at), "# make room, lower ledger.retain_bytes, or set data_dir to another disk")
}

// closedFolder is for a folder of another user, such as a service's. Whether anything is wrong with it, only that user or root can see.
func (m *machine) closedFolder(r *report, dir string) {
	r.add("data folder", skip, dir+" belongs to another user, and was not looked at", "sudo llama-orch doctor --config "+cmp.Or(m.config, "FILE"))
}

// ours reports whether a file belongs to this user.
func ours(info fs.FileInfo) bool {
	at, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(at.Uid) == os.Getuid()
}

// inUse reports whether a server has the data folder: whether one of the files that it locks is locked by anybody. The kernel's list is only
// read. To take the lock would keep a server from starting meanwhile. The error is for a folder that cannot be looked into.
func (m *machine) inUse(dir string) (bool, error) {
	var inodes []string
	for _, name := range []string{"lock", "state.db"} {
		var at unix.Stat_t
		switch err := unix.Stat(filepath.Join(dir, name), &at); {
		case err == nil:
			inodes = append(inodes, fmt.Sprintf(":%d", at.Ino))
		case errors.Is(err, fs.ErrPermission):
			return false, err
		}
	}
	list, err := readAtMost(m.path("proc/locks"), 1<<20)
	if err != nil {
		return true, nil // nobody knows, so the folder is looked at
	}
	// A line is: 1: FLOCK ADVISORY WRITE 4711 fe:01:131083 0 EOF. The device's number may be another than stat tells.
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line)
		if len(fields) > 5 && fields[1] == "FLOCK" && slices.ContainsFunc(inodes, func(inode string) bool { return strings.HasSuffix(fields[5], inode) }) {
			return true, nil
		}
	}
	return false, nil
}

func (m *machine) dataDir(s settings) (string, error) {
	dir, base := m.env(dataEnv), ""
	if dir == "" {
		dir, base = s.DataDir, filepath.Dir(m.config)
	}
	if dir == "" {
		dir = defaultDataDir
	}
	if rest, ok := strings.CutPrefix(dir, "~/"); ok {
		home := m.env("HOME")
		if home == "" {
			return "", fmt.Errorf("HOME is not set, so %s names no folder", dir)
		}
		return filepath.Join(home, rest), nil
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(base, dir)
	}
	return filepath.Abs(dir)
}
