// SPDX-License-Identifier: GPL-3.0-or-later

// Command orchestratord is the daemon. `serve` runs it. `check` says what a configuration would do, and `plan` how its engines would be prepared.
// `libs` fetches the libraries of the built-in engine.
// `ledger` looks at the record of tasks. `backup` copies what the data folder keeps, and `restore` puts it back. `worker` is the built-in engine, `guard` ends what a killed daemon leaves, and
// `announce` lets the daemon be found on the network; `serve` starts them.
//
// Exit codes: 0 it ended well, 1 it failed, 2 bad usage or configuration. A worker also has 3 (model) and 4 (libraries), and `backup` 5: it is made, and something was damaged already.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/internal/stamp"
	"github.com/llama-orch/llama-orch/service/app"
	"github.com/llama-orch/llama-orch/service/config"
	"github.com/llama-orch/llama-orch/service/control"
	"github.com/llama-orch/llama-orch/service/control/announce"
	"github.com/llama-orch/llama-orch/service/control/datafolder"
	"github.com/llama-orch/llama-orch/service/fleet/process"
	"github.com/llama-orch/llama-orch/service/fleet/worker"
	"github.com/llama-orch/llama-orch/service/observe"
	"github.com/llama-orch/llama-orch/service/record/ledger/postgres"
	"github.com/llama-orch/llama-orch/service/spare"
	"github.com/llama-orch/llama-orch/service/supply/provision"
	"github.com/llama-orch/llama-orch/service/task"
)

// Set by the build.
var (
	version = "dev"
	commit  = "unknown"
)

const (
	exitFailure = 1
	exitUsage   = 2
	exitDamaged = 5
)

type cli struct {
	Serve    serveCmd    `cmd:"" help:"Run the orchestrator until SIGINT or SIGTERM."`
	Check    checkCmd    `cmd:"" help:"Validate a configuration and say what it would do."`
	Plan     planCmd     `cmd:"" help:"Print, step by step, how the engines of the pools would be prepared. Nothing is done."`
	Libs     libsCmd     `cmd:"" help:"Fetch the libraries of the built-in engine into the cache, with npm, and print their folder."`
	Ledger   ledgerCmd   `cmd:"" help:"Check, back up, export or move the record of tasks."`
	Backup   backupCmd   `cmd:"" help:"Copy what the data folder keeps, also while serve runs."`
	Restore  restoreCmd  `cmd:"" help:"Put a backup into an empty data folder."`
	Worker   workerCmd   `cmd:"" help:"Run the built-in engine; started by serve." hidden:""`
	Guard    guardCmd    `cmd:"" help:"End what a killed daemon's workers have left; started by serve." hidden:""`
	Announce announceCmd `cmd:"" help:"Announce serve on the local network; started by serve." hidden:""`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

type configFlag struct {
	Config string `help:"The YAML configuration file; llama-orch init writes one for this machine." required:"" type:"path" placeholder:"FILE"`
}

type serveCmd struct {
	configFlag
	StopWithin  time.Duration `help:"How long a stop may take. Running tasks get half of it to finish." default:"20s"`
	SelfTest    bool          `help:"Decode and cancel one task of each pool once it is ready." default:"true" negatable:""`
	LedgerAside bool          `help:"If the record of tasks is damaged, give it another name and begin a new one. Nothing is deleted."`
}

type checkCmd struct{ configFlag }

type versionCmd struct{}

type guardCmd struct{}

type announceCmd struct {
	Name string `help:"What the server is called."`
	Addr string `help:"Where it listens, HOST:PORT." required:""`
	TLS  bool   `name:"tls" help:"It speaks TLS."`
}

type workerCmd struct {
	Model    string        `help:"GGUF file." required:""`
	Libs     string        `help:"Folder with the engine's libraries." required:""`
	Ctx      int           `help:"Context in tokens; 0 takes the model's own."`
	Threads  int           `help:"Threads that decode; 0 is one."`
	Ubatch   int           `help:"Tokens of a prompt that are decoded at once; 0 is 512."`
	Pace     float64       `help:"At most this many tokens a second; 0 means no bound."`
	Workload task.Workload `help:"completion or embedding." default:"completion" enum:"completion,embedding"`
	Verbose  bool          `help:"Show the engine's informational lines too."`
}

// exit is an error that knows its exit code.
type exit struct {
	code int
	err  error
}

func (e exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e exit) Unwrap() error { return e.err }

func main() {
	version = stamp.Version(version)
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	var c cli
	parser := kong.Must(&c, kong.Name("orchestratord"), kong.Description("LLM orchestrator for a home lab."), kong.UsageOnError())
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		return exitUsage
	}
	err = parsed.Run()
	if err == nil {
		return 0
	}
	code := exitFailure
	var e exit
	if errors.As(err, &e) {
		code = e.code
	}
	if code == exitFailure || e.err != nil {
		last := observe.NewBuffer(os.Stderr) // which may be a pipe that nobody reads
		_, _ = fmt.Fprintf(last, "error: %v\n", err)
		_ = last.Close()
	}
	return code
}

func (f configFlag) load() (config.Config, error) {
	c, err := config.Load(f.Config, os.Getenv)
	if err != nil {
		return c, exit{exitUsage, err}
	}
	return c, nil
}

// gcPercent keeps the memory of many streams small. Most of the memory is buffers and stacks that live as long as a stream, and a token leaves
// almost no garbage. So it costs little to collect sooner (.docs/perf.md). GOGC overrides it.
const gcPercent = 25

// ballastBytes are allocated and never touched, so that they take no place. The collector counts them as live. Without them, a daemon with few
// streams, where little lives, would collect after each 2 MB of garbage, which is every 30 tasks.
const ballastBytes = 32 << 20

