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
	"regexp"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// Fetcher downloads.
type Fetcher interface {
	// Fetch downloads what a ref (https://…) names into a folder, and returns the file. If the file has another digest, that is an error and the
	// file is removed.
	Fetch(ctx context.Context, ref, into, digest string, progress func(done, total int64)) (path string, size int64, got string, err error)
}

// Decider is asked before every call that leaves the machine (ORCH-3080).
type Decider interface {
	// Decide returns nil if the call to SCHEME://HOST… may be made.
	Decide(ctx context.Context, target string) error
}

// Recorder records what was prepared, in the engine catalog (OC-CAT-56).
type Recorder interface {
	Prepared(e Prepared) error
	// Checked counts a downloaded engine whose bytes were compared with the configured digest.
	Checked(engine string, matches bool)
}

// ByHand allows everything. It is for commands that somebody runs themselves, who thereby decides about the calls.
type ByHand struct{}

// Decide allows.
func (ByHand) Decide(context.Context, string) error { return nil }

// Run does the steps of a plan, unless that was done before, and records the result. If it ends early, it leaves nothing that could be taken
// for whole.
func Run(ctx context.Context, o Options, p Plan) (Prepared, error) {
	e, err := o.prepare(ctx, p)
	if err != nil {
		return Prepared{}, fmt.Errorf("preparing the engine of pool %s: %w", p.Pool, err)
	}
	if o.Record != nil && p.Mode != External {
		if err := o.Record.Prepared(e); err != nil {
			return Prepared{}, err
		}
	}
	return e, nil
}

func (o Options) prepare(ctx context.Context, p Plan) (Prepared, error) {
	if p.Folder == "" {
		if err := Preflight(p); err != nil && p.pinned == nil { // a pinned package may be there already, and then needs no tool
			return Prepared{}, err
		}
		if err := o.steps(ctx, p); err != nil {
			return Prepared{}, err
		}
		return o.facts(ctx, p, "")
	}
	if e, ok := p.cached(); ok {
		return e, nil
	}
	if err := Preflight(p); err != nil {
		return Prepared{}, err
	}
	parent := filepath.Dir(p.Folder)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return Prepared{}, fmt.Errorf("making the cache folder: %w", err)
	}
	unlock, err := lock(ctx, p.work+".lock")
	if err != nil {
		return Prepared{}, err
	}
	defer unlock()
	if e, ok := p.cached(); ok { // another process was faster
		return e, nil
	}
	if err := os.RemoveAll(p.work); err != nil { // left by a process that was killed
		return Prepared{}, err
	}
	if err := os.MkdirAll(filepath.Join(p.work, "out"), 0o755); err != nil {
		return Prepared{}, err
	}
	defer os.RemoveAll(p.work)
	if err := o.steps(ctx, p); err != nil {
		return Prepared{}, err
	}
	e, ok := p.cached()
	if !ok {
		return Prepared{}, fmt.Errorf("%s changed while it was prepared", p.Folder)
	}
	return e, nil
}

// pin returns what goes into the manifest: what the folder was made from.
func (p Plan) manifestPin() pin {
	return pin{name: string(p.Mode), version: p.BuildRef, integrity: p.key}
}

func (p Plan) cached() (Prepared, bool) {
	m, err := verify(p.Folder, p.manifestPin())
	if err != nil || m.Engine == nil {
		return Prepared{}, false
	}
	return *m.Engine, true
}

func (o Options) steps(ctx context.Context, p Plan) error {
	for i, s := range p.Steps {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		o.say("%d/%d %s", i+1, len(p.Steps), s.Why)
		if err := o.step(ctx, p, s); err != nil {
			return fmt.Errorf("step %d of %d (%s): %w", i+1, len(p.Steps), s.Why, err)
		}
	}
	return nil
}

func (o Options) step(ctx context.Context, p Plan, s Step) error {
	if done, err := o.done(ctx, s); err != nil || done {
		return err
	}
	switch s.Do {
	case Allow:
		if s.URL == npmCalls && p.pinned.there(o) {
			return nil // this step makes no call
		}
		if o.Decide == nil {
			return task.Errorf(task.PolicyDenied, "there is no policy that could allow the call to %s", s.URL)
		}
		return o.Decide.Decide(ctx, s.URL)
	case Download:
		return o.download(ctx, s)
	case Pinned:
		_, err := p.pinned.ensure(ctx, o)
		return err
	case Command:
		_, err := command(ctx, s.Dir, s.Env, s.Argv, o.Output)
		return err
	case Unpack:
		return unpackStep(ctx, s)
	case Check:
		_, err := programAt(s.File)
		return err
	case Place:
		return o.place(ctx, p, s)
	}
	return fmt.Errorf("the plan has an unknown kind of step, %q", s.Do)
}

func (o Options) download(ctx context.Context, s Step) error {
	err := o.bring(ctx, s)
	if differs := task.HasCode(err, task.UntrustedArtifact); o.Record != nil && (err == nil || differs) {
		o.Record.Checked(task.LlamaCpp, !differs)
	}
	return err
}

