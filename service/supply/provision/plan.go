// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Mode says where an engine comes from (ORCH-3200).
type Mode string

// The modes.
const (
	Builtin   Mode = "builtin"
	External  Mode = "external"
	Binary    Mode = "binary"
	System    Mode = "package"
	Container Mode = "container"
	Source    Mode = "source"
)

// Want is the engine that a pool's configuration asks for.
type Want struct {
	Pool string
	Mode Mode
	GPU  bool     // the engine is to use a GPU
	URLs []string // external: of the engines

	Path   string // binary: the program, or with URL its path in the archive; package: the program; empty: llama-server
	URL    string // binary: what to fetch
	Digest string // binary: of the download, sha256:<hex>

	Package       string // package: its name
	AllowPackages bool   // package: the configuration allows it

	Runtime string // container: docker or podman
	Image   string // container
	Model   string // container: the model's file to mount, or its folder
	// Hub: the container has an engine of Python, which takes a model's folder, and compiles code in the memory that it may write to.
	Hub    bool
	KeyEnv string   // container: the variable of the engine's key; empty: llama-server's
	Env    []string // container: further variables, each NAME=VALUE

	Repository string   // source: a git URL, a folder or a bundle; empty: the packaged bundle of llama.cpp
	Ref        string   // source: a branch, tag or commit; empty: HEAD
	CMakeFlags []string // source: each -DNAME=VALUE
	Target     string   // source: what to build; empty: llama-server
	Beside     []string // source: further targets of the same build, whose programs are put beside the first
}

// Machine is what a plan needs to know about its machine.
type Machine struct {
	CacheDir string
	Platform string // as npm names it
	Jobs     int    // of a build
	UID, GID int
	Manager  string // package manager: pacman, apt-get, or empty: none that is known
}

// ThisMachine returns the machine that the program runs on.
func ThisMachine(o Options) (Machine, error) {
	cache, err := o.cacheDir()
	if err != nil {
		return Machine{}, err
	}
	m := Machine{CacheDir: cache, Platform: platform(), Jobs: runtime.NumCPU(), UID: os.Getuid(), GID: os.Getgid()}
	for _, manager := range []string{"pacman", "apt-get"} {
		if _, err := exec.LookPath(manager); err == nil {
			m.Manager = manager
			break
		}
	}
	return m, nil
}

// User returns a Machine with only the user filled in, which is all that a container's command needs.
func User() Machine { return Machine{UID: os.Getuid(), GID: os.Getgid()} }

// Kind says what a step does.
type Kind string

// The kinds of steps.
const (
	Allow    Kind = "allow"   // asks the policy about a call to URL
	Download Kind = "fetch"   // downloads URL to File, and checks Digest
	Command  Kind = "run"     // runs Argv in Dir with Env on top, unless Unless succeeds
	Unpack   Kind = "unpack"  // unpacks the archive File to the folder Into
	Pinned   Kind = "package" // runs Argv, checks the tarball's Digest, and puts the wanted files in Into
	Check    Kind = "check"   // checks that File is a program
	Place    Kind = "place"   // renames File to Into
)

// Step is one step of a plan. Fields that do not apply to its kind are empty.
type Step struct {
	Do     Kind     `json:"do"`
	Why    string   `json:"why"`
	Argv   []string `json:"argv,omitempty"`
	Dir    string   `json:"dir,omitempty"`
	Env    []string `json:"env,omitempty"`
	Unless []string `json:"unless,omitempty"`
	// UnlessSays is what the output of Unless must begin with for the step to be left out; empty: anything.
	UnlessSays string `json:"unless_says,omitempty"`
	URL        string `json:"url,omitempty"`
	File       string `json:"file,omitempty"`
	Digest     string `json:"digest,omitempty"`
	Format     string `json:"format,omitempty"`
	Into       string `json:"into,omitempty"`
}

// Launch says how to run a container for one replica. The supervisor fills in {name}, {port}, and {cards} or {card}.
type Launch struct {
	Argv   []string `json:"argv"` // up to the image; llama-server's own arguments follow
	GPUs   []string `json:"gpus"` // goes before the image if the replica has cards: once, or for each card if it contains {card}
	Image  string   `json:"image"`
	Model  string   `json:"model"` // the model's path inside
	Port   int      `json:"port"`  // on which llama-server listens inside
	Remove []string `json:"remove"`
}