// othersWrite is what no file of the daemon's may allow, since the next start would refuse it.
const othersWrite = 0o022

// Run serves until a signal comes.
func (s serveCmd) Run() error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		ballast := make([]byte, ballastBytes)
		// The runtime clears memory that it does not know to be zero, and about every second start it does not: these pages go back.
		_ = unix.Madvise(ballast, unix.MADV_DONTNEED)
		defer runtime.KeepAlive(ballast)
	}
	c, err := s.load()
	if err != nil {
		return err
	}
	if err := control.Check(c, func(config.Pool) bool { return false }); err != nil {
		return exit{exitUsage, err}
	}
	syscall.Umask(syscall.Umask(othersWrite) | othersWrite)
	// A write to a pipe without a reader fails then, and does not end the process. A channel, unlike signal.Ignore, changes nothing for children.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	stdout, stderr := observe.NewBuffer(os.Stdout), observe.NewBuffer(os.Stderr)
	defer func() { _ = errors.Join(stdout.Close(), stderr.Close()) }() // nobody is left who could be told
	stderr.Aside(filepath.Join(c.DataDir, datafolder.Audit))
	tail := observe.NewTail()
	log, err := observe.NewLogger(observe.Options{
		Level: c.Log.Level, Style: observe.StyleOf(c.Log.Format, os.Stderr, os.Getenv), Out: stderr, Tail: tail, Redactor: observe.NewRedactor(append(postgres.Secrets(string(c.Ledger.Postgres.DSN)), string(c.Token))...),
	})
	if err != nil {
		return exit{exitUsage, err}
	}

	if err := takeFiles(log); err != nil {
		return err
	}
	if err := c.Check(); err != nil { // a pool fails alone, and is back once that is mended (LO-840)
		log.Warn("not all pools can serve yet", zap.Error(err))
	}
	libs, err := engineLibs(c)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	a, err := app.New(app.Options{Config: c, Log: log, Logs: tail, Dropped: stderr.Dropped(), Exe: exe, LibsDir: libs, Version: version, Commit: commit, LedgerAside: s.LedgerAside, SelfTest: s.SelfTest, Out: stdout})
	if err != nil {
		return err
	}
	signals, forget := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer forget()
	defer context.AfterFunc(signals, forget)() // a second signal ends the process at once, whatever hangs (LO-812)
	again := make(chan os.Signal, 1)           // before the start, since a SIGHUP right after it would otherwise end the process
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	if err := a.Start(signals); err != nil {
		return err
	}
	for running := true; running; {
		select {
		case <-again:
			a.ReloadConfig(signals)
		case <-signals.Done():
			log.Info("stopping on a signal", zap.Duration("stop_within_ms", s.StopWithin))
			running = false
		case err = <-a.Failed():
			running = false
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.StopWithin)
	defer cancel()
	return errors.Join(err, a.Stop(ctx))
}

const (
	leastFiles  = 64   // below that, nothing works
	fewFiles    = 1024 // below that, many clients may not be served at once
	spareFiles  = 16   // at most, that the daemon keeps for what must not fail (LO-839)
	spareOfFile = 8    // a part of the limit, that it keeps where that is less
)

// takeFiles raises the limit of open files, refuses one that is too low, and keeps a reserve.
func takeFiles(log *zap.Logger) error {
	limit, err := spare.Raise()
	if err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	if limit < leastFiles {
		return exit{exitUsage, fmt.Errorf("this process may open %d files, and needs %d at the very least: raise the limit (`ulimit -n 4096`, or LimitNOFILE=65536 in the service's unit)", limit, leastFiles)}
	}
	if limit < fewFiles {
		log.Warn("this process may open few files, so it serves few connections: raise the limit (`ulimit -n 4096`, or LimitNOFILE=65536 in the service's unit)",
			zap.Uint64("limit", limit))
	}
	spare.Keep(min(spareFiles, int(limit/spareOfFile)))
	return nil
}

// engineLibs finds the libraries of the built-in worker, if a pool uses it.
func engineLibs(c config.Config) (string, error) {
	for _, p := range c.Pools {
		if p.Provisioning.Mode == config.ModeBuiltin {
			return provision.LocateEngineLibs()
		}
	}
	return "", nil
}

// Run validates the configuration.
func (s checkCmd) Run() error {
	c, err := s.load()
	if err != nil {
		return err
	}
	if err := control.Check(c, func(config.Pool) bool { return true }); err != nil {
		return exit{exitUsage, err}
	}
	if warning := control.Warning(c, time.Now()); warning != "" {
		fmt.Fprintln(os.Stderr, "warning: "+warning)
	}
	_, err = io.WriteString(os.Stdout, c.Describe())
	return err
}

// Run prints the version.
func (versionCmd) Run() error {
	_, err := fmt.Printf("orchestratord %s (%s)\n", version, commit)
	return err
}

// Run waits for the daemon's end.
func (guardCmd) Run() error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP) // sent to the whole service; it ends with the daemon
	return process.Guard(os.Stdin)
}

// Run announces until standard input ends.
func (a announceCmd) Run() error { return announce.Say(os.Stdin, a.Name, a.Addr, a.TLS) }

// Run serves the engine's API until standard input ends.
func (w workerCmd) Run() error {
	code := worker.Main(context.Background(), worker.Options{
		Model: w.Model, Libs: w.Libs, Ctx: w.Ctx, Threads: w.Threads, Ubatch: w.Ubatch, Pace: w.Pace, Workload: w.Workload, Verbose: w.Verbose,
		APIKey: os.Getenv("LLAMA_API_KEY"), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if code == worker.ExitOK {
		return nil
	}
	return exit{code: code} // the worker itself has said why
}