// bring downloads a file, and returns nil if it is in its place and has its digest.
func (o Options) bring(ctx context.Context, s Step) error {
	if o.Fetch == nil {
		return task.Errorf(task.NotImplemented, "this program downloads no engines: fetch %s yourself, and give its `path`", s.URL)
	}
	into := s.File + ".part"
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	last := int64(-1)
	got, _, _, err := o.Fetch.Fetch(ctx, s.URL, into, s.Digest, func(done, total int64) {
		if total > 0 && done*10/total != last { // each tenth
			last = done * 10 / total
			o.say("downloaded %d of %d MB", done>>20, total>>20)
		}
	})
	if err != nil {
		return err
	}
	f, err := inspect(got) // trust the file itself, not what was said about it
	if err != nil {
		return err
	}
	if digest := "sha256:" + f.SHA256; digest != s.Digest {
		return task.Errorf(task.UntrustedArtifact, "%s has the digest %s, and not the configured %s: do not use it, or correct `provisioning.digest`", s.URL, digest, s.Digest)
	}
	return os.Rename(got, s.File)
}

// done reports whether a step need not be done.
func (o Options) done(ctx context.Context, s Step) (bool, error) {
	if len(s.Unless) == 0 {
		return false, nil
	}
	said, ok, err := ask(ctx, s.Dir, s.Env, s.Unless)
	return ok && strings.HasPrefix(said, s.UnlessSays), err
}

func unpackStep(ctx context.Context, s Step) error {
	if s.Format != "" {
		return unpackTree(ctx, s.Format, s.File, s.Into, engineBounds)
	}
	if err := os.Chmod(s.File, 0o755); err != nil { //nolint:gosec // it is a program
		return err
	}
	return os.Rename(s.File, s.Into)
}

// programAt finds a program: by its path, or in PATH.
func programAt(name string) (string, error) {
	found, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is no program that can be run: %w", name, err)
	}
	return filepath.Abs(found)
}

// place writes the manifest and gives the folder its name.
func (o Options) place(ctx context.Context, p Plan, s Step) error {
	e, err := o.facts(ctx, p, s.File)
	if err != nil {
		return err
	}
	if err := writeManifest(s.File, p.manifestPin(), &e); err != nil {
		return err
	}
	return replace(s.File, s.Into, filepath.Join(p.work, "old"))
}

var versionLine = regexp.MustCompile(`(?m)^version: (\S.{0,99})$`)

// facts returns what is known about the prepared engine. out is the folder where it is before it gets its place.
func (o Options) facts(ctx context.Context, p Plan, out string) (e Prepared, err error) {
	e = Prepared{Engine: task.LlamaCpp, Mode: p.Mode, Version: p.Version, BuildRef: p.BuildRef, Flags: append([]string{}, p.Flags...), Path: p.Program}
	said := ""
	if len(p.ask) > 0 {
		if said, _, err = ask(ctx, "", []string{"LC_ALL=C"}, p.ask); err != nil {
			return e, err
		}
	}
	if p.commit {
		commit, ok, err := ask(ctx, p.work, nil, []string{"git", "-C", "source", "rev-parse", "HEAD"})
		if err != nil || !ok {
			return e, errors.Join(errors.New("git does not say which commit was built"), err)
		}
		e.BuildRef = commit
		if e.Version == "" {
			e.Version = p.BuildRef
		}
	}
	switch p.Mode {
	case Container:
		e.Path, e.Digest, e.Version = said, said, p.BuildRef
		if !strings.HasPrefix(said, "sha256:") { // podman leaves the prefix out
			e.Digest = "sha256:" + said
		}
		if !digestPattern.MatchString(e.Digest) {
			return e, fmt.Errorf("%s does not say the digest of image %s, but %.200q", p.Tools[0], p.BuildRef, said)
		}
		return e, nil
	case System:
		if fields := strings.Fields(said); len(fields) > 0 {
			e.Version = fields[len(fields)-1]
		}
	case Binary:
		if m := versionLine.FindStringSubmatch(said); m != nil {
			e.Version = m[1]
		}
	case Builtin:
		e.Digest, err = digestLibs(p.Program)
		return e, err
	case External:
		return e, nil
	case Source:
	}
	if e.Version == "" {
		e.Version = "unknown"
	}
	file, err := p.file(out)
	if err != nil {
		return e, err
	}
	if out == "" {
		e.Path = file
	}
	f, err := inspectFile(file)
	e.Digest = "sha256:" + f.SHA256
	return e, err
}

// file returns the program's path within out, the folder where it is before it gets its place.
func (p Plan) file(out string) (string, error) {
	if out == "" {
		return programAt(p.Program)
	}
	rel, err := filepath.Rel(p.Folder, p.Program)
	return filepath.Join(out, rel), err
}

// Found records an engine that needed none of its plan's steps: the libraries of the built-in worker, or a program that a path names.
func Found(ctx context.Context, o Options, p Plan) error {
	e, err := o.facts(ctx, p, "")
	if err != nil {
		return fmt.Errorf("looking at the engine of pool %s: %w", p.Pool, err)
	}
	if o.Record == nil {
		return nil
	}
	return o.Record.Prepared(e)
}

// digestLibs returns one digest over all shared libraries of a folder. It is the one in the replicas' fingerprint.
func digestLibs(dir string) (string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.so*")) // sorted
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", fmt.Errorf("there are no libraries in %s", dir)
	}
	hash := sha256.New()
	for _, name := range names {
		f, err := inspectFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s sha256:%s\n", filepath.Base(name), f.SHA256)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
}
