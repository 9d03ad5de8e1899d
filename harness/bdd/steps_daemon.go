// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/cucumber/godog"
)

func (w *world) daemonSteps(step define) {
	step(`^the shared daemon$`, w.theSharedDaemon)
	step(`^the settings$`, w.theSettings)
	step(`^the environment$`, w.theEnvironment)
	step(`^a pool "([^"]*)" of built-in workers with$`, w.aBuiltinPool)
	step(`^a pool "([^"]*)" in front of the fake engine with$`, w.anExternalPool)
	step(`^a pool "([^"]*)" of studios with$`, w.aPoolOfStudios)
	step(`^a daemon that may take "([^"]*)" to stop$`, w.aDaemonThatStopsWithin)
	step(`^a daemon$`, w.aDaemon)
	step(`^a daemon whose pool has$`, w.aDaemonWhosePoolHas)
	step(`^a daemon in front of a fake engine$`, w.aDaemonOnAFake)
	step(`^a daemon in front of a fake engine whose pool has$`, w.aDaemonOnAFakeWhosePoolHas)
	step(`^a daemon whose engine is down$`, w.aDaemonWhoseEngineIsDown)

	step(`^I kill a worker of the daemon$`, w.killAWorker)
	step(`^I kill the daemon$`, w.killTheDaemon)
	step(`^I send the daemon SIGTERM$`, w.terminateTheDaemon)
	step(`^I start the daemon again$`, w.startAgain)
	step(`^no worker of it is left$`, w.noWorkerIsLeft)
	step(`^the daemon exits with (\d+)$`, w.theDaemonExitsWith)
	step(`^the replica "([^"]*)" is restarted and ready again$`, w.theReplicaIsBack)
	step(`^the replica "([^"]*)" is taken out of service$`, w.theReplicaIsOut)
	step(`^its workers listen on loopback only and answer nobody without their key$`, w.workersAreClosed)
	step(`^no worker's command line holds a key$`, w.noKeyOnACommandLine)
}

func (w *world) theSharedDaemon() (err error) {
	w.daemon, err = w.lab.sharedDaemon()
	return err
}

func (w *world) theSettings(t *godog.Table) error {
	rows, err := w.rows(t)
	w.setup.settings = set(w.setup.settings, rows...)
	return err
}

func (w *world) theEnvironment(t *godog.Table) error {
	rows, err := w.rows(t)
	for _, r := range rows {
		w.setup.env[r.name] = r.value
	}
	return err
}

func (w *world) aBuiltinPool(id string, t *godog.Table) error {
	rows, err := w.rows(t)
	w.setup.pool(id, w.lab.builtin(rows...))
	return err
}

func (w *world) anExternalPool(id string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	if w.fake == nil {
		return errors.New("the scenario has started no fake engine")
	}
	w.setup.pool(id, external(w.fake.url, rows...))
	return nil
}

// aPoolOfStudios is one of servers that speak and draw; see package studio.
func (w *world) aPoolOfStudios(id string, t *godog.Table) error {
	rows, err := w.rows(t)
	args := fmt.Sprintf(`{mode: binary, path: %q, args: ["--host", "{host}", "--port", "{port}", "--folder", %q]}`, w.lab.Program("studio"), w.dir)
	w.setup.pool(id, set([]row{{"engine", "command"}, {"device", "cpu"}, {"health", "/well"}, {"provisioning", args}}, rows...))
	return err
}

func (w *world) aDaemonThatStopsWithin(d string) error {
	w.setup.args = append(w.setup.args, "--stop-within", d)
	return w.aDaemon()
}

// aDaemon starts a daemon with the configuration of the steps before it, and waits for its replicas.
func (w *world) aDaemon() error {
	if len(w.setup.pools) == 0 {
		w.setup.pool("default", w.lab.builtin())
	}
	if err := w.start(); err != nil {
		return err
	}
	return w.daemon.ready(w.setup.replicas)
}

func (w *world) start() error {
	d, err := w.lab.startDaemon(w.setup)
	if err != nil {
		return err
	}
	w.daemon = d
	w.daemons = append(w.daemons, d)
	u, err := url.Parse(d.URL)
	if err != nil {
		return fmt.Errorf("read the daemon's address: %w", err)
	}
	w.kept["PORT"] = u.Port()
	return nil
}

