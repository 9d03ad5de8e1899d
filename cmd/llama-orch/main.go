// SPDX-License-Identifier: GPL-3.0-or-later

// Command llama-orch is the command line of a llama-orch server: it submits tasks, streams their answers, cancels them, shows
// and operates pools and GPUs, and looks for what is wrong with a server and its machine.
//
// Answers go to stdout, everything else to stderr. If stdout is no terminal, the receipt's hash covers exactly the bytes of the answer there. --addr or
// LLORCH_ADDR gives the server's address, and LLORCH_API_TOKEN its token: ps would show a token among the arguments.
//
// Exit codes:
//
//	0    done
//	1    the task failed, the server answered with an error, or doctor found a failure
//	2    bad usage
//	3    the server cannot be reached
//	4    refused for now (HTTP 429 or 503); try again later
//	5    somebody else canceled the task
//	130  interrupted by Ctrl-C or SIGTERM; `run` has canceled its task on the server. `top` ends with 0 then
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/llama-orch/llama-orch/internal/stamp"
	"github.com/llama-orch/llama-orch/sdk"
)

// The exit codes, as documented above and in --help.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRefused     = 4
	exitCanceled    = 5
	exitInterrupted = 130
)

const (
	addrEnv     = "LLORCH_ADDR"
	caEnv       = "LLORCH_CA_FILE"
	tokenEnv    = "LLORCH_API_TOKEN" //nolint:gosec // the name of a variable
	defaultAddr = "http://127.0.0.1:8080"
)

const description = `Submits tasks to a llama-orch server, streams their answers, and shows and operates pools and GPUs.

The token is read from the environment variable LLORCH_API_TOKEN.

Exit codes:

  0    done
  1    the task failed, the server answered with an error, or doctor found a failure
  2    bad usage
  3    the server cannot be reached
  4    refused for now (HTTP 429 or 503); try again later
  5    somebody else canceled the task
  130  interrupted; run has canceled its task on the server
`

// version is stamped at build time.
var version = "dev"

