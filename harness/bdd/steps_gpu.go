// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/standin"
)

// cardMaker builds the stand-in for a CUDA llama-server, once for each run.
type cardMaker struct {
	once sync.Once
	exe  string
	err  error
}

func (m *cardMaker) build(l *lab) error {
	m.once.Do(func() {
		m.exe = filepath.Join(l.Dir, "bin", "standin")
		m.err = standin.Build(context.Background(), l.Root, m.exe)
	})
	return m.err
}

// foreignPID is the id of no process. The stand-in for NVML does not ask whether it runs.
const foreignPID = 4194303

func (w *world) gpuSteps(step define) {
	step(`^the cards of the reference box$`, w.theReferenceCards)
	step(`^a machine without an NVIDIA driver$`, w.noDriver)
	step(`^a pool "([^"]*)" of a model of ([\d.]+) GiB$`, w.aPoolOfAModel)
	step(`^a pool "([^"]*)" of a model of ([\d.]+) GiB with$`, w.aPoolOfAModelWith)
	step(`^a pool "([^"]*)" of servers that take ([\d.]+) GiB with$`, w.aPoolOfServers)
	step(`^a model file "([^"]*)" of ([\d.]+) GiB$`, w.aModelFile)
	step(`^the daemon runs$`, w.start)
	step(`^a worker of the model "([^"]*)" takes ([\d.]+) GiB$`, w.aWorkerTakes)
	step(`^a worker of the model "([^"]*)" dies of "([^"]*)"$`, w.aWorkerDies)
	step(`^a worker of the model "([^"]*)" has to wait as it loads$`, w.aWorkerHolds)
	step(`^a worker of the model "([^"]*)" may load$`, w.aWorkerMayLoad)
	step(`^a foreign process takes ([\d.]+) GiB of card (\d+)$`, w.aForeignProcessTakes)
	step(`^no foreign process takes memory of card (\d+)$`, w.noForeignProcess)
	step(`^card (\d+) takes (\d+) W, by a counter of its own$`, w.theCardTakes)
	step(`^card (\d+) falls off the bus with XID (\d+)$`, w.theCardFallsOff)
	step(`^card (\d+) is back$`, w.theCardIsBack)
	step(`^replica "([^"]*)" is ready on cards? "([^"]*)"$`, w.theReplicaIsOn)
	step(`^replica "([^"]*)" is (stopped|backoff|failed|loading)$`, w.theReplicaComesTo)
	step(`^replica "([^"]*)" says "(.*)"$`, w.theReplicaSays)
	step(`^no worker was ever started for pool "([^"]*)"$`, w.noWorkerWasStarted)
	step(`^the replicas of pool "([^"]*)" have (\d+) fingerprints$`, w.theReplicasHaveFingerprints)
	step(`^a worker of pool "([^"]*)" on card (\d+) has a context of (\d+) to (\d+) tokens$`, w.theWorkerOnHas)
	step(`^no replica of pool "([^"]*)" was refused memory$`, w.noneWasRefused)
	step(`^the chosen replica is on card "([^"]*)"$`, w.theChosenIsOn)
	step(`^the worker of "([^"]*)" was told "([^"]*)"$`, w.theWorkerWasTold)
	step(`^the worker of "([^"]*)" was restarted for "([^"]*)"$`, w.theWorkerWasRestartedFor)
	step(`^I kill the worker of "([^"]*)"$`, w.iKillTheWorkerOf)
	step(`^card (\d+) has$`, w.theCardHas)
	step(`^I submit an? (interactive|batch) task "([^"]*)" for "([^"]*)"$`, w.iSubmitFor)
	step(`^a daemon with (\d+) ready replicas?$`, w.aDaemonWithReady)
}

func (w *world) statePath() string { return filepath.Join(w.dir, "cards") }

func (w *world) modelPath(id string) string { return filepath.Join(w.dir, id+".gguf") }

func gibibytes(n float64) int64 { return int64(n * (1 << 30)) }

func (w *world) theReferenceCards() error {
	w.cards = nvmlstub.Reference()
	if err := w.noDriver(); err != nil {
		return err
	}
	return w.cards.Write(w.statePath())
}

// noDriver names a state for the stand-in for NVML that is not there yet: until it is written there is no driver.
func (w *world) noDriver() error {
	if err := w.lab.gpu.build(w.lab); err != nil {
		return err
	}
	w.setup.env[nvmlstub.Env] = w.statePath()
	return nil
}

func (w *world) aPoolOfAModel(id string, gib float64) error {
	return w.aPoolOfAModelWith(id, gib, &godog.Table{})
}

