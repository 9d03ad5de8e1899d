// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/conformance/tgi"
	"github.com/llama-orch/llama-orch/harness/conformance/triton"
	"github.com/llama-orch/llama-orch/harness/hubengine"
)

// hubMaker builds the stand-in for engines that take models of the hub, once for each run.
type hubMaker struct {
	once sync.Once
	exe  string
	err  error
}

func (m *hubMaker) build(l *lab) error {
	m.once.Do(func() {
		m.exe = filepath.Join(l.Dir, "bin", "hubengine")
		m.err = hubengine.Build(context.Background(), l.Root, m.exe)
	})
	return m.err
}

func (w *world) hubSteps(step define) {
	step(`^a pool "([^"]*)" of engine "([^"]*)" in front of a server of (TGI|Triton|Ollama)$`, w.aPoolOnAServer)
	step(`^a pool "([^"]*)" that starts engine "([^"]*)" with$`, w.aPoolThatStarts)
	step(`^a model of the hub in folder "([^"]*)"$`, w.aHubModel)
	step(`^the engine of pool "([^"]*)" keeps loading$`, w.theEngineKeepsLoading)
	step(`^the engine of pool "([^"]*)" says "(.*)"$`, w.theEngineSays)
	step(`^the engine of pool "([^"]*)" has loaded$`, w.theEngineHasLoaded)
	step(`^the engine of pool "([^"]*)" was told "(.*)"$`, w.theEngineWasTold)
	step(`^the command line of the engine of pool "([^"]*)" holds no key$`, w.noKeyWasTold)
	step(`^a worker of the hub's model "([^"]*)" dies of "(.*)"$`, w.aHubWorkerDies)
	step(`^replica "([^"]*)" is at "(.*)"$`, w.theReplicaIsAt)
}

// closing is a server that ends with the scenario.
type closing struct{ *httptest.Server }

// Close implements io.Closer.
func (c closing) Close() error {
	c.CloseClientConnections()
	c.Server.Close()
	return nil
}

// ollama shows what Ollama shows of itself.
func ollama(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/version" {
		http.NotFound(w, r)
		return
	}
	fmt.Fprint(w, `{"version":"0.12.3"}`)
}

func (w *world) aPoolOnAServer(id, engine, product string) error {
	servers := map[string]http.Handler{"TGI": tgi.New(tgi.Options{}), "Triton": triton.New(triton.Options{}), "Ollama": http.HandlerFunc(ollama)}
	s := httptest.NewServer(servers[product])
	w.blanks = append(w.blanks, closing{s})
	w.setup.pool(id, []row{
		{"engine", engine},
		{"model", fmt.Sprintf("{id: %s, ref: %s}", id, id)},
		{"ctx", "4096"},
		{"provisioning", fmt.Sprintf("{mode: external, urls: [%q]}", s.URL)},
	})
	return nil
}

func (w *world) hubModel(pool string) string { return filepath.Join(w.dir, pool) }

// aPoolThatStarts makes a pool whose engine the daemon starts: the stand-in, with a model of its own.
func (w *world) aPoolThatStarts(id, engine string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err == nil {
		err = w.lab.hub.build(w.lab)
	}
	if err == nil {
		err = hubengine.WriteModel(w.hubModel(id), 1<<20)
	}
	if err != nil {
		return err
	}
	w.setup.pool(id, set([]row{
		{"engine", engine},
		{"model", fmt.Sprintf("{id: %s, ref: %q}", id, "file:"+w.hubModel(id))},
		{"provisioning", fmt.Sprintf("{mode: binary, path: %q}", w.lab.hub.exe)},
	}, rows...))
	return nil
}

func (w *world) aHubModel(folder string) error {
	return hubengine.WriteModel(w.hubModel(folder), 1<<20)
}

// tellHub adds to a file beside the stand-in's model; see package hubengine.
func (w *world) tellHub(pool, name, text string) error {
	file, err := os.OpenFile(filepath.Join(w.hubModel(pool), name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("tell the stand-in: %w", err)
	}
	if _, err = file.WriteString(text); err != nil {
		return fmt.Errorf("tell the stand-in: %w", err)
	}
	return file.Close()
}

func (w *world) theEngineKeepsLoading(pool string) error { return w.tellHub(pool, ".hold", "") }
func (w *world) theEngineSays(pool, line string) error   { return w.tellHub(pool, ".lines", line+"\n") }

func (w *world) theEngineHasLoaded(pool string) error {
	return os.Remove(filepath.Join(w.hubModel(pool), ".hold"))
}

func (w *world) aHubWorkerDies(pool, words string) error { return w.tellHub(pool, ".dies", words) }

func (w *world) hubCall(pool string) (hubengine.Call, error) {
	calls, err := hubengine.Calls(w.hubModel(pool))
	if err != nil {
		return hubengine.Call{}, err
	}
	return calls[len(calls)-1], nil
}

func (w *world) theEngineWasTold(pool, words string) error {
	c, err := w.hubCall(pool)
	if err == nil && !strings.Contains(strings.Join(c.Args, " "), words) {
		err = fmt.Errorf("it was told %q", c.Args)
	}
	return err
}

func (w *world) noKeyWasTold(pool string) error {
	c, err := w.hubCall(pool)
	if err != nil {
		return err
	}
	for _, pair := range c.Env {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasSuffix(name, "API_KEY") && value != "" {
			if slices.ContainsFunc(c.Args, func(arg string) bool { return strings.Contains(arg, value) }) {
				return fmt.Errorf("the key of %s is on the command line", name)
			}
			return nil
		}
	}
	return errors.New("it got no key")
}

func (w *world) theReplicaIsAt(id, words string) error {
	return poll("replica "+id, func() error {
		r, err := w.replica(id)
		if err != nil {
			return err
		}
		if text, _ := dig(r, "progress").(string); text != words {
			return fmt.Errorf("it is at %q", text)
		}
		return nil
	})
}
