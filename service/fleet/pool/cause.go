// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"

	"github.com/llama-orch/llama-orch/service/fleet/engine"
	"github.com/llama-orch/llama-orch/service/fleet/engine/httpsse"
	"github.com/llama-orch/llama-orch/service/fleet/vram"
	"github.com/llama-orch/llama-orch/service/spare"
	"github.com/llama-orch/llama-orch/service/task"
)

// reason says why a replica lost its worker, or could not start one. It labels a metric, so the list is closed.
type reason string

const (
	refused     reason = "refused"      // a check before the spawn failed
	loadFailed  reason = "load_failed"  // the process ran, but did not get healthy, and nothing below explains it
	probeFailed reason = "probe_failed" // the engine was healthy, but did not answer the probe, and nothing below explains it
	exited      reason = "exited"       // the process of a ready worker ended, and nothing below explains it
	unhealthy   reason = "unhealthy"    // a ready worker stopped answering health checks or liveness probes
	replaced    reason = "replaced"     // somebody called Lease.Replace
	ownShortage reason = "own_shortage" // this process has no descriptors or memory left for the worker, whose fault it is not (LO-839)
	internal    reason = "internal"     // what looks after the worker panicked
	drained     reason = "drained"      // the deadline of a drain or reload passed while it had tasks
	// filesChanged: somebody wrote to the files that it was loaded from, or put others in their place
	filesChanged reason = "files_changed"

	oomVRAM        = reason(engine.OutOfVRAM)
	oomHost        = reason(engine.OutOfHost)
	driverReset    = reason(engine.DriverReset)
	missingLibrary = reason(engine.MissingLibrary)
	badModel       = reason(engine.BadModel)
	portTaken      = reason(engine.PortTaken)
	noKVRoom       = reason(engine.NoKVRoom)
	modelMissing   = reason(engine.ModelMissing)
	unsupportedGPU = reason(engine.UnsupportedGPU)
	hostLost       = reason(engine.HostLost)
)

// Reasons lists the values of the label `reason` of llorch_worker_restarts_total, for the test that compares them with the contract.
func Reasons() []string {
	return []string{
		string(refused), string(loadFailed), string(probeFailed), string(exited), string(unhealthy), string(replaced), string(drained), string(internal), string(filesChanged), string(ownShortage),
		string(oomVRAM), string(oomHost), string(driverReset), string(missingLibrary), string(badModel), string(portTaken),
		string(noKVRoom), string(modelMissing), string(unsupportedGPU), string(hostLost),
	}
}

// errExited says that a worker is lost because its process has ended.
var errExited = errors.New("the worker process ended")

// loss is why a replica has no worker.
type loss struct {
	reason reason
	detail string
	err    error
	fixed  bool // another try does not help until somebody changes something
	short  bool // there was too little memory, and nothing was started
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

// asLoss finds the *loss in err's chain, or makes one.
func asLoss(err error, why reason) *loss {
	if l, ok := errors.AsType[*loss](err); ok {
		return l
	}
	l := &loss{reason: why, err: err}
	if spare.Short(err) {
		l.reason = ownShortage
		l.detail = "the orchestrator itself has no more file descriptors, memory or ports: raise its limits (`ulimit -n`, or LimitNOFILE= of its unit), or end what else takes them"
	}
	return l
}

// stranger is the loss of a replica at whose address another program answers, or an engine that refuses the key or has not the model; nil: that is not the matter. Somebody has to
// correct the address or the key, or what runs there.
func (r *replica) stranger(ctx context.Context, w *worker, err error, why reason) *loss {
	external := r.spec.Mode == External
	if status, ok := errors.AsType[*httpsse.StatusError](err); ok && external && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden) {
		return &loss{reason: why, fixed: true, detail: fmt.Sprintf("the engine at %s refuses the key (%d): set `provisioning.key_env` to the name of the environment variable "+
			"that holds the engine's key, which is sent as `Authorization: Bearer KEY`", w.at.URL, status.Status)}
	}
	if u, ok := errors.AsType[*httpsse.UnservedError](err); ok {
		return &loss{reason: why, fixed: true, detail: u.Error() + ": set `model.name` to the one that is meant"}
	}
	s, ok := errors.AsType[*httpsse.StrangerError](err)
	if !ok {
		return nil
	}
	l := &loss{reason: why, fixed: true, detail: s.Error() + "; correct the address, or start the engine there"}
	if external {
		if product, kind := engine.Recognise(ctx, w.at); kind != "" && kind != r.kind.Name {
			l.detail = fmt.Sprintf("%s; it looks like %s: write `engine: %s`, or correct the address", s.Error(), product, kind)
		}
	}
	return l
}