func main() {
	version = stamp.Version(version)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// cli is the grammar of the command line.
type cli struct {
	Addr    string `placeholder:"URL" help:"Server address (default: $$LLORCH_ADDR, else http://127.0.0.1:8080). Of servers that share their record, several with commas between them: the next one is taken when one is gone."`
	CA      string `name:"ca" placeholder:"FILE" help:"Certificates, in PEM's form, that sign the server's beside those of the system (default: $$LLORCH_CA_FILE)."`
	JSON    bool   `name:"json" help:"Print JSON: one object, or one per event of a stream; errors too, on stderr."`
	Verbose bool   `short:"v" help:"Say on stderr what is happening, even if it is no terminal."`

	Init         initCmd         `cmd:"" help:"Look at this machine, and write a configuration for it; no server is needed."`
	Run          runCmd          `cmd:"" help:"Submit a completion and stream its answer."`
	Chat         chatCmd         `cmd:"" help:"Hold a conversation with a model at the terminal."`
	Stream       streamCmd       `cmd:"" help:"Stream a task's answer, live or again."`
	List         listCmd         `cmd:"" help:"List the models that can be used: those that pools serve, and those of the catalog."`
	Ls           listCmd         `cmd:"" hidden:"" help:"The same as list."`
	Ps           psCmd           `cmd:"" help:"Show the models in memory, and what they do."`
	Pull         pullCmd         `cmd:"" help:"Fetch a model into the server's catalog, and wait for it."`
	Cancel       cancelCmd       `cmd:"" help:"Cancel a task."`
	Rm           rmCmd           `cmd:"" help:"Delete tasks that have ended: their prompts, answers and proof bundles."`
	Task         taskCmd         `cmd:"" help:"Show one task."`
	Tasks        tasksCmd        `cmd:"" help:"List recent tasks, newest first."`
	Session      sessionCmd      `cmd:"" help:"Show, begin or delete a session."`
	Pools        poolsCmd        `cmd:"" help:"List the pools, or show one with its replicas."`
	Pool         poolCmd         `cmd:"" help:"Look at one pool, drain it, or swap its model."`
	GPUs         gpusCmd         `cmd:"" name:"gpus" help:"Show the GPUs, and who holds their memory."`
	Hosts        hostsCmd        `cmd:"" help:"Show the servers that share the record of tasks, and which pools each of them holds."`
	Explain      explainCmd      `cmd:"" help:"Say where a task would run, and why, without running it."`
	Config       configCmd       `cmd:"" help:"Have the server read its configuration again."`
	Models       modelsCmd       `cmd:"" help:"List the catalog's models and those that are served; add, show, verify, retire or delete one."`
	Engines      enginesCmd      `cmd:"" help:"List the engines that the server has prepared."`
	Artifacts    artifactsCmd    `cmd:"" help:"List what tasks and their clients left behind, newest first."`
	Artifact     artifactCmd     `cmd:"" help:"Get one artifact, or store one."`
	Proof        proofCmd        `cmd:"" help:"Show the proof bundle of a task that has ended."`
	Replay       replayCmd       `cmd:"" help:"Run a recorded task again, and say whether its answer is the same."`
	Verify       verifyCmd       `cmd:"" help:"Check proof bundles by themselves: their form, their digests, and that their parts agree."`
	Bisect       bisectCmd       `cmd:"" help:"Say which part of two fingerprints changed an answer, by running it again on the pools at hand."`
	Discover     discoverCmd     `cmd:"" help:"Find servers on the local network that announce themselves."`
	Top          topCmd          `cmd:"" help:"Watch queues, replicas and GPUs."`
	Logs         logsCmd         `cmd:"" help:"Show the server's log, and follow it."`
	Doctor       doctorCmd       `cmd:"" help:"Look for what is wrong with the server and this machine, and say how to mend it."`
	Errors       errorsCmd       `cmd:"" help:"Say what an error code stands for, and what to do; no server is needed."`
	Applet       appletCmd       `cmd:"" help:"List, show and run the functions of the programming model: files, extraction, commands."`
	Blueprint    blueprintCmd    `cmd:"" help:"Run a graph of applets from a YAML file; plan, check and show one."`
	Capabilities capabilitiesCmd `cmd:"" help:"Show what the server can do."`
	Snapshot     snapshotCmd     `cmd:"" help:"Write down what the server serves, or say what changed since."`
	Bindings     bindingsCmd     `cmd:"" help:"Write a client with the names of what the server serves, for Go, TypeScript or Python."`
	Mcp          mcpCmd          `cmd:"" help:"Be an MCP server on standard input and output, so that an agent hands work to the server and fetches it later."`
	Completion   completionCmd   `cmd:"" help:"Print the script with which a shell completes commands, flags and ids."`
	Complete     completeCmd     `cmd:"" hidden:"" help:"Say what may come next on a command line; the shells' scripts call it."`
	Docs         docsCmd         `cmd:"" hidden:"" help:"Write the manual of these commands; go tool mage gen calls it."`
	Version      versionCmd      `cmd:"" help:"Show this program's version."`
}

// app is what the commands work with.
type app struct {
	ctx     context.Context // ends with Ctrl-C
	client  *sdk.Client
	addr    string // of the server
	env     func(string) string
	view    *answer       // the stream being shown, if any
	command *kong.Context // what was typed
	stdin   io.Reader
	out     io.Writer // results
	err     io.Writer // everything else
	json    bool
	verbose bool
}

// usageError is an error in what was typed.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// stopParsing is the value of a panic that unwinds kong instead of ending the process, which only --help does.
type stopParsing int

// run is the whole program, without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, env func(string) string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		if r := recover(); r != nil {
			stop, ok := r.(stopParsing)
			if !ok {
				panic(r)
			}
			code = int(stop)
		}
	}()
	a := &app{ctx: ctx, env: env, stdin: stdin, out: stdout, err: stderr}
	var c cli
	parser, err := kong.New(&c, kong.Name("llama-orch"), kong.Description(description), kong.Writers(stdout, stderr),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Exit(func(code int) { panic(stopParsing(code)) }))
	if err != nil {
		return a.fail(fmt.Errorf("the command line's grammar: %w", err))
	}
	command, err := parser.Parse(args)
	a.json, a.verbose = c.JSON, c.Verbose
	if err != nil {
		return a.fail(usageError{nearer(err)})
	}
	a.command = command
	addrs := servers(c.Addr, env)
	a.addr = addrs[0]
	a.client, err = sdk.New(sdk.Options{Addr: a.addr, Others: addrs[1:], Token: env(tokenEnv), CAFile: cmp.Or(c.CA, env(caEnv)), OnReconnect: a.lost})
	if err != nil {
		return a.fail(usageError{err})
	}
	defer a.client.Close()
	if err := command.Run(a); err != nil {
		return a.fail(err)
	}
	return exitOK
}

// servers returns the server's address, and those of others that share its record. The scheme may be left out.
func servers(flag string, env func(string) string) []string {
	addrs := strings.Split(cmp.Or(flag, env(addrEnv), defaultAddr), ",")
	for i, addr := range addrs {
		if addr = strings.TrimSpace(addr); !strings.Contains(addr, "://") {
			addr = "http://" + addr
		}
		addrs[i] = addr
	}
	return addrs
}

// exitCode returns the exit code for an error.
func exitCode(ctx context.Context, err error) int {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*sdk.RequestError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*sdk.UnreachableError](err); ok {
		return exitUnreachable
	}
	if e, ok := errors.AsType[*sdk.Error](err); ok {
		switch {
		case e.Status == 429 || e.Status == 503:
			return exitRefused
		case e.Status == 0 && e.Code == "CANCELED":
			return exitCanceled
		}
	}
	return exitFailed
}
