// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cucumber/godog"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/harness/client"
)

func (w *world) recoverySteps(step define) {
	step(`^stream "([^"]*)" breaks off$`, w.theStreamBreaksOff)
	step(`^I follow task "([^"]*)" as "([^"]*)", from where "([^"]*)" broke off$`, w.iReconnect)
	step(`^a metrics frame of stream "([^"]*)" has$`, w.aMetricsFrameHas)
	step(`^I start the daemon again at once$`, w.start)
	step(`^I start the daemon again with "([^"]*)"$`, w.startAgainWith)
	step(`^I stop the daemon$`, w.stopTheDaemon)
	step(`^I kill the worker that runs task "([^"]*)"$`, w.killTheWorkerOf)
	step(`^the pool is configured under the name "([^"]*)"$`, w.thePoolIsRenamed)
	step(`^task "([^"]*)" is past its deadline of (\d+) ms$`, w.theTaskIsPastItsDeadline)
	step(`^the disk takes no more bytes from the daemon$`, w.theDiskIsFull)
	step(`^the disk takes no more than (\d+) bytes of a file from the daemon$`, w.theDiskIsSmall)
	step(`^the disk takes the daemon's bytes again$`, w.theDiskHasRoom)
	step(`^the ledger is (overwritten at its head|cut to a half|replaced by a text)$`, w.theLedgerIs)
	step(`^the ledger is as it was$`, w.theLedgerIsAsItWas)
	step(`^the data folder holds a file "([^"]*)" with the ledger as it was$`, w.theLedgerIsIn)
}

// theStreamBreaksOff waits until the connection is cut. A client must not take that for the end of its task.
func (w *world) theStreamBreaksOff(name string) error {
	s, err := w.stream(name)
	if err != nil {
		return err
	}
	if err := s.Await("the end of stream "+name, func() bool { return s.ended }); err != nil {
		return err
	}
	if events, _ := s.list(); len(events) > 0 && events[len(events)-1].Terminal() {
		return fmt.Errorf("it ends with %s", events[len(events)-1].Data)
	}
	s.Update(func() {
		if !s.hungUp && s.err != nil && errors.Is(s.err, client.ErrBroken) {
			s.broken, s.err = true, nil
		} else {
			err = errors.Join(errors.New("it was not cut off"), s.err)
		}
	})
	return err
}

// iReconnect reconnects with the id of the client's last event.
func (w *world) iReconnect(task, name, of string) error {
	s, err := w.stream(of)
	if err != nil {
		return err
	}
	prior, err := s.all()
	switch {
	case err != nil:
		return err
	case !s.broken:
		return fmt.Errorf("no step has seen stream %q break off", of)
	case len(prior) == 0:
		return fmt.Errorf("stream %q had brought nothing", of)
	}
	return w.follow(task, name, prior, []row{{"Last-Event-ID", prior[len(prior)-1].ID}}, "")
}

// aMetricsFrameHas waits for the first frame that fits the table.
func (w *world) aMetricsFrameHas(name string, t *godog.Table) error {
	s, err := w.stream(name)
	if err != nil {
		return err
	}
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	found := false
	if err := s.Await("such a metrics frame of stream "+name, func() bool {
		for _, e := range s.events {
			fits := e.Name == "metrics"
			for _, r := range rows {
				fits = fits && inEvent(e, r.name, r.value) == nil
			}
			found = found || fits
		}
		return found || s.ended
	}); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("stream %q ended without", name)
	}
	return nil
}

func (w *world) startAgainWith(flags string) error {
	w.setup.args = append(w.setup.args, strings.Fields(flags)...)
	return w.startAgain()
}

func (w *world) stopTheDaemon() error {
	if err := w.terminateTheDaemon(); err != nil {
		return err
	}
	return w.theDaemonExitsWith(0)
}