// engineSaid is what happened to an engine. The adapter's message about it is for the client of a task, and says what that one is to do.
func engineSaid(err error) error {
	if e, ok := errors.AsType[*task.Error](err); ok && e.Code == task.WorkerReset && e.Err != nil {
		return e.Err
	}
	return err
}

// evidence is what a worker left behind.
type evidence struct {
	exitCode   int            // -1: a signal ended it, or it has not ended
	signal     syscall.Signal // that ended it; 0: none
	byUs       bool           // this program sent it SIGKILL or SIGTERM
	oomKilled  bool           // the kernel killed something for lack of memory while it ran
	onGPU      bool
	problem    string   // what the driver reported of its cards while it ran
	lines      []string // the last ones that it wrote
	portChosen bool     // it was told which port to take
	hosts      bool     // other hosts compute a part
	deaths     engine.Deaths
}

// cause finds out what a worker died of. It returns otherwise if nothing points to another reason.
func (e evidence) cause(otherwise reason) reason {
	if e.problem != "" {
		return driverReset
	}
	if e.signal == syscall.SIGKILL && !e.byUs {
		if e.oomKilled {
			return oomHost
		}
		return otherwise // somebody killed it, whatever it said before
	}
	if otherwise == unhealthy { // it was well until now, so its lines are old
		return otherwise
	}
	if e.exitCode == 127 {
		return missingLibrary
	}
	for _, found := range e.deaths.Told(e.lines) {
		switch {
		case found == engine.PortTaken && !e.portChosen, found == engine.HostLost && !e.hosts:
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

// advice says what to do about a reason, if anything can be done.
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
	case noKVRoom:
		text := "the model fits, and the KV of its context does not: lower `ctx` or `slots`, name more cards in `device`, or use a smaller model or quantisation"
		if c.bytes > 0 {
			text += fmt.Sprintf(" (%s of %s were reserved; more is asked for from now on)", vram.Size(c.bytes), cards)
		}
		return text
	case modelMissing:
		return fmt.Sprintf("the engine does not find the model, or not all of its files, in %s: fetch all files of the model's repository into that folder, or correct `model.ref`", model)
	case unsupportedGPU:
		return fmt.Sprintf("the engine cannot use %s for this model: use a build of the engine for this generation of cards, another `--dtype` or quantisation in `provisioning.args`, or another card", cards)
	case portTaken:
		return "another program took the worker's port first; the next try takes another port"
	case hostLost:
		return r.m.hostAdvice(r.spec.Hosts)
	case refused, loadFailed, probeFailed, exited, unhealthy, replaced, drained, internal, filesChanged, ownShortage: // the loss itself says it
	}
	return ""
}

// explain finds out what a lost worker died of, once its process is gone.
func (r *replica) explain(why *loss, w *worker) *loss {
	switch why.reason {
	case loadFailed, probeFailed, exited, unhealthy:
	case hostLost: // before it was started
		return why
	default: // this program ended it
		return why
	}
	if changed := w.look(context.Background()); changed != nil { // a file that is cut short ends the worker that has it mapped
		return changed
	}
	e := evidence{exitCode: -1, onGPU: r.spec.cards() > 0, hosts: len(r.spec.Hosts) > 0}
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
	if (e.exitCode >= 0 || e.signal != 0) && !e.byUs || errors.Is(why, errExited) { // how it ended is known only now
		found.detail, found.err = w.proc.Death().Text, nil
	}
	if found.reason = e.cause(why.reason); (found.reason == oomVRAM || found.reason == noKVRoom) && w.claim.bytes > 0 {
		r.m.learned.TooLittle(w.claim.load, w.claim.bytes, r.m.now())
		if r.fitsCtx() { // the next try asks for a smaller context
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
