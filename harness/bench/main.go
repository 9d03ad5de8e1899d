// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/llama-orch/llama-orch/harness/process"
)

// limit bounds a whole run, even if something hangs.
const limit = 10 * time.Minute

func main() {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			if err := role(os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
				os.Exit(1)
			}
			return
		}
	}
	var o flags
	flag.BoolVar(&o.quick, "quick", false, "fewer and shorter rounds")
	flag.StringVar(&o.only, "only", "stream,task,front,accept,recover,resume,batch", "the parts to run")
	flag.StringVar(&o.load, "load", "", "only the loads of streams and tasks whose names contain this, such as 500")
	flag.StringVar(&o.exe, "daemon", "", "the orchestratord to measure; default: built from this checkout")
	flag.StringVar(&o.against, "against", "", "another orchestratord, measured in the same rounds, instead of the one with its ledger in memory")
	flag.StringVar(&o.dir, "dir", "", "folder for the data on disk; default: the user's cache folder, since /tmp may be no disk")
	flag.StringVar(&o.profile, "profile", "", "run the measured daemon inside a profiler and write its CPU profile to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the run took longer than %s", limit))
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type flags struct {
	quick   bool
	only    string
	load    string
	exe     string
	against string
	dir     string
	profile string
}

// roles are this program's other processes.
var roles = map[string]func(args []string) error{
	"stub":     stubMain,
	"proxy":    proxyMain,
	"floor":    floorMain,
	"profiled": profiledMain,
}

// lab is what the parts of a run share.
type lab struct {
	flags
	ctx      context.Context
	out      io.Writer
	self     string
	disk     string // a folder on the disk
	memory   string // a folder in memory
	stub     *child
	launcher *process.Launcher
	count    int // of daemons, for their folders' names
}

func run(ctx context.Context, o flags) (err error) {
	l := &lab{flags: o, ctx: ctx, out: os.Stdout, launcher: process.NewLauncher()}
	defer l.launcher.Close()
	if l.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	if l.dir == "" {
		if l.dir, err = os.UserCacheDir(); err != nil {
			return fmt.Errorf("find the cache folder: %w; name one with -dir", err)
		}
	}
	for dir, into := range map[string]*string{l.dir: &l.disk, "/dev/shm": &l.memory} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make a folder for the data: %w", err)
		}
		if *into, err = os.MkdirTemp(dir, "llama-orch-bench-"); err != nil {
			return fmt.Errorf("make a folder for the data: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(*into)) }()
	}
	if l.exe == "" {
		l.exe = filepath.Join(l.disk, "orchestratord")
		if err := process.Build(ctx, "", l.exe, "github.com/llama-orch/llama-orch/cmd/orchestratord"); err != nil {
			return err
		}
	}
	l.stub, err = l.start("stub")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nthe stub's log:\n%s", err, l.stub.Tail(10))
		}
		err = errors.Join(err, l.stub.end())
	}()

	begun := time.Now()
	fmt.Fprintf(l.out, "%s, %s, %d CPUs, load %s\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.Version(), runtime.NumCPU(), loadAverage())
	for _, part := range []struct {
		name string
		run  func() error
	}{{"stream", l.streams}, {"task", l.tasks}, {"front", l.fronts}, {"accept", l.accepts}, {"recover", l.recovery}, {"resume", l.resumes}, {"batch", l.batches}} {
		if !strings.Contains(l.only, part.name) {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	fmt.Fprintf(l.out, "\ntook %.0f s, load at the end %s\n", time.Since(begun).Seconds(), loadAverage())
	return nil
}
