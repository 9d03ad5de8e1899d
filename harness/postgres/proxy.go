// SPDX-License-Identifier: GPL-3.0-or-later

package postgres

import (
	"io"
	"net"
	"strconv"
	"sync"
)

// Proxy stands between a client and the server, and cuts connections.
type Proxy struct {
	Port int

	to       string
	listener net.Listener
	mu       sync.Mutex
	open     map[net.Conn]bool
	away     bool
	joined   sync.WaitGroup
}

// NewProxy starts a proxy to a port of this machine.
func NewProxy(port int) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	at, _ := l.Addr().(*net.TCPAddr)
	p := &Proxy{Port: at.Port, to: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), listener: l, open: map[net.Conn]bool{}}
	p.joined.Go(p.serve)
	return p, nil
}

func (p *Proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(c) {
			_ = c.Close()
			continue
		}
		p.joined.Go(func() { p.pass(c) })
	}
}

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.away {
		p.open[c] = true
	}
	return !p.away
}

func (p *Proxy) pass(c net.Conn) {
	defer p.drop(c)
	s, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	if !p.keep(s) {
		_ = s.Close()
		return
	}
	defer p.drop(s)
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(s, c)
		_ = s.Close()
	})
	_, _ = io.Copy(c, s)
	_ = c.Close()
	both.Wait()
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	_ = c.Close()
}

// Cut closes every connection that there is, and refuses others while away is true.
func (p *Proxy) Cut(away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
	for c := range p.open {
		_ = c.Close()
	}
}

// Close ends the proxy.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.Cut(true)
	p.joined.Wait()
	return err
}