// aPoolOfAModelWith makes a pool of stand-ins and a model of the same name. A row `pace` slows its tasks down. A row `model_ctx` changes the context
// that the model itself names.
func (w *world) aPoolOfAModelWith(id string, gib float64, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	args, own := standin.Args(w.statePath(), w.lab.Model, w.lab.Libs), standin.Ctx
	rows = slices.DeleteFunc(rows, func(r row) bool {
		switch r.name {
		case "pace":
			args = append(args, "--pace", r.value)
		case "model_ctx":
			_, err = fmt.Sscan(r.value, &own)
		default:
			return false
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("read the model's context: %w", err)
	}
	if err := standin.WriteModelOf(w.modelPath(id), id, gibibytes(gib), own); err != nil {
		return err
	}
	listed, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("encode the stand-in's arguments: %w", err)
	}
	w.setup.pool(id, set([]row{
		{"model", fmt.Sprintf(`{id: %s, ref: "file:%s"}`, id, w.modelPath(id))},
		{"ctx", "256"},
		{"sampler_profile", "v1"},
		{"provisioning", fmt.Sprintf(`{mode: binary, path: %q, args: %s}`, w.lab.gpu.exe, listed)},
	}, rows...))
	return nil
}

// aPoolOfServers makes a pool of engine command whose server takes so much of its card, and says how many tokens a text has.
func (w *world) aPoolOfServers(id string, gib float64, t *godog.Table) error {
	rows, err := w.rows(t)
	if err == nil {
		err = standin.WriteModel(w.modelPath(id), id, gibibytes(gib))
	}
	if err != nil {
		return err
	}
	args, err := json.Marshal(append(standin.Args(w.statePath(), w.lab.Model, w.lab.Libs),
		"-m", "{model}", "--host", "{host}", "--port", "{port}", "-c", "256", "--parallel", "1", "-ngl", "all", "--fit", "off"))
	if err != nil {
		return fmt.Errorf("encode the stand-in's arguments: %w", err)
	}
	w.setup.pool(id, set([]row{
		{"engine", "command"},
		{"model", fmt.Sprintf(`{id: %s, ref: "file:%s"}`, id, w.modelPath(id))},
		{"device", "[0]"},
		{"memory", fmt.Sprintf("%.0fGiB", gib)},
		{"health", "/health"},
		{"provisioning", fmt.Sprintf(`{mode: binary, path: %q, args: %s}`, w.lab.gpu.exe, args)},
	}, rows...))
	return nil
}

func (w *world) aModelFile(id string, gib float64) error {
	return standin.WriteModel(w.modelPath(id), id, gibibytes(gib))
}

func (w *world) aWorkerTakes(model string, gib float64) error {
	return w.file(model+".gguf.vram", fmt.Sprint(gibibytes(gib)))
}

func (w *world) aWorkerDies(model, words string) error { return w.file(model+".gguf.dies", words) }

func (w *world) aWorkerHolds(model string) error { return w.file(model+".gguf.hold", "") }

func (w *world) aWorkerMayLoad(model string) error {
	if err := os.Remove(w.modelPath(model) + ".hold"); err != nil {
		return fmt.Errorf("let the worker load: %w", err)
	}
	return nil
}

// card changes what the driver shows about a card.
func (w *world) card(index int, change func(*nvmlstub.Card)) error {
	if w.cards == nil || index >= len(w.cards.Cards) {
		return fmt.Errorf("the scenario has no card %d", index)
	}
	change(&w.cards.Cards[index])
	return w.cards.Write(w.statePath())
}

func (w *world) aForeignProcessTakes(gib float64, index int) error {
	return w.card(index, func(c *nvmlstub.Card) {
		c.Processes = append(c.Processes, nvmlstub.Process{PID: foreignPID, Used: gibibytes(gib)})
	})
}

func (w *world) noForeignProcess(index int) error {
	return w.card(index, func(c *nvmlstub.Card) { c.Processes = nil })
}

func (w *world) theCardTakes(index int, watts int64) error {
	return w.card(index, func(c *nvmlstub.Card) { c.Power, c.Energy, c.Flow = int(watts), 1, 1000*watts })
}

func (w *world) theCardFallsOff(index int, xid uint64) error {
	if w.cards == nil {
		return errors.New("the scenario has no cards")
	}
	w.cards.XID(index, xid)
	return w.card(index, func(c *nvmlstub.Card) { c.Lost = true })
}

func (w *world) theCardIsBack(index int) error {
	return w.card(index, func(c *nvmlstub.Card) { c.Lost = false })
}

// theReplicaIsOn also looks at the worker's own settings: the mask, and NVML's order of counting (ORCH-3011).
func (w *world) theReplicaIsOn(id, cards string) error {
	if err := poll("replica "+id, func() error {
		r, err := w.replica(id)
		if err != nil {
			return err
		}
		return errors.Join(match(dig(r, "state"), "ready"), match(dig(r, "cards"), "["+cards+"]"))
	}); err != nil {
		return err
	}
	pid, err := w.workerOf(id)
	if err != nil {
		return err
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return fmt.Errorf("read a worker's environment: %w", err)
	}
	for _, want := range []string{"CUDA_VISIBLE_DEVICES=" + cards, "CUDA_DEVICE_ORDER=PCI_BUS_ID"} {
		if !slices.Contains(strings.Split(string(environ), "\x00"), want) {
			return fmt.Errorf("the worker of %s was not told %s", id, want)
		}
	}
	return nil
}

func (w *world) theReplicaComesTo(id, state string) error {
	return poll("replica "+id, func() error {
		r, err := w.replica(id)
		if err != nil {
			return err
		}
		return match(dig(r, "state"), state)
	})
}

func (w *world) theReplicaSays(id, words string) error {
	return poll("replica "+id, func() error {
		r, err := w.replica(id)
		if err != nil {
			return err
		}
		if text, _ := dig(r, "last_error").(string); !strings.Contains(text, words) {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
}

// noWorkerWasStarted relies on the stand-in's first line, which the daemon logs.
func (w *world) noWorkerWasStarted(pool string) error {
	log, err := w.daemon.log()
	if err != nil {
		return err
	}
	for _, line := range log {
		if line["msg"] == "worker output" && line["pool_id"] == pool {
			return fmt.Errorf("one was: %v", line)
		}
	}
	return nil
}

// theCardHas asks for the cards until one of them fits the table.
func (w *world) theCardHas(index int, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	return poll(fmt.Sprintf("card %d", index), func() error {
		if err := w.iSend("GET", "/v1/gpus"); err != nil {
			return err
		}
		var wrong error
		for _, r := range rows {
			wrong = errors.Join(wrong, w.has(fmt.Sprintf("gpus.%d.%s", index, r.name), r.value))
		}
		return wrong
	})
}

func (w *world) aDaemonWithReady(replicas int) error {
	if err := w.start(); err != nil {
		return err
	}
	return w.daemon.ready(replicas)
}

func (w *world) theReplicasHaveFingerprints(pool string, n int) error {
	if err := w.iSend("GET", "/v1/pools/"+pool+"/health"); err != nil {
		return err
	}
	health, err := decode(w.last.body)
	if err != nil {
		return err
	}
	different := map[any]bool{}
	list, _ := dig(health, "replicas").([]any)
	for _, r := range list {
		different[dig(r, "fingerprint")] = true
	}
	if len(different) != n {
		return fmt.Errorf("they have %d: %s", len(different), w.last.body)
	}
	return nil
}

// replicaOn finds a pool's replica by its card.
func (w *world) replicaOn(pool string, card int) (any, error) {
	if err := w.iSend("GET", "/v1/pools/"+pool+"/health"); err != nil {
		return nil, err
	}
	health, err := decode(w.last.body)
	if err != nil {
		return nil, err
	}
	list, _ := dig(health, "replicas").([]any)
	for _, r := range list {
		if match(dig(r, "cards"), fmt.Sprintf("[%d]", card)) == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("none is on card %d: %s", card, w.last.body)
}

// theWorkerOnHas looks at the worker's arguments, since the stand-in itself serves another context.
func (w *world) theWorkerOnHas(pool string, card, least, most int) error {
	r, err := w.replicaOn(pool, card)
	if err != nil {
		return err
	}
	id, _ := dig(r, "id").(string)
	args, err := w.commandLine(id)
	if err != nil {
		return err
	}
	at := slices.Index(args, "-c")
	if at < 0 || at+1 == len(args) {
		return fmt.Errorf("it was told no context: %q", args)
	}
	if ctx, err := strconv.Atoi(args[at+1]); err != nil || ctx < least || ctx > most {
		return fmt.Errorf("its context is %s tokens", args[at+1])
	}
	return nil
}

func (w *world) noneWasRefused(pool string) error {
	now, err := w.scrape()
	if err != nil {
		return err
	}
	if n, _ := now.sum(fmt.Sprintf(`llorch_worker_restarts_total{pool_id=%q,reason="refused"}`, pool)); n > 0 {
		return fmt.Errorf("%v were", n)
	}
	return nil
}

// theChosenIsOn looks at the last explanation.
func (w *world) theChosenIsOn(card string) error {
	explanation, err := decode(w.last.body)
	if err != nil {
		return err
	}
	id, _ := dig(explanation, "replica_id").(string)
	return w.theReplicaIsOn(id, card)
}

// commandLine returns the arguments of a replica's worker.
func (w *world) commandLine(replica string) ([]string, error) {
	pid, err := w.workerOf(replica)
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, fmt.Errorf("read a worker's command line: %w", err)
	}
	return strings.Split(string(cmdline), "\x00"), nil
}

func (w *world) theWorkerWasTold(replica, words string) error {
	args, err := w.commandLine(replica)
	if err != nil {
		return err
	}
	if line := strings.Join(args, " "); !strings.Contains(line, words) {
		return fmt.Errorf("it was told %s", line)
	}
	return nil
}

func (w *world) theWorkerWasRestartedFor(replica, reason string) error {
	return poll("a restart of "+replica, func() error {
		now, err := w.scrape()
		if err != nil {
			return err
		}
		if n, _ := now.sum(fmt.Sprintf(`llorch_worker_restarts_total{replica_id=%q,reason=%q}`, replica, reason)); n < 1 {
			return errors.New("there was none")
		}
		return nil
	})
}

func (w *world) iKillTheWorkerOf(replica string) error {
	pid, err := w.workerOf(replica)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill a worker: %w", err)
	}
	return nil
}

func (w *world) iSubmitFor(priority, name, model string) error {
	return w.submit(name, []row{{"priority", priority}, {"model_ref", model}})
}
