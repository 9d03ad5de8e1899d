// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
)

type topCmd struct {
	Once bool `help:"Print one frame and end. This is the default if stdout is no terminal, and with --json."`
}

// Run shows one frame, or one a second until Ctrl-C.
func (c *topCmd) Run(a *app) error {
	first, err := a.look()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(first)
	}
	if c.Once || !terminal(a.out) || a.env("TERM") == "dumb" {
		text, err := first.render(a.addr, time.Now(), columns(a.out))
		if err != nil {
			return err
		}
		_, err = io.WriteString(a.out, text)
		return err
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	return a.watch(first, ticker.C, func() int { return rows(a.out) })
}

// load has everything that top shows.
type load struct {
	Pools []*sdk.PoolHealth `json:"pools"`
	GPUs  *sdk.GPUList      `json:"gpus"`
}

func (a *app) look() (*load, error) {
	pools, err := a.client.Pools(a.ctx)
	if err != nil {
		return nil, err
	}
	l := &load{Pools: []*sdk.PoolHealth{}}
	for _, p := range pools {
		health, err := a.client.PoolHealth(a.ctx, p.ID)
		if e, ok := errors.AsType[*sdk.Error](err); ok && e.Status == http.StatusNotFound {
			continue // the configuration has changed since
		}
		if err != nil {
			return nil, err
		}
		l.Pools = append(l.Pools, health)
	}
	l.GPUs, err = a.client.GPUs(a.ctx)
	return l, err
}

// render makes the frame's text, for a screen of a width; 0: there is no bound.
func (l *load) render(addr string, now time.Time, width int) (string, error) {
	var ready, running, waiting int
	all := make([]sdk.Pool, len(l.Pools))
	for i, p := range l.Pools {
		all[i] = p.Pool
		waiting += p.Pool.Queue.Depth
		for _, r := range p.Replicas {
			running += r.Active
			if r.State == sdk.ReplicaStateReady {
				ready++
			}
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s  %s  %s, %s ready, %s running, %d waiting\n", oneLine(addr), now.Format(timeLayout), plural(len(all), "pool"),
		plural(ready, "replica"), plural(running, "task"), waiting)
	if problem := l.GPUs.Problem; problem != "" {
		fmt.Fprintf(&b, "no GPU can be used: %s\n", oneLine(problem))
	}
	for _, table := range [][][]string{poolRows(all...), replicaRows(l.Pools...), gpuRows(l.GPUs.GPUs), holderRows(l.GPUs.GPUs)} {
		if len(table) < 2 {
			continue
		}
		b.WriteByte('\n')
		table, _ = fit(table, width)
		if err := writeTable(&b, table); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// What the live view does to the terminal, and how it undoes that: alternate screen, no cursor, long lines cut instead of wrapped.
const (
	takeScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	giveBack   = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watch draws a frame at every tick until Ctrl-C. Ctrl-C is the way to leave it, so that is no error. If the server goes away, watch waits for it.
func (a *app) watch(now *load, tick <-chan time.Time, height func() int) (err error) {
	if _, err := io.WriteString(a.out, takeScreen); err != nil {
		return err
	}
	defer func() {
		_, left := io.WriteString(a.out, giveBack)
		err = errors.Join(err, left)
	}()
	trouble := ""
	for at := time.Now(); ; {
		text, err := now.render(a.addr, at, columns(a.out))
		if err != nil {
			return err
		}
		if err := a.draw(trouble+text, height()); err != nil {
			return err
		}
		select {
		case at = <-tick:
		case <-a.ctx.Done():
			return nil
		}
		next, err := a.look()
		trouble = ""
		switch {
		case a.ctx.Err() != nil:
			return nil
		case err != nil:
			trouble = "what follows is old: " + oneLine(err.Error()) + "\n"
		default:
			now = next
		}
	}
}

// draw overwrites the screen line by line, which does not flicker. It leaves out what does not fit.
func (a *app) draw(text string, height int) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	_, err := io.WriteString(a.out, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
	return err
}
