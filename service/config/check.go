// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/task"
)

// Check looks at what the configuration needs on this machine: model files, programs, the API token. Load does not look at these.
// `orchestratord check` calls it. A failure is an *Error with every problem found. The pools find out later whether there is a GPU and
// whether a digest is right, and then they try again.
func (c Config) Check() error { return c.CheckPools(func(Pool) bool { return true }) }

// CheckPools is Check for the pools of which the function says so, and for what is of no pool. The daemon starts whatever its pools are
// like, since each fails alone (LO-840).
func (c Config) CheckPools(of func(Pool) bool) error {
	ps := &problems{file: c.Path}
	switch {
	case c.Token != "" || c.Auth.OptionalOnLoopback && c.Loopback():
	case c.Loopback():
		ps.addEnv(c.Auth.TokenEnv, "no API token is set, and auth.optional_on_loopback is false",
			"set the variable, as to the output of `openssl rand -hex 32`, or set auth.optional_on_loopback: true to let every program on this machine in")
	default:
		ps.addEnv(c.Auth.TokenEnv, fmt.Sprintf("no API token is set, and other machines can reach %s", c.BindAddr),
			"set the variable, as to the output of `openssl rand -hex 32`, or listen on 127.0.0.1")
	}
	for i, p := range c.Pools {
		path := fmt.Sprintf("pools[%d]", i)
		if c.Token == "" && registersAlone(p) {
			ps.addEnv(c.Auth.TokenEnv, fmt.Sprintf("no API token is set, and only engines that register themselves serve pool %s, which always takes the token", p.ID),
				"set the variable, as to the output of `openssl rand -hex 32`, or name the engines under provisioning.urls")
		}
		if !of(p) {
			continue
		}
		if p.Model.Path != "" && p.Engine != task.Command { // whose models are of many kinds
			look := gguf
			if hubProgram(p.Engine) != "" {
				look = folder
			}
			if what, remedy := look(p.Model.Path); what != "" {
				ps.add(c.where.of(path+".model.ref"), what, remedy)
			}
		}
		if p.Provisioning.Mode == ModeBinary && p.Provisioning.URL == "" {
			if _, err := exec.LookPath(p.Provisioning.Path); err != nil {
				remedy := "install llama-server or build one with `go tool mage engine:llamaServer`, or correct the path"
				if program := hubProgram(p.Engine); program != "" {
					remedy = "install " + program + ", or correct the path"
				}
				ps.add(c.where.of(path+".provisioning.path"), fmt.Sprintf("there is no program %s", task.Clip(p.Provisioning.Path, maxQuote)), remedy)
			}
		}
	}
	return ps.err()
}

// gguf says what is wrong with a model's file. It returns "" if nothing is wrong.
func gguf(path string) (what, remedy string) {
	info, err := os.Stat(path) // before the open, because to open a named pipe would wait
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "there is no model file " + path, "put it there, or correct model.ref; a relative path starts at this file's folder"
	case err != nil:
		return "the model file " + path + " cannot be looked at", "let the user who runs orchestratord into its folder"
	case !info.Mode().IsRegular():
		return path + " is no file", "name the model's .gguf file"
	case info.Size() == 0: // a file of the kernel's, of which a read may wait for ever
		return path + " is empty", "name the model's .gguf file"
	}
	f, err := os.Open(path)
	if err != nil {
		return "the model file " + path + " cannot be opened", "let the user who runs orchestratord read it"
	}
	defer f.Close() // nothing was written
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "GGUF" {
		return path + " is no GGUF file", "name the model's .gguf file, and fetch it again if it was cut short"
	}
	return "", ""
}

