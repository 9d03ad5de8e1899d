// SPDX-License-Identifier: GPL-3.0-or-later

package soak

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"
	_ "modernc.org/sqlite" // the driver, to count what the ledger holds

	"github.com/llama-orch/llama-orch/harness/daemon"
)

// What a leak that is easily overlooked would add with each task. One thing in a thousand tasks: what is not given back only where a client hangs up, an engine
// dies or the configuration is read again, is that seldom. Of bytes it is what a map's entry with its key takes, which nothing else counts; more of them with fewer
// tasks are a transcript or a connection's buffers.
const (
	oneInAThousand = 0.001
	anEntry        = 256 // bytes
)

// What moves by itself more than that. The memory of a process comes and goes in large pieces, and what is not in the daemon's heap is SQLite's and the kernel's. The
// ledger's file grows and shrinks with each sweep; what its tables hold is counted besides. The series of the metrics are hundreds, some of which begin with the first rare event.
const (
	aRecord      = 1024 // bytes: the record of each task
	oneInHundred = 0.01
)

// sample is what was seen at one moment.
type sample struct {
	tasks   float64 // that had ended
	figures []figure
}

// figure is one number of a sample.
type figure struct {
	name, unit string
	leak       float64
	value      float64
}

// sampler looks at a daemon, its workers and its data folder.
type sampler struct {
	daemon *daemon.Daemon
	data   string // the folder
	calm   string // pool whose workers nobody kills or replaces
	ledger *sql.DB
}

// openLedger opens the daemon's record to read it, as sqlite3 would beside the daemon.
func openLedger(data string) (*sql.DB, error) {
	path := filepath.Join(data, "state.db")
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).String()+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// take takes a sample.
func (s *sampler) take(ctx context.Context) (out sample, err error) {
	text, err := s.daemon.Client.Get(ctx, "/metrics")
	if err != nil {
		return out, fmt.Errorf("read the metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	metrics, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return out, fmt.Errorf("parse the metrics: %w", err)
	}
	out.tasks = sum(metrics["llorch_tasks_finished_total"])
	out.add("goroutines of the daemon", "goroutines", oneInAThousand, sum(metrics["go_goroutines"]))
	// The collector's goal follows what it found alive, and moves far less than what is allocated meanwhile. It is about twice that.
	out.add("heap of the daemon, goal", "bytes", 2*anEntry, sum(metrics["go_memstats_next_gc_bytes"]))
	out.add("ledger", "bytes", aRecord, sum(metrics["llorch_ledger_bytes"]))
	out.add("series of the metrics", "series", oneInHundred, float64(bytes.Count(text, []byte("\n"))))
	if err := out.process("the daemon", []int{s.daemon.Pid()}); err != nil {
		return out, err
	}
	var calm []int
	for pid, replica := range daemon.Noted(s.data) {
		if strings.HasPrefix(replica, s.calm+"-") {
			calm = append(calm, pid)
		}
	}
	slices.Sort(calm)
	if err := out.process("the calm workers", calm); err != nil {
		return out, err
	}
	out.add("workers", "processes", oneInAThousand, float64(len(s.daemon.Workers())))
	files, err := count(s.data, time.Now())
	if err != nil {
		return out, err
	}
	out.add("files in the data folder, artifacts where overdue", "files", oneInAThousand, float64(files))
	return out, s.rows(ctx, &out)
}

// process adds the figures of some processes.
func (s *sample) process(of string, pids []int) error {
	var rss, threads, fds float64
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			return fmt.Errorf("look at %s: %w", of, err)
		}
		stat, err := p.Stat()
		if err != nil {
			return fmt.Errorf("look at %s: %w", of, err)
		}
		open, err := p.FileDescriptorsLen()
		if err != nil {
			return fmt.Errorf("look at %s: %w", of, err)
		}
		rss, threads, fds = rss+float64(stat.ResidentMemory()), threads+float64(stat.NumThreads), fds+float64(open)
	}
	s.add("memory of "+of, "bytes", aRecord, rss)
	s.add("threads of "+of, "threads", oneInAThousand, threads)
	s.add("descriptors of "+of, "descriptors", oneInAThousand, fds)
	return nil
}

// overdue is an age at which nothing is kept any more: the time for which things are kept, and twice that of the sweep which removes them.
const overdue = keeps + 2*time.Minute

// kept are the tables that hold what is kept for a time. Of them only that counts which should be gone, or which has no end yet: the rest comes and goes with each
// sweep, by more than a leak would add.
var kept = map[string]string{
	"task":       `finished_ms IS NULL OR finished_ms < ?`,
	"request":    `seq NOT IN (SELECT seq FROM task WHERE finished_ms >= ?)`,
	"transcript": `seq NOT IN (SELECT seq FROM task WHERE finished_ms >= ?)`,
	"session":    `created_ms + ttl_ms < ?`,
	"batch":      `ended_ms IS NULL OR ended_ms < ?`,
	"batch_line": `batch NOT IN (SELECT seq FROM batch WHERE ended_ms >= ?)`,
}

// rows adds how many rows each table of the ledger has.
func (s *sampler) rows(ctx context.Context, to *sample) error {
	tables, err := s.tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		query, args := fmt.Sprintf(`SELECT count(*) FROM %q`, table), []any(nil)
		name := "rows of " + table
		if which, is := kept[table]; is {
			query, args, name = query+" WHERE "+which, []any{time.Now().Add(-overdue).UnixMilli()}, name+", overdue or under way"
		}
		var n float64
		if err := s.ledger.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
			return fmt.Errorf("count the rows of %s: %w", table, err)
		}
		to.add(name, "rows", oneInAThousand, n)
	}
	return nil
}

func (s *sampler) tables(ctx context.Context) (names []string, err error) {
	rows, err := s.ledger.QueryContext(ctx, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list the ledger's tables: %w", err)
	}
	defer rows.Close() // rows.Err has its error already
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("list the ledger's tables: %w", err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list the ledger's tables: %w", err)
	}
	return names, nil
}

func (s *sample) add(name, unit string, leak, value float64) {
	s.figures = append(s.figures, figure{name, unit, leak, value})
}

// least takes of each figure what is less in another look at the same.
func (s *sample) least(other sample) {
	for i := range s.figures {
		s.figures[i].value = min(s.figures[i].value, other.figures[i].value)
	}
}

// sum adds up all series of a metric.
func sum(family *dto.MetricFamily) (total float64) {
	for _, m := range family.GetMetric() {
		total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return total
}

// count counts the files below a folder, except the artifacts that may still be kept. Some files go while it looks.
func count(dir string, now time.Time) (n int, err error) {
	artifacts := filepath.Join(dir, "artifacts", "sha256") + "/"
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		if strings.HasPrefix(path, artifacts) {
			about, err := entry.Info()
			if err != nil || now.Sub(about.ModTime()) < overdue {
				return nil //nolint:nilerr // it has just gone
			}
		}
		n++
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count the files of the data folder: %w", err)
	}
	return n, nil
}

// seriesOf puts the samples together, by figure.
func seriesOf(samples []sample) (all []Series) {
	at := map[string]int{}
	for _, s := range samples {
		for _, f := range s.figures {
			i, known := at[f.name]
			if !known {
				i = len(all)
				at[f.name], all = i, append(all, Series{Name: f.name, Unit: f.unit, Leak: f.leak})
			}
			all[i].Tasks, all[i].Values = append(all[i].Tasks, s.tasks), append(all[i].Values, f.value)
		}
	}
	return all
}