func (w *world) aDaemonWhosePoolHas(t *godog.Table) error {
	if err := w.aBuiltinPool("default", t); err != nil {
		return err
	}
	return w.aDaemon()
}

func (w *world) aDaemonOnAFake() error { return w.aDaemonOnAFakeWhosePoolHas(&godog.Table{}) }

func (w *world) aDaemonOnAFakeWhosePoolHas(t *godog.Table) error {
	if w.fake == nil {
		if err := w.aFakeEngine(1); err != nil {
			return err
		}
	}
	if err := w.anExternalPool("default", t); err != nil {
		return err
	}
	return w.aDaemon()
}

// aDaemonWhoseEngineIsDown has one pool. Nothing listens on the port of its engine.
func (w *world) aDaemonWhoseEngineIsDown() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return fmt.Errorf("free the port again: %w", err)
	}
	w.setup.pool("default", external("http://"+address))
	return w.start()
}

func (w *world) noteWorkers() error {
	w.workers = w.daemon.Workers()
	if len(w.workers) == 0 {
		return errors.New("the daemon has no worker")
	}
	return nil
}

func (w *world) killAWorker() error {
	if err := w.noteWorkers(); err != nil {
		return err
	}
	w.workers[0].Kill()
	return nil
}

func (w *world) killTheDaemon() error {
	w.workers = w.daemon.Workers()
	_, err := w.daemon.Process.Stop(syscall.SIGKILL)
	return err
}

func (w *world) terminateTheDaemon() error {
	w.workers = w.daemon.Workers()
	return w.daemon.Signal(syscall.SIGTERM)
}

func (w *world) startAgain() error {
	if err := w.start(); err != nil {
		return err
	}
	return w.daemon.ready(w.setup.replicas)
}

func (w *world) noWorkerIsLeft() error {
	if len(w.workers) == 0 {
		return errors.New("the daemon had no worker")
	}
	return poll("the end of the workers", func() error {
		for _, worker := range w.workers {
			if worker.Alive() {
				return fmt.Errorf("worker %d is still there", worker.Pid)
			}
		}
		return nil
	})
}

func (w *world) theDaemonExitsWith(code int) error {
	got, err := w.daemon.Exit()
	if err == nil && got != code {
		err = fmt.Errorf("the exit code is %d", got)
	}
	return err
}

// replica asks for one replica's health.
func (w *world) replica(id string) (any, error) {
	pool := id[:max(len(id)-2, 0)] // <pool>-<index>
	if err := w.call(http.MethodGet, "/v1/pools/"+pool+"/health", nil, nil); err != nil {
		return nil, err
	}
	health, err := decode(w.last.body)
	if err != nil {
		return nil, err
	}
	list, _ := dig(health, "replicas").([]any)
	for _, r := range list {
		if dig(r, "id") == id {
			return r, nil
		}
	}
	return nil, fmt.Errorf("there is no replica %s in %s", id, w.last.body)
}

func (w *world) theReplicaIsBack(id string) error {
	return poll("replica "+id, func() error {
		r, err := w.replica(id)
		if err != nil {
			return err
		}
		return errors.Join(match(dig(r, "restarts"), ">= 1"), match(dig(r, "state"), "ready"))
	})
}

func (w *world) theReplicaIsOut(id string) error {
	return poll("replica "+id, func() error {
		r, err := w.replica(id)
		if err != nil {
			return err
		}
		return match(dig(r, "state"), "/^(backoff|provisioning|loading|probing)$/")
	})
}

// workersAreClosed finds the workers' addresses in the log.
func (w *world) workersAreClosed() error {
	log, err := w.daemon.log()
	if err != nil {
		return err
	}
	found := 0
	for _, line := range log {
		address, ok := line["url"].(string)
		if !ok || line["msg"] != "replica is ready" {
			continue
		}
		found++
		u, err := url.Parse(address)
		if err != nil || u.Hostname() != "127.0.0.1" {
			return fmt.Errorf("a worker listens on %s", address)
		}
		res, err := w.daemon.client.Get(address + "/props")
		if err != nil {
			return fmt.Errorf("ask a worker: %w", err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("a worker answered %d to a call without its key", res.StatusCode)
		}
	}
	if found == 0 {
		return errors.New("the log names no ready replica")
	}
	return nil
}
