// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/llama-orch/llama-orch/service/gguf"
	"github.com/llama-orch/llama-orch/service/task"
)

// What may be in a command line. Nothing begins with a dash, so that no value is taken for an option.
var (
	refPattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)
	targetPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	flagPattern    = regexp.MustCompile(`^-D[A-Za-z_][A-Za-z0-9_]{0,99}(:[A-Z]{1,16})?=[^\x00-\x1f]{0,1000}$`)
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.@_-]{0,99}$`)
	imagePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}(@sha256:[0-9a-f]{64})?$`)
	digestPattern  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// Flags of every build of llama-server. They leave out what it does not need, and make it a single file.
var buildFlags = []string{"-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"}

func planExternal(w Want) Plan {
	return Plan{Pool: w.Pool, Mode: External, Tools: []string{}, Steps: []Step{}, Flags: slices.Clone(w.URLs)}
}

func planBuiltin(w Want, m Machine) (Plan, error) {
	a, err := libsFor(m.Platform, w.GPU)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Pool: w.Pool, Mode: Builtin, Steps: []Step{}, Tools: []string{}, Version: LlamaVersion, BuildRef: a.pin.name + "@" + a.pin.version}
	if dir := os.Getenv(EnvEngineLibs); dir != "" {
		p.Program, p.BuildRef = dir, EnvEngineLibs
		return p, nil
	}
	p.pin(m, a)
	p.Program = a.dir(m.CacheDir)
	return p, nil
}

// npmCalls stands for the registry in npm's configuration.
const npmCalls = "package://npm"

// pin adds the step that fetches a pinned package.
func (p *Plan) pin(m Machine, a artifact) {
	p.pinned = &a
	p.Tools = append(p.Tools, "npm")
	p.Steps = append(p.Steps, Step{Do: Allow, Why: "the policy allows calls of the package manager", URL: npmCalls}, Step{
		Do: Pinned, Why: "fetch the pinned package, unless what is wanted of it is in the cache and whole", Argv: a.pin.argv("npm", a.work(m.CacheDir)),
		Digest: a.pin.integrity, Into: a.dir(m.CacheDir),
	})
}

func planBinary(w Want, m Machine) (Plan, error) {
	p := Plan{Pool: w.Pool, Mode: Binary, Tools: []string{}}
	if w.URL == "" {
		if w.Path == "" {
			return Plan{}, task.Errorf(task.InvalidParams, "provisioning mode binary needs `path`, the program, or `url` and `digest`")
		}
		p.Program = w.Path
		p.Steps = []Step{{Do: Check, Why: "it is a program", File: w.Path}}
		return p, nil
	}
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.url` is no https:// URL")
	case u.User != nil:
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.url` holds credentials: leave them out")
	case !digestPattern.MatchString(w.Digest):
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.url` needs `provisioning.digest`, sha256:<64 hexadecimal digits> of the download: a program that nobody vouches for is not run")
	}
	program := w.Path
	if program == "" {
		program = serverName
	}
	if !filepath.IsLocal(program) {
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.path` has to be a path inside the archive at `provisioning.url`, not %.80q", program)
	}
	p.BuildRef = w.Digest
	p.inCache(m, "download", keyOf([]string{w.Digest, program}))
	file := filepath.Join(p.work, "download")
	p.Steps = append(p.Steps,
		Step{Do: Allow, Why: "the policy allows the download", URL: w.URL},
		Step{Do: Download, Why: "download it", URL: w.URL, Digest: w.Digest, File: file})
	format := archiveFormat(u.Path)
	if format == "" {
		program = path.Base(program)
	}
	unpack := Step{Do: Unpack, Why: unpackWhy[format], Format: format, File: file, Into: filepath.Join(p.work, "out")}
	if format == "" {
		unpack.Into = filepath.Join(unpack.Into, program)
	}
	p.Steps = append(p.Steps, unpack)
	p.placed(program)
	p.ask = []string{filepath.Join(p.work, "out", program), "--version"}
	return p, nil
}

var unpackWhy = map[string]string{
	formatTarGz: "unpack the tar.gz: plain files, folders and links inside it, within bounds",
	formatZip:   "unpack the zip: plain files, folders and links inside it, within bounds",
	"":          "it is the program itself: make it executable",
}

