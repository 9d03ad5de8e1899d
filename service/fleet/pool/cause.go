// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/task"
)

// reason says why a worker was, or could not be, started again. It labels a metric: the list is closed.
type reason string

const (
	refused     reason = "refused"      // a check before the spawn failed
	loadFailed  reason = "load_failed"  // spawned, but did not get healthy, for none of the reasons below
	probeFailed reason = "probe_failed" // healthy, but did not answer the probe, for none of the reasons below
	exited      reason = "exited"       // the process of a ready worker ended, for none of the reasons below
	unhealthy   reason = "unhealthy"    // a ready worker stopped answering health checks or liveness probes
	replaced    reason = "replaced"     // Lease.Replace
	drained     reason = "drained"      // its pool's drain or reload had to end, and it still had tasks

	oomVRAM        = reason(engine.OutOfVRAM)
	oomHost        = reason(engine.OutOfHost)
	driverReset    = reason(engine.DriverReset)
	missingLibrary = reason(engine.MissingLibrary)
	badModel       = reason(engine.BadModel)
	portTaken      = reason(engine.PortTaken)
)

// Reasons lists the values of the label `reason` of llorch_worker_restarts_total.
func Reasons() []string {
	return []string{
		string(refused), string(loadFailed), string(probeFailed), string(exited), string(unhealthy), string(replaced), string(drained),
		string(oomVRAM), string(oomHost), string(driverReset), string(missingLibrary), string(badModel), string(portTaken),
	}
}

// errExited is why a worker is lost whose process ended.
var errExited = errors.New("the worker process ended")

// loss is why a replica has no worker.
type loss struct {
	reason reason
	detail string
	err    error
	fixed  bool // repeating alone does not help: somebody must change something
	short  bool // memory was too little before anything was started
}

func (l *loss) Error() string {
	typed, is := l.err.(*task.Error) //nolint:errorlint // a wrapped one has more to say; the cause says the same to programs
	switch {
	case l.err == nil:
		return l.detail
	case is && l.detail == "":
		return string(typed.Code) + ": " + typed.Message
	case l.detail == "":
		return l.err.Error()
	}
	return l.detail + ": " + l.err.Error()
}

func (l *loss) Unwrap() error { return l.err }

// asLoss finds the *loss in err's chain, else makes one.
func asLoss(err error, why reason) *loss {
	if l, ok := errors.AsType[*loss](err); ok {
		return l
	}
	return &loss{reason: why, err: err}
}

// evidence is what a worker left behind.
type evidence struct {
	exitCode   int            // -1: ended by a signal, or did not end by itself
	signal     syscall.Signal // that ended it; 0: none
	byUs       bool           // this program sent it SIGKILL or SIGTERM
	oomKilled  bool           // the kernel killed something for lack of memory while it ran
	onGPU      bool
	problem    string   // what the driver reported of its cards while it ran
	lines      []string // its last ones
	portChosen bool     // it was told its port
	deaths     engine.Deaths
}

// cause tells causes of death apart. It returns the reason given where nothing points to another.
func (e evidence) cause(otherwise reason) reason {
	if e.problem != "" {
		return driverReset
	}
	if e.signal == syscall.SIGKILL && !e.byUs {
		if e.oomKilled {
			return oomHost
		}
		return otherwise // somebody's kill; what the worker said before has nothing to do with it
	}
	if otherwise == unhealthy { // it was well: its lines are old
		return otherwise
	}
	if e.exitCode == 127 {
		return missingLibrary
	}
	for _, found := range e.deaths.Told(e.lines) {
		switch {
		case found == engine.PortTaken && !e.portChosen:
		case found == engine.OutOfMemory && e.onGPU:
			return oomVRAM
		case found == engine.OutOfMemory, found == engine.OutOfVRAM && !e.onGPU:
			return oomHost
		default:
			return reason(found)
		}
	}
	return otherwise
}

// advice is what to do about a cause, where there is something to do.
func (r *replica) advice(why reason, c *claim, model, problem string) string {
	cards := "its card"
	for i, index := range c.cards {
		if i == 0 {
			cards = "card"
		}
		cards += fmt.Sprintf(" %d", index)
	}
	switch why {
	case oomVRAM:
		text := "the worker ran out of the memory of " + cards
		if c.bytes > 0 {
			text += fmt.Sprintf(", where %s were reserved; more is asked for from now on", vram.Size(c.bytes))
		}
		return text + ": lower `ctx` or `slots`, use a smaller model or quantisation, or end what else uses the card (`nvidia-smi` shows it)"
	case oomHost:
		return "the worker ran out of the host's memory: end what else holds it, or use a smaller model, `ctx` or `slots`; the kernel's log (`dmesg`) says what was killed"
	case driverReset:
		if problem == "" {
			problem = "the worker's output says so"
		}
		return fmt.Sprintf("the GPU driver had trouble with %s (%s): if this comes again, look at `dmesg` and `nvidia-smi -q`, and restart the machine", cards, problem)
	case missingLibrary:
		return "the worker's program or libraries are not whole: " + r.kind.Start.Repair
	case badModel:
		return fmt.Sprintf("the engine does not take the model file %s: fetch it again, or use an engine that knows this kind of model", model)
	case portTaken:
		return "another program took the worker's port first; the next try takes another port"
	case refused, loadFailed, probeFailed, exited, unhealthy, replaced, drained: // their own words say it
	}
	return ""
}

// explain turns a loss into what the worker died of, once its process is gone.
func (r *replica) explain(why *loss, w *worker) *loss {
	switch why.reason {
	case loadFailed, probeFailed, exited, unhealthy:
	default: // somebody here decided it
		return why
	}
	e := evidence{exitCode: -1, onGPU: r.spec.cards() > 0}
	if w.claim.cards != nil {
		e.problem, _ = r.m.opts.DeviceProblems(w.claim.cards, w.born)
	}
	if w.proc != nil {
		e.lines, e.deaths = w.tail(), r.kind.Start.Deaths
		e.portChosen = r.spec.Mode == Binary || r.spec.Mode == Container
		death := w.proc.Death()
		e.oomKilled = r.m.opts.OOMKills() > w.oomKills
		e.exitCode, e.signal, e.byUs = death.ExitCode, death.Signal, death.ByUs
	}
	found := *why
	if e.exitCode >= 0 && !e.byUs || errors.Is(why, errExited) { // only now is it known how
		found.detail, found.err = w.proc.Death().Text, nil
	}
	if found.reason = e.cause(why.reason); found.reason == oomVRAM && w.claim.bytes > 0 {
		r.m.learned.TooLittle(w.claim.load, w.claim.bytes, r.m.now())
		if r.fitsCtx() { // a smaller context is tried next
			r.kept, r.stretch = 0, r.stretch*vram.ShortMargin
		}
	}
	if text := r.advice(found.reason, &w.claim, w.model, e.problem); text != "" {
		if found.detail != "" {
			text += " (" + found.detail + ")"
		}
		found.detail = text
	}
	return &found
}
