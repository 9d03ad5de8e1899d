// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

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

	oomVRAM        reason = "oom_vram"        // a card's memory did not suffice
	oomHost        reason = "oom_host"        // the host's memory did not suffice
	driverReset    reason = "driver_reset"    // the driver reported trouble of a card
	missingLibrary reason = "missing_library" // the program or its libraries are not whole
	badModel       reason = "bad_model"       // the engine does not take the model
	portTaken      reason = "port_taken"      // another program was faster
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
}

// sign is what an engine says when it dies of something. The texts are those of llama.cpp, CUDA, the dynamic linker and the
// C and C++ libraries, in lower case.
type sign struct {
	reason reason
	texts  []string
}

// signs are in order: what comes first is what the later ones follow from.
var signs = []sign{
	{missingLibrary, []string{
		"error while loading shared libraries", "cannot open shared object file", "undefined symbol:", "symbol lookup error",
		"engine libraries cannot be loaded", "engine libraries hold no back end", "engine libraries are of another version", "engine libraries lacks",
		"cuda driver version is insufficient",
	}},
	{driverReset, []string{
		"cuda error: an illegal memory access", "cuda error: unspecified launch failure", "cuda error: uncorrectable ecc", "gpu is lost",
		"device is lost", "fallen off the bus",
	}},
	{oomVRAM, []string{
		"cudamalloc failed", "cuda error: out of memory", "cublas_status_alloc_failed", "failed to allocate cuda", "unable to allocate cuda",
		"cuda_error_out_of_memory", "cudaerrormemoryallocation",
	}},
	{oomHost, []string{
		"std::bad_alloc", "cannot allocate memory", "failed to allocate cpu", "unable to allocate cpu", "cpu_buffer_type_alloc_buffer: failed",
		"runtime: out of memory",
	}},
	{"", []string{"out of memory", "failed to allocate", "unable to allocate", "no room for a context"}}, // of the device that the pool is on
	{portTaken, []string{"address already in use", "couldn't bind", "could not bind"}},
	{badModel, []string{
		"invalid magic", "is not a gguf file", "unknown model architecture", "failed to load model", "error loading model", "unable to load model",
		"llama.cpp cannot load", "the model cannot be opened", "check_tensor_dims", "is corrupted or incomplete",
	}},
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
	// llama.cpp goes on without pinned memory of the host.
	telling := slices.DeleteFunc(slices.Clone(e.lines), func(line string) bool { return strings.Contains(line, "pinned memory") })
	text := strings.ToLower(strings.Join(telling, "\n"))
	for _, s := range signs {
		if !slices.ContainsFunc(s.texts, func(t string) bool { return strings.Contains(text, t) }) {
			continue
		}
		switch {
		case s.reason == portTaken && !e.portChosen:
			continue
		case s.reason == oomVRAM && !e.onGPU:
			return oomHost
		case s.reason != "":
			return s.reason
		case e.onGPU:
			return oomVRAM
		default:
			return oomHost
		}
	}
	return otherwise
}

// advice is what to do about a cause, where there is something to do.
func (r *replica) advice(why reason, c *claim, problem string) string {
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
			text += fmt.Sprintf(", where %s were reserved; more is asked for from now on", size(c.bytes))
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
		return "the worker's program or libraries are not whole: run `go tool mage engine:libs`, or install what its last words name"
	case badModel:
		return fmt.Sprintf("the engine does not take the model file %s: fetch it again, or use an engine that knows this kind of model", r.spec.ModelPath)
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
		e.lines = w.tail()
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
		r.m.learned.TooLittle(w.claim.load, w.claim.bytes, time.Now())
		if r.spec.fitsCtx() { // a smaller context is tried next
			r.kept, r.stretch = 0, r.stretch*vram.ShortMargin
		}
	}
	if text := r.advice(found.reason, &w.claim, e.problem); text != "" {
		if found.detail != "" {
			text += " (" + found.detail + ")"
		}
		found.detail = text
	}
	return &found
}
