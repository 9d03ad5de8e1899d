// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/harness/watch"
)

// fronts measures chats: directly, through the proxy, through OpenAI's front, and as native tasks with messages. One row more is of a model that can
// think: its chats go to the engine's chat endpoint, and the others to the native one (LO-411).
func (l *lab) fronts() (err error) {
	front := chat("bench")
	ways, end, err := l.ways("front", front, front, broad(l.stub), thinking(l.stub))
	if err != nil {
		return err
	}
	defer func() { err = end(err) }()
	floor, err := l.floor("front", front)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.proc.end()) }()
	daemon := ways[2].proc
	ways = append(ways, floor, newWay("daemon, a model that thinks", daemon.url(), daemon, chat("thinks")), newWay("daemon, native tasks", daemon.url(), daemon, asChatTask))
	if err := l.volleys("Chats", ways, []volley{
		{name: "16 clients flat out", clients: 16, each: 100},
		{name: "8 connections, back to back", clients: 8, each: 100},
		{name: "32 chats that arrive together", clients: 32, each: 1, rate: 100},
	}); err != nil {
		return err
	}
	return l.waiting()
}

// idle is how many streams wait, and waits the name of that load.
const (
	idle  = 1000
	waits = "1000 streams that wait"
)

// waiting measures what streams cost that wait. In the daemon their tasks wait in line, since one task holds the pool's only slot. The proxy knows no line:
// its streams wait for their second token.
func (l *lab) waiting() error {
	if !strings.Contains(waits, l.load) {
		return nil
	}
	fmt.Fprintf(l.out, "\n### %s\n\nload average %s\n\n", waits, loadAverage())
	fmt.Fprintln(l.out, "| | RSS before, MB | with them, MB | anonymous | for each, kB | CPU a second, ms |")
	fmt.Fprintln(l.out, "|---|---:|---:|---:|---:|---:|")
	for _, one := range []struct {
		name string
		asks ask
	}{{"proxy", chat("bench")}, {"daemon", chat("bench")}, {"daemon, native tasks", asChatTask}} {
		if err := l.wait(one.name, one.asks); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return nil
}

// wait measures it on one way, with a process of its own.
func (l *lab) wait(name string, asks ask) (err error) {
	proc, err := l.between(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proc.end()) }()
	w := newWay(name, proc.url(), proc, asks)
	ctx, cancel := context.WithTimeoutCause(l.ctx, 2*watch.Patience, errors.New("the streams took too long to begin"))
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel() // the clients go, and so do their tasks
	begun := make(chan error, idle+1)
	one := func() {
		body, err := asks(ctx, w, "hold")
		begun <- err
		if err == nil {
			<-ctx.Done()
			_ = body.Close()
		}
	}
	begin := func(n int) error {
		for range n {
			streams.Go(one)
		}
		for range n {
			if err := <-begun; err != nil {
				return w.blame("waiting", err)
			}
		}
		return nil
	}
	if err := begin(1); err != nil { // it holds the slot
		return err
	}
	before, _ := proc.rss()
	if err := begin(idle); err != nil {
		return err
	}
	if proc.daemon != nil {
		if depth, err := series(proc, "queue_depth", ""); err != nil || depth != idle {
			return errors.Join(err, fmt.Errorf("%d tasks should wait, and %.0f do", idle, depth))
		}
	}
	time.Sleep(time.Second) // what a stream's begin took is given back
	cpu, from := proc.cpu(), time.Now()
	time.Sleep(4 * time.Second)
	used := (proc.cpu() - cpu).Seconds() / time.Since(from).Seconds()
	with, anon := proc.rss()
	fmt.Fprintf(l.out, "| %s | %.0f | %.0f | %.0f | %.1f | %.1f |\n", name, float64(before)/1e6, float64(with)/1e6, float64(anon)/1e6,
		float64(with-before)/idle/1e3, used*1e3)
	return nil
}

// between starts the process between the clients and the stub.
func (l *lab) between(name string) (*child, error) {
	if name == "proxy" {
		return l.start("proxy", l.stub.url())
	}
	d, err := l.serve(name, l.exe, filepath.Join(l.disk, "waiting", name), narrow(l.stub))
	if err != nil {
		return nil, err
	}
	if _, err := l.answers(d, "/readyz"); err != nil {
		return nil, errors.Join(err, d.end())
	}
	return d, nil
}