// Plan has all steps that prepare an engine, known before any of them is done. The same Want on the same Machine gives the same plan, byte for
// byte.
type Plan struct {
	Pool     string   `json:"pool_id"`
	Mode     Mode     `json:"mode"`
	Tools    []string `json:"tools"` // programs that the steps need
	Steps    []Step   `json:"steps"`
	Folder   string   `json:"folder,omitempty"` // in the cache; if it is there and whole, the steps are left out
	Program  string   `json:"program,omitempty"`
	Version  string   `json:"version,omitempty"`
	BuildRef string   `json:"build_ref,omitempty"`
	Flags    []string `json:"flags,omitempty"`
	Launch   *Launch  `json:"launch,omitempty"`

	key    string   // of the folder's content
	work   string   // the folder of the steps' intermediate files
	ask    []string // a command that prints the version
	commit bool     // the build ref is the commit that was checked out in work/source
	pinned *artifact
}

// Prepared is an engine that is ready to be started (OC-CAT-56).
type Prepared struct {
	Engine   string   `json:"engine"`
	Mode     Mode     `json:"mode"`
	Version  string   `json:"version"`
	BuildRef string   `json:"build_ref"`
	Digest   string   `json:"digest"`
	Flags    []string `json:"flags"`
	Path     string   `json:"path"` // of the program, or of the folder of libraries; for a container, the image
}

// serverName is the name of the program.
const serverName = "llama-server"

// MakePlan makes a plan. An error says what in the configuration is impossible.
func MakePlan(w Want, m Machine) (Plan, error) {
	switch w.Mode {
	case Builtin:
		return planBuiltin(w, m)
	case External:
		return planExternal(w), nil
	case Binary:
		return planBinary(w, m)
	case System:
		return planPackage(w, m)
	case Container:
		return planContainer(w, m)
	case Source:
		return planSource(w, m)
	}
	return Plan{}, task.Errorf(task.InvalidParams, "there is no provisioning mode %.40q: use builtin, external, binary, package, container or source", w.Mode)
}

// keyOf makes a key from everything that the content depends on.
func keyOf(parts any) string {
	data, err := json.Marshal(parts)
	if err != nil { // strings always encode
		panic(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// inCache gives the plan its folder in the cache. The name has a part for people, and the key.
func (p *Plan) inCache(m Machine, name, key string) {
	parent := filepath.Join(m.CacheDir, "engines", string(p.Mode))
	p.key, p.Folder = key, filepath.Join(parent, name+"-"+key[:16])
	p.work = filepath.Join(parent, ".preparing-"+filepath.Base(p.Folder))
}

// placed appends the last step of a plan whose result goes into the cache.
func (p *Plan) placed(program string) {
	p.Program = filepath.Join(p.Folder, program)
	p.Steps = append(p.Steps,
		Step{Do: Check, Why: "it is a program", File: filepath.Join(p.work, "out", program)},
		Step{Do: Place, Why: "put it in its place, whole, with a manifest of its digests", File: filepath.Join(p.work, "out"), Into: p.Folder})
}

// String returns the plan as text for people.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pool %s: mode %s\n", p.Pool, p.Mode)
	if len(p.Tools) > 0 {
		fmt.Fprintf(&b, "  needs: %s\n", strings.Join(p.Tools, ", "))
	}
	if p.Folder != "" {
		fmt.Fprintf(&b, "  unless %s is there and whole:\n", p.Folder)
	}
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "  %d. %s: %s\n", i+1, s.Do, s.Why)
		for _, line := range []struct{ name, text string }{
			{"unless", unless(s)},
			{"command", quoted(s.Argv)},
			{"in", s.Dir},
			{"with", quoted(s.Env)},
			{"url", s.URL},
			{"file", s.File},
			{"digest", s.Digest},
			{"into", s.Into},
		} {
			if line.text != "" {
				fmt.Fprintf(&b, "     %-8s %s\n", line.name+":", line.text)
			}
		}
	}
	if l := p.Launch; l != nil {
		fmt.Fprintf(&b, "  each replica: %s", quoted(l.Argv))
		if len(l.GPUs) > 0 {
			fmt.Fprintf(&b, " %s", quoted(l.GPUs))
		}
		fmt.Fprintf(&b, " %s …\n  and its end:  %s\n", l.Image, quoted(l.Remove))
	}
	if p.Program != "" {
		fmt.Fprintf(&b, "  gives: %s\n", p.Program)
	}
	return b.String()
}

func unless(s Step) string {
	text := quoted(s.Unless)
	if s.UnlessSays != "" {
		text += " says " + s.UnlessSays
	}
	return text
}

// quoted returns a command as one would type it.
func quoted(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		if words[i] = word; word == "" || strings.ContainsAny(word, " \t\n\"'\\$`*?[]{}()<>|&;#~!") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
