// SPDX-License-Identifier: GPL-3.0-or-later

package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// secure is a connection of TLS over one of the port. It has no descriptor to offer, so whoever writes to it writes through TLS. A client that closes its side of TLS
// is gone: unlike TCP, nobody does that to go on reading.
type secure struct {
	*tls.Conn

	under *conn
}

// plainAnswer is for who speaks HTTP to a port of TLS.
const plainAnswer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nthis port speaks TLS: use https://\n"

// Read is net.Conn's.
func (c *secure) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if wrong, ok := errors.AsType[tls.RecordHeaderError](err); ok && wrong.Conn != nil && !c.under.refused.Swap(true) {
		_, _ = c.under.TCPConn.Write([]byte(plainAnswer)) // it is gone, or reads that
		_ = c.under.CloseWrite()
	}
	return n, err
}

// Write is net.Conn's, with refusals as the port's own connections have them.
func (c *secure) Write(b []byte) (int, error) { return c.under.refuse(b, c.Conn.Write) }

// CloseWrite ends what the server says, on both layers.
func (c *secure) CloseWrite() error {
	return errors.Join(c.Conn.CloseWrite(), c.under.CloseWrite())
}

// SetLinger is the TCP connection's.
func (c *secure) SetLinger(sec int) error { return c.under.SetLinger(sec) }

// Secure reports whether a request came by TLS.
func Secure(ctx context.Context) bool {
	c, ok := ctx.Value(key{}).(*conn)
	return ok && c.sealed
}

// PairError says what is wrong with a certificate or its key, and what to do about it.
type PairError struct {
	Cert, Key string
	Err       error
}

func (e *PairError) Error() string {
	return fmt.Sprintf("the certificate %s and the key %s cannot be used together: %v: set tls.cert to a PEM file with the certificate and those that it needs, tls.key to that of its key, and let the user who runs orchestratord read both",
		e.Cert, e.Key, e.Err)
}

func (e *PairError) Unwrap() error { return e.Err }

// Pair is a certificate with its key. It is read again when its files have changed.
type Pair struct {
	cert, key string
	told      func(Dates, error) // of what came of reading it again; nil is success

	mu     sync.Mutex // guards what follows
	now    *tls.Certificate
	marks  [2]mark
	looked time.Time
}

// mark tells a file from what takes its place.
type mark struct {
	modified time.Time
	size     int64
}

// lookEvery bounds how often the files are looked at, which a handshake does.
const lookEvery = 5 * time.Second

// LoadPair reads a pair, whatever its dates. Told hears of each later reading, and of the dates of what is in use then. The error is a *PairError.
func LoadPair(cert, key string, told func(Dates, error)) (*Pair, error) {
	p := &Pair{cert: cert, key: key, told: told}
	pair, err := p.read()
	if err != nil {
		return nil, err
	}
	p.now = pair
	return p, nil
}

// Dates are those between which the certificate in use is valid.
func (p *Pair) Dates() Dates {
	p.mu.Lock()
	defer p.mu.Unlock()
	return datesOf(p.now)
}

// Config is the server's side of TLS. HTTP/2 could not carry a stream (ADR 014).
func (p *Pair) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return p.current(time.Now()), nil
	}}
}

// Reload reads the files now. A pair that cannot be used leaves the one that is in use.
func (p *Pair) Reload(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again(now)
}

// current is the pair as its files have it. While they are being replaced, and do not fit, it is the one from before.
func (p *Pair) current(now time.Time) *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.looked) >= lookEvery {
		p.looked = now
		if p.look() != p.marks {
			p.again(now)
		}
	}
	return p.now
}

// again reads the files, and takes them if nothing is lost by it: a certificate that clients refuse by its dates takes no place of one that they take. The caller holds mu.
func (p *Pair) again(now time.Time) {
	pair, err := p.read()
	if err == nil {
		if dates := datesOf(pair); dates.outside(now) && !datesOf(p.now).outside(now) {
			err = &PairError{p.cert, p.key, errors.New("the certificate " + dates.Warning(now))}
		} else {
			p.now = pair
		}
	}
	p.told(datesOf(p.now), err)
}

func (p *Pair) look() (marks [2]mark) {
	for i, name := range []string{p.cert, p.key} {
		if at, err := os.Stat(name); err == nil {
			marks[i] = mark{at.ModTime(), at.Size()}
		}
	}
	return marks
}

// read reads the files. The caller holds mu, or is alone.
func (p *Pair) read() (*tls.Certificate, error) {
	p.marks = p.look() // before they are read: a change meanwhile is seen the next time
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, &PairError{p.cert, p.key, err}
	}
	return &pair, nil
}

var _ net.Conn = (*secure)(nil)
