// SPDX-License-Identifier: GPL-3.0-or-later

// Package fuzz runs the fuzz targets of the parsers that read bytes from outside (LO-860).
package fuzz

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"time"
)

//go:embed parsers.txt
var parsers []byte

// Target is a fuzz target.
type Target struct {
	Reads   string // what is read
	Package string // below the repository's root
	Name    string
}

func (t Target) String() string { return t.Package + "." + t.Name }

// Targets are those of parsers.txt.
func Targets() (all []Target, err error) {
	lines := bufio.NewScanner(bytes.NewReader(parsers))
	for lines.Scan() {
		if lines.Text() == "" || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		reads, names, ok := strings.Cut(lines.Text(), ": ")
		if !ok || names == "" {
			return nil, fmt.Errorf("parsers.txt: %q names no target", lines.Text())
		}
		for name := range strings.FieldsSeq(names) {
			dir, base := path.Split(name)
			pkg, target, ok := strings.Cut(base, ".")
			if !ok {
				return nil, fmt.Errorf("parsers.txt: %q is no package.Target", name)
			}
			all = append(all, Target{reads, dir + pkg, target})
		}
	}
	return all, nil
}

// Options say what to run.
type Options struct {
	Dir    string         // the repository's root; empty: here
	Only   *regexp.Regexp // of package.Target; nil: all
	Within time.Duration  // what all targets have together, without their builds
	Out    io.Writer
}

// least is what a target needs to be worth its start.
const least = time.Second

// Run runs one target after the other, each for its share of the time, and prints a table of what each did. The error names those that found something: what they found
// is in testdata/fuzz of their package.
func Run(ctx context.Context, o Options) error {
	targets, err := Targets()
	if err != nil {
		return err
	}
	chosen := targets[:0]
	for _, t := range targets {
		if o.Only == nil || o.Only.MatchString(t.String()) {
			chosen = append(chosen, t)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no target of ci/fuzz/parsers.txt matches %q", o.Only)
	}
	each := max(o.Within/time.Duration(len(chosen)), least).Round(time.Second)
	fmt.Fprintf(o.Out, "%d targets, %s each\n\n| target | executions | new inputs | found |\n|---|---:|---:|---|\n", len(chosen), each)
	var found []string
	for _, t := range chosen {
		said, err := run(ctx, o.Dir, t, each)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r := read(said)
		word := "nothing"
		if err != nil {
			word = "**something**"
			found = append(found, t.String())
		}
		fmt.Fprintf(o.Out, "| %s | %s | %s | %s |\n", t, r.executions, r.inputs, word)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n%s\n", t, err, said)
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("these found something: %s", strings.Join(found, ", "))
	}
	return nil
}

// slow is what a target may take beside its time: its build, and the minimising of what it found.
const slow = 5 * time.Minute

func run(ctx context.Context, dir string, t Target, each time.Duration) (string, error) {
	ctx, stop := context.WithTimeout(ctx, each+slow)
	defer stop()
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.Name+"$", "-fuzztime", each.String(), "-vet=off", "./"+t.Package)
	cmd.Dir = dir
	said, err := cmd.CombinedOutput()
	if err != nil && overrun.Match(said) {
		err = nil
	}
	return string(said), err
}

// overrun is how a target ends whose last input ran when its time was over. Go's fuzzer calls that a failure, without an input that failed.
var overrun = regexp.MustCompile(`(?m)^--- FAIL: \S+ \(\S+\)\n\s+context deadline exceeded\n`)

type figures struct{ executions, inputs string }

var progress = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+)`)

// read takes the figures of the last line of progress.
func read(said string) figures {
	all := progress.FindAllStringSubmatch(said, -1)
	if len(all) == 0 {
		return figures{"–", "–"}
	}
	last := all[len(all)-1]
	return figures{last[1], last[2]}
}