// killTheWorkerOf finds the worker by the pid files, as the daemon itself would.
func (w *world) killTheWorkerOf(name string) error {
	t, err := w.task(name)
	if err != nil {
		return err
	}
	if err := w.call(http.MethodGet, "/v1/tasks/"+t.id, nil, nil); err != nil {
		return err
	}
	var status struct {
		Replica string `json:"replica_id"`
	}
	if err := json.Unmarshal(w.last.body, &status); err != nil || status.Replica == "" {
		return fmt.Errorf("task %q runs on no replica: %s", name, w.last.body)
	}
	pid, err := w.workerOf(status.Replica)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill a worker: %w", err)
	}
	return nil
}

// workerOf finds a replica's worker by the pid files.
func (w *world) workerOf(replica string) (pid int, err error) {
	files, err := filepath.Glob(filepath.Join(w.dir, "data", "run", "*.json"))
	if err != nil {
		return 0, fmt.Errorf("look for the pid files: %w", err)
	}
	for _, file := range files {
		var worker struct {
			PID     int    `json:"pid"`
			Replica string `json:"replica_id"`
		}
		data, err := os.ReadFile(file)
		if err == nil && json.Unmarshal(data, &worker) == nil && worker.Replica == replica {
			return worker.PID, nil
		}
	}
	return 0, fmt.Errorf("no pid file names the replica %s", replica)
}

func (w *world) thePoolIsRenamed(id string) error {
	w.setup.pools[0] = strings.Replace(w.setup.pools[0], "  - id: default\n", "  - id: "+id+"\n", 1)
	return nil
}

// theTaskIsPastItsDeadline waits for a time, since there is nobody to ask while the daemon is down.
func (w *world) theTaskIsPastItsDeadline(name string, ms int) error {
	t, err := w.task(name)
	if err == nil {
		<-time.After(time.Until(t.at.Add(time.Duration(ms) * time.Millisecond)))
	}
	return err
}

// theDiskIsFull bounds the size of every file that the daemon writes. SQLite sees a write that fails, and nobody needs the right to mount anything.
// The chaos suite has a disk that is really full.
func (w *world) theDiskIsFull() error { return w.fileSize(0) }

func (w *world) theDiskIsSmall(bytes int) error { return w.fileSize(uint64(bytes)) }

func (w *world) theDiskHasRoom() error { return w.fileSize(unix.RLIM_INFINITY) }

func (w *world) fileSize(soft uint64) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(w.daemon.Pid(), unix.RLIMIT_FSIZE, nil, &limit); err != nil {
		return fmt.Errorf("read the daemon's limits: %w", err)
	}
	limit.Cur = min(soft, limit.Max)
	if err := unix.Prlimit(w.daemon.Pid(), unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		return fmt.Errorf("set the daemon's limits: %w", err)
	}
	return nil
}

func (w *world) ledgerFile() string { return filepath.Join(w.dir, "data", "state.db") }

func (w *world) theLedgerIs(how string) error {
	content, err := os.ReadFile(w.ledgerFile())
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	switch how {
	case "overwritten at its head":
		copy(content, bytes.Repeat([]byte("damaged!"), 512))
	case "cut to a half":
		content = content[:len(content)/2+1]
	default:
		content = []byte("This is somebody's shopping list.\n")
	}
	if err := os.WriteFile(w.ledgerFile(), content, 0o600); err != nil {
		return fmt.Errorf("damage the ledger: %w", err)
	}
	w.ledger = content
	return nil
}

func (w *world) theLedgerIsAsItWas() error { return w.sameLedger(w.ledgerFile()) }

func (w *world) sameLedger(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	if w.ledger == nil || !bytes.Equal(content, w.ledger) {
		return fmt.Errorf("%s has %d other bytes than the %d it was damaged to", file, len(content), len(w.ledger))
	}
	return nil
}

func (w *world) theLedgerIsIn(pattern string) error {
	files, err := filepath.Glob(filepath.Join(w.dir, "data", pattern))
	if err != nil || len(files) != 1 {
		return errors.Join(err, fmt.Errorf("the data folder has %v", files))
	}
	return w.sameLedger(files[0])
}
