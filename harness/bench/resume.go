// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"
)

// spokenTokens is how many tokens the response has whose end is read again and again.
const spokenTokens = 10_000

// resumes measures how long a client waits that resumes at the end of a long response: on the daemon that made it, and on the next one after a
// `kill -9`, which has it from the ledger alone. The daemon's CPU time tells what it costs on a machine that others use too.
func (l *lab) resumes() error {
	times := 200
	if l.quick {
		times = 50
	}
	data := filepath.Join(l.disk, "resume")
	fmt.Fprintf(l.out, "\n### Resuming at the end of a response of %d tokens\n\n%d times one after the other; load average %s\n\n", spokenTokens, times, loadAverage())
	fmt.Fprintln(l.out, "| | the first, ms | p50, ms | p99, ms | CPU each, ms |\n|---|---:|---:|---:|---:|")
	var path string
	var tail []byte
	for _, c := range []struct {
		name  string
		evict bool
	}{{"on the daemon that made it", false}, {"after `kill -9`, from the ledger", false}, {"the same, ledger not in the page cache", true}} {
		if c.evict {
			if err := evict(data); err != nil {
				return err
			}
		}
		err := func() error {
			d, err := l.serve("resumer", l.exe, data, narrow(l.stub))
			if err != nil {
				return err
			}
			defer d.Kill()
			if _, err := l.answers(d, "/readyz"); err != nil {
				return err
			}
			w := newWay("daemon", d.url(), d, nil)
			defer w.client.CloseIdleConnections()
			if path == "" {
				if path, tail, err = l.speak(w); err != nil {
					return err
				}
			}
			before := d.cpu()
			first, took, err := l.again(w, path, tail, times)
			if err != nil {
				return err
			}
			ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
			fmt.Fprintf(l.out, "| %s | %.2f | %.2f | %.2f | %.2f |\n", c.name, ms(first), ms(percentile(took, 50)), ms(percentile(took, 99)),
				ms(d.cpu()-before)/float64(times))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// speak makes a response, and returns the path that resumes in front of its last event, and that event.
func (l *lab) speak(w *way) (path string, tail []byte, err error) {
	got, err := called(l.ctx, w, http.MethodPost, "/v1/responses", map[string]any{
		"model": "bench", "input": fmt.Sprintf("rate=0 tokens=%d", spokenTokens), "background": true, "max_output_tokens": most,
	})
	if err != nil {
		return "", nil, err
	}
	path = "/v1/responses/" + got.ID + "?stream=true" // which ends with the response
	whole, err := l.read(w, path)
	if err != nil {
		return "", nil, err
	}
	at := bytes.LastIndex(whole, []byte("event: response.completed\n")) // behind it is the receipt
	if at < 0 {
		return "", nil, fmt.Errorf("the response's stream of %d bytes has no end: %q", len(whole), whole[max(0, len(whole)-300):])
	}
	number := bytes.LastIndex(whole, []byte(lastNumber))
	var last int
	if _, err := fmt.Sscanf(string(whole[max(0, number):]), lastNumber+"%d", &last); err != nil || last <= spokenTokens {
		return "", nil, fmt.Errorf("the response's last event is %d: %w", last, err)
	}
	return fmt.Sprintf("%s&starting_after=%d", path, last-1), whole[at:], nil
}

// lastNumber stands in front of an event's number.
const lastNumber = `"sequence_number":`

// again resumes so often, and returns how long the first time took, and all of them.
func (l *lab) again(w *way, path string, want []byte, times int) (first time.Duration, took []time.Duration, err error) {
	for range times {
		asked := time.Now()
		got, err := l.read(w, path)
		if err != nil {
			return 0, nil, err
		}
		took = append(took, time.Since(asked))
		if !bytes.Equal(got, want) {
			return 0, nil, fmt.Errorf("it was resumed with %.200q, and its end is %.200q", got, want)
		}
	}
	return took[0], took, nil
}

func (l *lab) read(w *way, path string) (text []byte, err error) {
	body, err := w.send(l.ctx, http.MethodGet, path, nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	if text, err = io.ReadAll(body); err != nil {
		err = fmt.Errorf("read a response's stream: %w", err)
	}
	return text, errors.Join(err, body.Close())
}
