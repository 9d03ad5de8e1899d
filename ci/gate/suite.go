// SPDX-License-Identifier: GPL-3.0-or-later

package gate

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/magefile/mage/mg"

	"github.com/llama-orch/llama-orch/ci/agents"
	"github.com/llama-orch/llama-orch/ci/command"
	"github.com/llama-orch/llama-orch/ci/engine"
	"github.com/llama-orch/llama-orch/ci/fuzz"
	"github.com/llama-orch/llama-orch/ci/page"
	"github.com/llama-orch/llama-orch/ci/step"
	"github.com/llama-orch/llama-orch/ci/tally"
	"github.com/llama-orch/llama-orch/harness/debian"
	"github.com/llama-orch/llama-orch/harness/metrics"
	"github.com/llama-orch/llama-orch/harness/proxy"
)

// suites are steps of their own. They run the daemon's program, which Go's test cache cannot see, so they run with -count=1:
// a cached result of theirs never counts.
var suites = append([]string{"ci/smoke", "harness/bdd", "harness/chaos", "harness/clients", "harness/contract", "harness/determinism", "harness/haiku", "harness/metrics", "harness/pact", "harness/page"}, outside...)

// outside are the suites that only look at the daemon's program from outside. The race detector sees nothing there.
var outside = []string{"harness/abuse", "harness/database", "harness/fronts", "harness/handbook", "harness/lan", "harness/program", "harness/proxy", "harness/soak"}

// notSuites drops the packages of the suites from a list of the module's packages.
func notSuites(module string, packages []string) []string {
	return slices.DeleteFunc(packages, func(p string) bool {
		return slices.ContainsFunc(suites, func(s string) bool { return strings.HasPrefix(p+"/", module+"/"+s+"/") })
	})
}

// BDD runs the Gherkin features on the real daemon and engine.
func (Check) BDD(ctx context.Context) error { return prepared(ctx, bdd) }

func checkBDD(ctx context.Context, t *tally.Tally) error {
	return step.GoTest(ctx, t, "-count=1", "./harness/bdd/...")
}

// Outside attacks the daemon, speaks to its fronts, and follows its documents, each from outside.
func (Check) Outside(ctx context.Context) error { return prepared(ctx, daemon) }

// checkOutside runs some of the suites beside one another: they wait more than they work.
func checkOutside(ctx context.Context, t *tally.Tally) error {
	for _, p := range []debian.Package{proxy.Nginx, proxy.Caddy} {
		if err := p.Fetch(ctx, step.Say); err != nil {
			return err
		}
	}
	args := []string{"-count=1", "-p=4"}
	for _, dir := range outside {
		args = append(args, "./"+dir+"/...")
	}
	return step.GoTest(ctx, t, args...)
}

// Pact runs the consumers against Pact's mock server, compares what they rely on with the committed pacts, and verifies the
// real daemon against these. It fetches Pact's library.
func Pact(ctx context.Context) error { return prepared(ctx, pacts) }

// Contract lints the API's document, and replays what the daemon answered in the features through Prism, a validating proxy. In `test` the pacts'
// exchanges are replayed, too. It needs Node.js, and fetches the tools with npm.
func Contract(ctx context.Context) error { return prepared(ctx, document) }

// Clients runs the official SDKs of OpenAI, Anthropic, Ollama and Vercel against a real daemon, the built-in worker and a scripted engine (LO-420).
// It needs Node.js, and fetches the SDKs with npm.
func Clients(ctx context.Context) error { return prepared(ctx, sdks) }

// Page clicks through the status page in a real browser, which it fetches with npm, on a real daemon with stand-ins for cards and engines (LO-603…612).
func (Check) Page(ctx context.Context) error { return prepared(ctx, statusPage) }

// Page looks after the documents' images of the status page, and its figures.
type Page mg.Namespace

// Bench measures what the page costs the daemon, and how soon a browser paints it. It takes two minutes.
func (Page) Bench(ctx context.Context) error {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	return page.Bench(ctx)
}

// Shots makes the screenshots and the film in .docs/images anew.
func (Page) Shots(ctx context.Context) error {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	return page.Shots(ctx, ".docs/images")
}

// Agents runs Claude Code, Codex, opencode and Qwen Code against a real daemon with a scripted engine behind it, and prints what each did (LO-423). It
// fetches them with npm: 1.5 GB. It is no part of `test`.
func Agents(ctx context.Context) error {
	return prepared(ctx, step.Step{Name: "agents", Target: "agents", Run: agents.Test})
}

// Package takes the packages through their life on a Debian of their own, under systemd, as root, and makes a release twice. It takes minutes and is no part of `test`.
func (Check) Package(ctx context.Context) error {
	return prepared(ctx, step.Step{Name: "packages", Target: "check:package", Run: func(ctx context.Context, t *tally.Tally) error {
		return step.GoTest(ctx, t, "-count=1", "-timeout=30m", "-tags", "packaged", "./ci/release/...")
	}})
}

// Hosts has three daemons on one database in trouble, for a minute (LO-730). It is no part of `test`.
func (Check) Hosts(ctx context.Context) error {
	return prepared(ctx, step.Step{Name: "hosts in trouble", Target: "check:hosts", Run: func(ctx context.Context, t *tally.Tally) error {
		return step.GoTest(ctx, t, "-count=1", "-tags", "hosts", "-run", "InTrouble", "./harness/database")
	}})
}

