// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/llama-orch/llama-orch/sdk"
)

type doctorCmd struct {
	Config string `placeholder:"FILE" help:"The server's configuration. It is checked, and so are its port and folders."`
	Report string `placeholder:"FILE" help:"Write what was found to a file for a bug report, without anything secret."`
}

// verdict is the result of a check. A warning names something that may be all right. What was not looked at is not called all right.
type verdict string

const (
	fine verdict = "ok"
	warn verdict = "warn"
	fail verdict = "fail"
	skip verdict = "skip" // the check was not made
)

// finding is what one check found. Its fixes are lines to paste into a shell; what follows a # is to be read.
type finding struct {
	Check   string   `json:"check"`
	Verdict verdict  `json:"verdict"`
	Detail  string   `json:"detail"`
	Fixes   []string `json:"fixes,omitempty"`
}

// report collects the findings.
type report struct {
	Findings  []finding  `json:"findings"`
	SelfTests []selfTest `json:"self_tests"`
}

// selfTest is the result of the server's self-test for a pool (ORCH-3049).
type selfTest struct {
	Pool  string       `json:"pool_id"`
	Model string       `json:"model_id"`
	Test  sdk.SelfTest `json:"self_test"`
}

func (r *report) add(check string, v verdict, detail string, fixes ...string) {
	if v == fine {
		fixes = nil
	}
	r.Findings = append(r.Findings, finding{Check: check, Verdict: v, Detail: detail, Fixes: fixes})
}

func (r *report) count(v verdict) (n int) {
	for _, f := range r.Findings {
		if f.Verdict == v {
			n++
		}
	}
	return n
}

// Run checks the server, and then the machine if the server runs on it. It fails if a check fails.
func (c *doctorCmd) Run(a *app) error {
	r := &report{Findings: []finding{}, SelfTests: []selfTest{}}
	s := a.examine(r)
	if a.ctx.Err() != nil {
		return context.Canceled
	}
	if host := hostOf(a.addr); c.Config != "" || local(host) {
		m := &machine{root: "/", env: a.env, config: c.Config, addr: a.addr, serving: s.answers, wantsGPU: s.wantsGPU}
		m.examine(a.ctx, r)
	} else {
		r.add("machine", skip, fmt.Sprintf("the server is on %s, so this machine was not looked at; run `llama-orch doctor` there, too", host))
	}
	if err := a.show(r); err != nil {
		return err
	}
	if c.Report != "" {
		if err := a.writeReport(c.Report, c.Config, r); err != nil {
			return err
		}
	}
	if n := r.count(fail); n > 0 {
		return fmt.Errorf("%s failed", plural(n, "check"))
	}
	return nil
}

func (a *app) show(r *report) error {
	if a.json {
		return a.printJSON(r)
	}
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Check))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(a.out, "%-4s  %-*s  %s\n", f.Verdict, width, oneLine(f.Check), oneLine(f.Detail))
		for _, fix := range f.Fixes {
			fmt.Fprintf(a.out, "      %-*s  %s\n", width, "", oneLine(fix))
		}
	}
	if len(r.SelfTests) > 0 {
		fmt.Fprintln(a.out)
		if err := a.table(r.selfTestRows()); err != nil {
			return err
		}
	}
	skipped := ""
	if n := r.count(skip); n > 0 {
		skipped = fmt.Sprintf(", %d not made", n)
	}
	_, err := fmt.Fprintf(a.out, "\n%s: %d ok, %s, %s%s\n", plural(len(r.Findings), "check"), r.count(fine),
		plural(r.count(warn), "warning"), plural(r.count(fail), "failure"), skipped)
	return err
}

// selfTestRows are the rows of the table that the server prints at its start.
func (r *report) selfTestRows() [][]string {
	steps := []sdk.SelfTestStepStep{
		sdk.SelfTestStepStepPreload, sdk.SelfTestStepStepDecode, sdk.SelfTestStepStepCancel, sdk.SelfTestStepStepMetrics, sdk.SelfTestStepStepLog,
	}
	head := []string{"SELF-TEST", "MODEL"}
	for _, step := range steps {
		head = append(head, strings.ToUpper(string(step)))
	}
	rows := [][]string{append(head, "RESULT")}
	for _, t := range r.SelfTests {
		row := []string{t.Pool, t.Model}
		for _, step := range steps {
			cell := ""
			for _, s := range t.Test.Steps {
				if s.Step == step {
					cell = string(s.State)
				}
			}
			row = append(row, cell)
		}
		rows = append(rows, append(row, string(t.Test.State)+": "+t.Test.Detail))
	}
	return rows
}