// Describe says in plain sentences what the daemon would do: one line about itself, one for each pool.
func (c Config) Describe() string {
	var b strings.Builder
	who := "callers need the API token"
	switch {
	case c.Loopback() && c.Auth.OptionalOnLoopback:
		who = "callers on this machine need no token"
	case c.Token == "":
		who = "callers need the API token, which is not set"
	}
	tls := ""
	if c.TLS.Cert != "" {
		tls = " with TLS"
	}
	fmt.Fprintf(&b, "Would listen on %s%s; %s. State is kept in %s.\n", c.BindAddr, tls, who, c.DataDir)
	if c.Announce.MDNS {
		b.WriteString("Would be announced on the local network by multicast DNS.\n")
	}
	for _, p := range c.Pools {
		fmt.Fprintf(&b, "Pool '%s' would serve %s as \"%s\" %s%s; at most %s wait, %s; a task ends after %s, after %s without a first token or progress, or after %s without a further one.\n",
			p.ID, plural(p.Workload), p.Model.ID, c.workers(p), shape(p), count(p.Queue.Capacity, "task"), full(p.Queue), spoken(p.Timeouts.Wall), spoken(p.Timeouts.Prefill), spoken(p.Timeouts.Idle))
	}
	return b.String()
}

func plural(w task.Workload) string {
	switch w {
	case task.Embedding:
		return "embeddings"
	case task.Rerank:
		return "reranks"
	case task.Opaque:
		return "requests"
	case task.Completion:
	}
	return "completions"
}

// workers says in words what serves a pool.
func (c Config) workers(p Pool) string {
	switch p.Provisioning.Mode {
	case ModeExternal:
		if registersAlone(p) {
			return "from engines that register themselves"
		}
		return fmt.Sprintf("from %s (%s)", count(p.Replicas, "running engine"), strings.Join(p.Provisioning.URLs, ", "))
	case ModeBinary, ModePackage, ModeContainer, ModeSource:
		return fmt.Sprintf("by %s of %s on %s, with %s", count(p.Replicas, "process"), p.Provisioning.spoken(), p.Device.spoken(), p.Model.from())
	}
	return fmt.Sprintf("by %s on %s, with %s", count(p.Replicas, "built-in worker"), p.Device.spoken(), p.Model.from())
}

// from says in words where the model is.
func (m Model) from() string {
	if m.Path == "" {
		return m.Canonical + " (fetched if it is not in the catalog)"
	}
	return m.Path
}

// spoken says in words which llama-server the processes run.
func (v Provisioning) spoken() string {
	switch {
	case v.Mode == ModePackage:
		return "the system package " + v.Package
	case v.Mode == ModeContainer:
		return "the " + v.Runtime + " image " + v.Image
	case v.Mode == ModeSource && v.Repository == "":
		return "a llama-server built from the packaged source"
	case v.Mode == ModeSource:
		return "a llama-server built from " + v.Repository + " at " + v.Ref
	case v.URL != "":
		return v.URL
	}
	return v.Path
}

// registersAlone reports whether a pool has only engines that register themselves.
func registersAlone(p Pool) bool {
	return p.Provisioning.Mode == ModeExternal && len(p.Provisioning.URLs) == 0
}

func (d Device) spoken() string {
	switch {
	case d == CPU:
		return "the CPU (slow for large models)"
	case d == Auto:
		return "the GPU that holds it, never the CPU"
	case strings.Contains(string(d), ","):
		return "GPUs " + strings.ReplaceAll(string(d), ",", " and ") + " together"
	}
	return "GPU " + string(d)
}

func shape(p Pool) string {
	s := ", " + count(p.Slots, "slot") + " each"
	if p.Strict() {
		s += " (the same request gives the same bytes)"
	}
	if p.Ctx > 0 {
		s += " of " + count(p.Ctx, "token")
	}
	if p.Pace > 0 {
		s += fmt.Sprintf(", slowed to %g tokens a second", p.Pace)
	}
	if p.Lifecycle == LifecycleOnDemand {
		s += ", loaded when a task needs it and unloaded when idle for " + spoken(p.IdleTTL)
	}
	return s
}

func full(q Queue) string {
	if q.FullPolicy == PolicyDropLRU {
		return "and beyond that the one that has waited longest is dropped"
	}
	return "and beyond that newcomers are refused"
}

func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "s"):
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// spoken writes a duration without the zeros at its end.
func spoken(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