func planPackage(w Want, m Machine) (Plan, error) {
	switch {
	case !packagePattern.MatchString(w.Package):
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.package` names no package: %.80q", w.Package)
	case !w.AllowPackages:
		return Plan{}, task.Errorf(task.PolicyDenied, "installing system packages is not allowed: set `provision.allow_system_packages: true`, "+
			"or install %s yourself and use provisioning mode binary", w.Package)
	}
	program := w.Path
	if program == "" {
		program = serverName
	}
	p := Plan{Pool: w.Pool, Mode: System, Program: program, BuildRef: w.Package}
	install := Step{Do: Command, Why: "install it with the system's package manager, unless it is installed", Env: []string{"LC_ALL=C"}}
	switch m.Manager {
	case "pacman":
		install.Unless = []string{"pacman", "-Q", w.Package}
		install.Argv = []string{"pacman", "-S", "--needed", "--noconfirm", w.Package}
		p.ask = install.Unless
	case "apt-get":
		install.Unless = []string{"dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", w.Package}
		install.UnlessSays = "installed"
		install.Argv = []string{"apt-get", "install", "-y", "--no-install-recommends", w.Package}
		install.Env = append(install.Env, "DEBIAN_FRONTEND=noninteractive")
		p.ask = install.Unless
	default:
		return Plan{}, task.Errorf(task.InvalidParams, "there is neither pacman nor apt-get on this machine: install %s yourself and use provisioning mode binary", w.Package)
	}
	p.Tools = []string{m.Manager}
	if m.UID != 0 { // sudo must not ask: there is nobody to answer
		install.Argv = append([]string{"sudo", "-n"}, install.Argv...)
		p.Tools = append(p.Tools, "sudo")
	}
	p.Steps = []Step{
		{Do: Allow, Why: "the policy allows calls of the package manager", URL: "package://" + m.Manager, Unless: install.Unless, UnlessSays: install.UnlessSays},
		install,
		{Do: Check, Why: "it is a program", File: program},
	}
	return p, nil
}

// Paths and the port inside the container.
const (
	containerModel  = "/models/model.gguf"
	containerFolder = "/models/model"
	containerPort   = 8080
)

func planContainer(w Want, m Machine) (Plan, error) {
	tool := w.Runtime
	if tool == "" {
		tool = "docker"
	}
	switch {
	case tool != "docker" && tool != "podman":
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.runtime` is docker or podman, not %.40q", tool)
	case !imagePattern.MatchString(w.Image):
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.image` names no image: %.80q", w.Image)
	case strings.ContainsAny(w.Model, ",\"\n"):
		return Plan{}, task.Errorf(task.InvalidParams, "the model's path holds a comma, a quote or a line feed, which cannot be mounted: %.200q", w.Model)
	}
	inspect := []string{tool, "image", "inspect", "--format", "{{.Id}}", w.Image}
	p := Plan{Pool: w.Pool, Mode: Container, Tools: []string{tool}, Program: w.Image, BuildRef: w.Image, ask: inspect}
	p.Steps = []Step{
		{Do: Allow, Why: "the policy allows calls to the image's registry", URL: "https://" + registry(w.Image), Unless: inspect},
		{Do: Command, Why: "pull the image, unless it is here", Unless: inspect, Argv: []string{tool, "pull", "--quiet", w.Image}},
	}
	at, memory := containerModel, []string{"--tmpfs", "/tmp"}
	if w.Hub {
		at, memory = containerFolder, []string{"--tmpfs", "/tmp:exec", "--shm-size", "1g", "--env", "HOME=/tmp"}
	}
	l := &Launch{Image: w.Image, Model: at, Port: containerPort, Remove: []string{tool, "rm", "--force", "{name}"}, GPUs: []string{}}
	// The container gets no new rights, can only write to memory, and has no port that others reach. The key comes from the environment, since
	// everyone can read command lines.
	l.Argv = []string{
		tool, "run", "--rm", "--init", "--pull", "never", "--name", "{name}",
		"--label", "org.llama-orch.pool=" + w.Pool, "--label", "org.llama-orch.container={name}",
		"--user", strconv.Itoa(m.UID) + ":" + strconv.Itoa(m.GID), "--read-only",
	}
	l.Argv = append(append(l.Argv, memory...), "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
		"--env", cmp.Or(w.KeyEnv, "LLAMA_API_KEY"), "--publish", "127.0.0.1:{port}:"+strconv.Itoa(containerPort))
	for _, pair := range w.Env {
		l.Argv = append(l.Argv, "--env", pair)
	}
	parts := []string{"{model}"} // of which the supervisor makes as many as the model has
	if w.Model != "" && w.Hub {
		parts = []string{w.Model}
	} else if w.Model != "" {
		var err error
		if parts, err = gguf.Parts(w.Model); err != nil {
			return Plan{}, task.Errorf(task.InvalidParams, "%v", err)
		}
	}
	for i, inside := range gguf.Alias(at, len(parts)) {
		l.Argv = append(l.Argv, "--mount", "type=bind,source="+parts[i]+",target="+inside+",readonly")
	}
	if tool == "podman" { // rootless: the user inside is the user outside, who may read the model
		l.Argv = append(l.Argv, "--userns", "keep-id")
	}
	if w.GPU && tool == "docker" {
		l.GPUs = []string{"--gpus", `"device={cards}"`}
	} else if w.GPU {
		l.GPUs = []string{"--device", "nvidia.com/gpu={card}"}
	}
	if w.GPU {
		p.Tools = append(p.Tools, "nvidia-ctk")
	}
	p.Launch = l
	return p, nil
}

// registry returns the host that an image comes from.
func registry(image string) string {
	host, _, found := strings.Cut(image, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return "registry-1.docker.io"
	}
	return host
}

func planSource(w Want, m Machine) (Plan, error) {
	p := Plan{Pool: w.Pool, Mode: Source, Tools: []string{}}
	ref, target := w.Ref, w.Target
	if ref == "" {
		ref = "HEAD"
	}
	if target == "" {
		target = serverName
	}
	if !refPattern.MatchString(ref) || strings.Contains(ref, "..") {
		return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.ref` is no branch, tag or commit: %.80q", ref)
	}
	targets := append([]string{target}, w.Beside...)
	for _, t := range targets {
		if !targetPattern.MatchString(t) {
			return Plan{}, task.Errorf(task.InvalidParams, "%.80q is no target of a build", t)
		}
	}
	flags := slices.Clone(buildFlags)
	for _, flag := range w.CMakeFlags {
		if !flagPattern.MatchString(flag) {
			return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.cmake_flags` holds %.80q, which is not -DNAME=VALUE", flag)
		}
		flags = append(flags, flag) // of two flags with one name, the later one wins
	}
	p.Flags, p.BuildRef, p.commit = flags, ref, true
	from, shallow := w.Repository, false
	var identity string
	switch {
	case from == "":
		from, identity = filepath.Join(llamaSource.dir(m.CacheDir), sourceFile), "pinned:"+llamaSource.pin.integrity
		p.Version = LlamaVersion
		p.pin(m, llamaSource)
	case strings.Contains(from, "://"):
		u, err := url.Parse(from)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.repository` has to be an https:// URL without credentials, a folder or a bundle")
		}
		identity, shallow = from, true
		p.Steps = append(p.Steps, Step{Do: Allow, Why: "the policy allows calls to the repository", URL: from})
	default:
		if !filepath.IsAbs(from) {
			return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.repository` has to be an https:// URL or an absolute path, not %.80q", from)
		}
		var err error
		if identity, err = identify(from); err != nil {
			return Plan{}, task.Errorf(task.InvalidParams, "`provisioning.repository` cannot be read: correct it").Because(err)
		}
	}
	p.inCache(m, nameOf(ref), keyOf([]any{identity, ref, strings.Join(targets, " "), flags, m.Platform}))
	p.Tools = append(p.Tools, "git", "cmake", "ninja", "c++")
	if slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, "-DGGML_CUDA=") && strings.HasSuffix(f, "ON") }) {
		p.Tools = append(p.Tools, "nvcc")
	}
	// git must not ask anybody, must not follow to a place that the policy has not decided about, and must not use another protocol.
	env := []string{"GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=https:file", "LC_ALL=C"}
	get := []string{"git", "-C", "source", "-c", "http.followRedirects=false", "fetch", "--quiet", "--no-tags"}
	if shallow {
		get = append(get, "--depth", "1")
	}
	configure := append([]string{"cmake", "-S", "source", "-B", "build", "-G", "Ninja"}, flags...)
	build := append(append([]string{"cmake", "--build", "build", "--target"}, targets...), "--parallel", strconv.Itoa(max(m.Jobs, 1)))
	install := []string{"install", "-D", "-m", "755", "-t", "out"}
	for _, t := range targets {
		install = append(install, filepath.Join("build", "bin", t))
	}
	for _, s := range []Step{
		{Why: "make a repository", Argv: []string{"git", "init", "--quiet", "source"}},
		{Why: "get " + ref, Argv: append(get, from, ref)},
		{Why: "check it out", Argv: []string{"git", "-C", "source", "checkout", "--quiet", "--detach", "FETCH_HEAD"}},
		{Why: "configure", Argv: configure},
		{Why: "build " + strings.Join(targets, " and ") + "; llama.cpp's takes about ten minutes on two cores", Argv: build},
		{Why: "take what was built", Argv: install},
	} {
		s.Do, s.Dir, s.Env = Command, p.work, env
		p.Steps = append(p.Steps, s)
	}
	p.placed(target)
	return p, nil
}

// nameOf turns a ref into a part of a file name.
func nameOf(ref string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' {
			return '_'
		}
		return r
	}, ref[:min(len(ref), 60)])
}

// identify names a bundle by the digest of its content, and a folder, whose content changes, by its path.
func identify(from string) (string, error) {
	st, err := os.Stat(from)
	switch {
	case err != nil:
		return "", err
	case st.IsDir():
		return from, nil
	case !st.Mode().IsRegular():
		return "", fmt.Errorf("%s: %w", from, errors.Join(fs.ErrInvalid))
	}
	f, err := inspect(from)
	return "sha256:" + f.SHA256, err
}
