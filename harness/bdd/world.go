// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/daemon"
	"github.com/llama-orch/llama-orch/harness/nvmlstub"
	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// world is the state of one scenario. Its steps run one after another.
type world struct {
	lab *lab
	dir string

	setup   *setup
	daemon  *server
	fake    *fake
	daemons []*server // own ones, to be ended
	fakes   []*fake
	blanks  []io.Closer // of connections that never read

	tasks     map[string]*submitted
	streams   map[string]*stream
	responses map[string]*responseStream
	kept      map[string]string // values by name, for $NAME
	last      *response
	metrics   series          // as noted
	workers   []daemon.Worker // of the daemon, as noted
	noted     int             // the process of a worker
	ledger    []byte          // the file, as it was damaged
	command   *process.Process
	code      int       // of the command
	meanwhile chan sent // the answer to a request under way
	cards     *nvmlstub.State
	origins   map[string]*origin // of models, by scheme
	trust     string             // the setting of the catalog, as YAML
}

// submitted is a task by its name in the scenario.
type submitted struct {
	id        string
	admission []byte
	at        time.Time // of the 202
}

// response is an answer; one that is an error has to be asserted by a step.
type response struct {
	what     string
	status   int
	header   http.Header
	body     []byte
	asserted bool
}

func newWorld(l *lab) *world {
	return &world{lab: l, tasks: map[string]*submitted{}, streams: map[string]*stream{}, responses: map[string]*responseStream{}, kept: map[string]string{}, origins: map[string]*origin{}}
}

// begin gives the scenario its folder.
func (w *world) begin(ctx context.Context, _ *godog.Scenario) (context.Context, error) {
	var err error
	if w.dir, err = os.MkdirTemp(w.lab.Dir, "scenario-"); err != nil {
		return ctx, fmt.Errorf("make the scenario's folder: %w", err)
	}
	w.setup = newSetup(w.dir)
	w.kept["MODEL"], w.kept["DIR"], w.kept["ROOT"] = w.lab.Model, w.dir, w.lab.Root
	return ctx, nil
}

// end stops what the scenario started, and fails the scenario for what no step looked at.
func (w *world) end(ctx context.Context, sc *godog.Scenario, failed error) (context.Context, error) {
	var err error
	if failed == nil {
		err = errors.Join(w.settled(), w.unseen())
	}
	if d := w.daemon; d != nil && (failed != nil || err != nil) {
		godog.T(ctx).Logf("the daemon's log ends with:\n%s", d.Tail(25))
	}
	for _, s := range w.streams {
		w.hangUp(s)
	}
	err = errors.Join(err, w.hangUpResponses())
	for _, c := range w.blanks {
		_ = c.Close() // it was never read
	}
	for _, d := range w.daemons {
		d.kill()
	}
	for _, f := range w.fakes {
		f.Kill()
	}
	for _, o := range w.origins {
		o.goOn()
		o.Server.CloseClientConnections()
		o.Server.Close()
	}
	if w.command != nil {
		w.command.Kill()
	}
	return ctx, errors.Join(err, keep(sc, w.proof()), os.RemoveAll(w.dir))
}

// settled fails for an error that was answered and that no step has asserted.
func (w *world) settled() error {
	if r := w.last; r != nil && r.status >= 400 && !r.asserted {
		return fmt.Errorf("no step asserted the answer %d to %s: %s", r.status, r.what, r.body)
	}
	return nil
}

// unseen fails for streams that broke the contract, or ended with an error that no step asserted.
func (w *world) unseen() (err error) {
	for _, s := range w.streams {
		events, wrong := s.list()
		err = errors.Join(err, wrong)
		if n := len(events); n > 0 && events[n-1].Name == "error" && !s.asserted {
			err = errors.Join(err, fmt.Errorf("no step asserted that stream %q ends with %s", s.name, events[n-1].Data))
		}
	}
	return err
}

func (w *world) hangUp(s *stream) {
	s.Update(func() { s.hungUp = s.hungUp || !s.ended })
	s.close()
	<-s.done
	events, _ := s.all() // what is wrong with it was said elsewhere
	w.lab.logs.generated(text(events))
}

// expand replaces $NAME by what was kept and {name} by the id of the task of that name.
func (w *world) expand(text string) (string, error) {
	var err error
	text = os.Expand(text, func(name string) string {
		value, ok := w.kept[name]
		if !ok {
			err = errors.Join(err, fmt.Errorf("nothing was kept as $%s", name))
		}
		return value
	})
	for name, t := range w.tasks {
		text = strings.ReplaceAll(text, "{"+name+"}", t.id)
	}
	return text, err
}

// rows reads a table of two columns.
func (w *world) rows(t *godog.Table) ([]row, error) {
	var rows []row
	for _, r := range t.Rows {
		if len(r.Cells) != 2 {
			return nil, errors.New("the step's table needs two columns")
		}
		value, err := w.expand(r.Cells[1].Value)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{r.Cells[0].Value, value})
	}
	return rows, nil
}

// request builds a request with the daemon's token. A header whose value is "none" is left out.
func (w *world) request(ctx context.Context, method, path string, headers []row, body []byte) (*http.Request, error) {
	if w.daemon == nil {
		return nil, errors.New("the scenario has started no daemon")
	}
	path, err := w.expand(path)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, w.daemon.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	w.lab.logs.body(body)
	if w.daemon.token != "" {
		r.Header.Set("Authorization", "Bearer "+w.daemon.token)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		switch {
		case strings.EqualFold(h.name, "host"):
			r.Host = h.value
		case h.value == "none":
			r.Header.Del(h.name)
		default:
			r.Header.Set(h.name, h.value)
		}
	}
	w.lab.logs.secret(r.Header.Get("Authorization"))
	return r, nil
}

// call sends a request and reads the answer, which every step can look at until the next call.
func (w *world) call(method, path string, headers []row, body []byte) error {
	if err := w.settled(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	r, err := w.request(ctx, method, path, headers, body)
	if err != nil {
		return err
	}
	w.last, err = answer(w.daemon.client, r)
	return err
}

// answer sends a request and holds the answer against what is promised of every one of them.
func answer(client *http.Client, r *http.Request) (*response, error) {
	res, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("send a request: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer to %s %s: %w", r.Method, r.URL.Path, err)
	}
	a := &response{what: r.Method + " " + r.URL.Path, status: res.StatusCode, header: res.Header, body: body}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("the answer %d to %s: %w: %s", a.status, a.what, err, a.body)
	}
	return a, nil
}

// file makes a file in the scenario's folder.
func (w *world) file(name, content string) error {
	content, err := w.expand(content)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content+"\n"), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