// Metrics looks after the metrics contract.
type Metrics mg.Namespace

// Lint holds ci/metrics.lint.json against the spec, and the /metrics of a real daemon under a small load against both
// (ORCH-3028). It also asks a real Prometheus every query of the dashboards, and tests the alert rules (LO-602). It needs Prometheus's programs, and fetches them where
// there is apt-get.
func (Metrics) Lint(ctx context.Context) error { return prepared(ctx, metricsLint) }

func checkMetrics(ctx context.Context, t *tally.Tally) error {
	if err := metrics.FetchPrometheus(ctx, step.Say); err != nil {
		return err
	}
	return step.GoTest(ctx, t, "-count=1", "./harness/metrics/...")
}

// Smoke runs the smoke test on stand-ins for the reference box's cards and for llama-server.
func (Check) Smoke(ctx context.Context) error { return prepared(ctx, smoke) }

func checkSmoke(ctx context.Context, t *tally.Tally) error {
	return step.GoTest(ctx, t, "-count=1", "./ci/smoke/...")
}

// Determinism holds the receipts' promise (same fingerprint, same bytes) against the daemon, on every engine of this machine. With -engine=URL it holds only
// the engine there to it, which is a batch-invariant vLLM unless -kind says llamacpp; -model is the name by which it knows its model, -slots how many
// tasks it gets at once (LO-453). LLORCH_DETERMINISM_KEY may hold its key.
func Determinism(ctx context.Context, engine, kind, model, slots *string) error {
	if engine == nil {
		return prepared(ctx, determinism)
	}
	settings := pointed("LLORCH_DETERMINISM_", map[string]*string{"ENGINE": engine, "KIND": kind, "MODEL": model, "SLOTS": slots})
	return prepared(command.Setting(ctx, settings...), step.Step{Name: "determinism, elsewhere", Target: "determinism", Run: func(ctx context.Context, t *tally.Tally) error {
		return step.GoTestReported(ctx, t, "LLORCH_DETERMINISM_REPORT", "-count=1", "-run", "TestAnEngineElsewhere", "./harness/determinism/...")
	}})
}

// pointed are the variables that point a suite at an engine.
func pointed(prefix string, values map[string]*string) (settings []string) {
	for name, value := range values {
		if value != nil {
			settings = append(settings, prefix+name+"="+*value)
		}
	}
	return settings
}

// Haiku asks a real engine for the haiku of this minute and proves that it was written now (HAIKU-15): on the bundled model, and on the llama-server of this
// machine where it has one. With -engine=URL it asks only the engine there, which is a llama-server unless -kind says otherwise; -model is the name
// by which it knows its model. LLORCH_HAIKU_KEY may hold its key. REQUIRE_REAL_LLAMA=1 refuses what is no real llama.cpp.
func Haiku(ctx context.Context, engine, kind, model *string) error {
	return prepared(command.Setting(ctx, pointed("LLORCH_HAIKU_", map[string]*string{"ENGINE": engine, "KIND": kind, "MODEL": model})...), haiku)
}

func checkHaiku(ctx context.Context, t *tally.Tally) error {
	return step.GoTestReported(ctx, t, "LLORCH_HAIKU_REPORT", "-count=1", "./harness/haiku/...")
}

// checkDeterminism passes the suite's figures on, and which engines were not run.
func checkDeterminism(ctx context.Context, t *tally.Tally) error {
	return step.GoTestReported(ctx, t, "LLORCH_DETERMINISM_REPORT", "-count=1", "./harness/determinism/...")
}

// Fuzz runs the fuzz targets of the parsers that read bytes from outside, which share the time (LO-860): `fuzz -minutes=60`. Without it they have ten minutes. -only is a
// regular expression of package.Target. It is no part of `test`, which runs their seeds and what they have found.
func Fuzz(ctx context.Context, minutes *int, only *string) error {
	mg.CtxDeps(ctx, engine.Engine.Libs)
	o := fuzz.Options{Within: time.Duration(or(minutes, 10)) * time.Minute, Out: os.Stdout}
	if only != nil {
		expression, err := regexp.Compile(*only)
		if err != nil {
			return fmt.Errorf("-only is no regular expression: %w", err)
		}
		o.Only = expression
	}
	return fuzz.Run(ctx, o)
}

// Chaos kills workers and the daemon, fills queues and disk and cuts clients off for some seven minutes, and proves that
// nothing accepted was lost. LLORCH_CHAOS_SEED=N repeats a schedule; filling the disk takes root, or user namespaces.
func Chaos(ctx context.Context) error {
	return prepared(ctx, step.Step{Name: "chaos, long", Target: "chaos", Run: func(ctx context.Context, t *tally.Tally) error {
		return checkChaos(command.Setting(ctx, "LLORCH_CHAOS=long"), t)
	}})
}

// Chaos is the short run, as `test` does it.
func (Check) Chaos(ctx context.Context) error { return prepared(ctx, chaos) }

// checkChaos passes the run's report on, and its seed.
func checkChaos(ctx context.Context, t *tally.Tally) error {
	return step.GoTestReported(ctx, t, "LLORCH_CHAOS_REPORT", "-count=1", "./harness/chaos/...")
}