func hostOf(addr string) string {
	u, err := url.Parse(addr)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// local reports whether a host is certainly this machine.
func local(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// server is what the checks of the machine need to know about the server.
type server struct {
	answers  bool
	wantsGPU bool // one of its pools wants a GPU
}

const serveCommand = "orchestratord serve --config FILE"

// examine looks at the server through its API.
func (a *app) examine(r *report) (s server) {
	capabilities, err := a.client.Capabilities(a.ctx)
	if err != nil {
		r.add("server", fail, err.Error(), serverFix(a.addr, err)...)
		var e *sdk.Error
		s.answers = errors.As(err, &e)
		return s
	}
	s.answers = true
	r.add("server", fine, fmt.Sprintf("%s answers: version %s, API %s", a.addr, capabilities.ServerVersion, capabilities.APIVersion))
	if _, err := a.client.Health(a.ctx); err != nil {
		r.add("readiness", fail, err.Error(), "# no pool can serve a task; see the pools below")
	} else {
		r.add("readiness", fine, "tasks are taken")
	}
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		r.add("pools", fail, err.Error(), serverFix(a.addr, err)...)
	}
	for _, p := range pools {
		s.wantsGPU = s.wantsGPU || p.Device != "" && p.Device != "cpu"
		health, err := a.client.PoolHealth(a.ctx, p.ID)
		if err != nil {
			r.add("pool "+p.ID, fail, err.Error(), serverFix(a.addr, err)...)
			continue
		}
		examinePool(r, health)
		if p.SelfTest != nil {
			r.SelfTests = append(r.SelfTests, selfTest{p.ID, p.Model.ID, *p.SelfTest})
		}
	}
	a.examineGPUs(r, s.wantsGPU)
	return s
}

// serverFix says what to do if the server does not answer as it should.
func serverFix(addr string, err error) []string {
	if e, ok := errors.AsType[*sdk.Error](err); ok {
		if e.Status == http.StatusUnauthorized {
			return []string{"export " + tokenEnv + "=TOKEN  # the server's"}
		}
		return nil
	}
	if _, ok := errors.AsType[*sdk.UnreachableError](err); ok {
		if hint := unreachableHint(addr, err); !strings.HasPrefix(hint, "is the server running") {
			return []string{"# " + hint}
		}
		return []string{serveCommand, "export " + addrEnv + "=http://HOST:PORT  # if it runs elsewhere"}
	}
	return []string{"export " + addrEnv + "=http://HOST:PORT  # another program answers here"}
}

func examinePool(r *report, h *sdk.PoolHealth) {
	p, test := h.Pool, cmp.Or(h.Pool.SelfTest, &sdk.SelfTest{})
	check, look := "pool "+p.ID, "llama-orch pool health "+p.ID
	ready := fmt.Sprintf("%s: %d of %d replicas ready", p.Model.ID, p.ReplicasReady, p.Replicas)
	switch {
	case p.State == sdk.PoolStateDraining, p.State == sdk.PoolStateDrained:
		r.add(check, warn, fmt.Sprintf("%s: it is %s and takes no task", p.Model.ID, p.State), fmt.Sprintf("llama-orch pool resume %s", p.ID))
	case p.State == sdk.PoolStateUnloaded:
		r.add(check, fine, p.Model.ID+": on demand, not loaded; its next task loads it")
	case p.State == sdk.PoolStateFailed:
		r.add(check, fail, ready+whyNot(h), look, fmt.Sprintf("llama-orch pool load %s  # once that is mended", p.ID))
	case !p.Ready:
		r.add(check, fail, ready+whyNot(h), look)
	case p.ReplicasReady < p.Replicas:
		r.add(check, warn, ready+whyNot(h), look)
	case test.State == sdk.SelfTestStateFailed:
		r.add(check, fail, ready+"; the self-test at its start failed: "+test.Detail, look)
	default:
		if ms := slowestLoad(h); ms > 0 {
			ready += ", loaded in " + duration(ms)
		}
		if test.State == sdk.SelfTestStatePassed {
			ready += "; self-test passed: " + test.Detail
		}
		r.add(check, fine, ready)
	}
}

// whyNot returns the last error of a pool, or otherwise that of a replica that is not ready.
func whyNot(h *sdk.PoolHealth) string {
	if e := h.Pool.LastError; e != "" {
		return ": " + e
	}
	for _, r := range h.Replicas {
		if e := r.LastError; r.State != sdk.ReplicaStateReady && e != "" {
			return fmt.Sprintf(": %s is in state %s: %s", r.ID, r.State, e)
		}
	}
	for _, r := range h.Replicas {
		if r.State != sdk.ReplicaStateReady {
			return fmt.Sprintf(": %s is in state %s", r.ID, r.State)
		}
	}
	return ""
}

func slowestLoad(h *sdk.PoolHealth) (ms int64) {
	for _, r := range h.Replicas {
		if r.LoadMS != nil {
			ms = max(ms, *r.LoadMS)
		}
	}
	return ms
}

// examineGPUs says what is wrong with the cards. That matters only if a pool wants a card.
func (a *app) examineGPUs(r *report, wanted bool) {
	list, err := a.client.GPUs(a.ctx)
	if err != nil {
		r.add("GPUs", fail, err.Error(), serverFix(a.addr, err)...)
		return
	}
	if problem := list.Problem; problem != "" {
		if wanted {
			r.add("GPUs", fail, problem, driverFixes...)
		} else {
			r.add("GPUs", fine, "no pool wants one; "+problem)
		}
		return
	}
	if list.CudaVersion == "" {
		r.add("driver", warn, driver(list)+": the driver does not say which CUDA it runs", driverFixes...)
	} else {
		r.add("driver", fine, driver(list))
	}
	for _, g := range list.GPUs {
		check := fmt.Sprintf("GPU %d", g.Index)
		name := strings.TrimPrefix(g.Name, "NVIDIA ")
		switch {
		case g.Healthy:
			r.add(check, fine, fmt.Sprintf("%s: %s of %s free", name, mib(g.VRAMFreeBytes), mib(g.VRAMTotalBytes)))
		case wanted:
			r.add(check, fail, name+": "+dash(g.LastError), gpuFixes(g.Index)...)
		default:
			r.add(check, warn, name+": "+dash(g.LastError), gpuFixes(g.Index)...)
		}
	}
}

func gpuFixes(index int) []string {
	return []string{"sudo dmesg | grep -i xid", fmt.Sprintf("sudo nvidia-smi --gpu-reset -i %d  # with nothing running on it; else restart the machine", index)}
}
