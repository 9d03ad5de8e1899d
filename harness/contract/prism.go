// SPDX-License-Identifier: GPL-3.0-or-later

package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/harness/process"
	"github.com/llama-orch/llama-orch/harness/tape"
	"github.com/llama-orch/llama-orch/harness/watch"
)

// Prism is a running `prism proxy`, which holds requests and answers against a document. What it passes requests on to answers each one as the
// daemon did when the exchange was recorded.
type Prism struct {
	url      string
	process  *process.Process
	upstream *httptest.Server
	client   *http.Client
	played   []tape.Exchange
}

// startWithin bounds the start of Prism, which is two seconds of work, and much longer on a machine that has other work.
const startWithin = 5 * time.Minute

// exchangeHeader numbers the exchange that a request repeats.
const exchangeHeader = "X-Tape-Exchange"

// StartPrism starts Prism, from a folder of npm packages, with a document and the exchanges that will be played.
func StartPrism(ctx context.Context, l *process.Launcher, packages, document string, played []tape.Exchange) (*Prism, error) {
	p := &Prism{played: played}
	p.upstream = httptest.NewServer(http.HandlerFunc(p.play))
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p.url = "http://" + net.JoinHostPort("127.0.0.1", port)
	p.process, err = l.Start(process.Options{
		Name: "prism", Exe: filepath.Join(packages, "node_modules", ".bin", "prism"),
		Args: []string{"proxy", document, p.upstream.URL, "--port", port, "--host", "127.0.0.1", "--cors=false", "--verboseLevel", "fatal"},
		Env:  process.Env(packages, nil),
	})
	if err != nil {
		p.upstream.Close()
		return nil, err
	}
	p.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8, MaxResponseHeaderBytes: 1 << 20},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       time.Minute,
	}
	starting, stop := context.WithTimeout(ctx, startWithin)
	defer stop()
	err = watch.Until(starting, "prism", func() error {
		if p.process.Ended() {
			return watch.Never(fmt.Errorf("prism ended:\n%s", p.process.Tail(20)))
		}
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// freePort is one that was free just now: prism cannot tell which it has chosen itself.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a port for prism: %w", err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}

// Close ends Prism.
func (p *Prism) Close() {
	p.process.Kill()
	p.client.CloseIdleConnections()
	p.upstream.Close()
}

// play answers as the daemon did.
func (p *Prism) play(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.Header.Get(exchangeHeader))
	if err != nil || n < 0 || n >= len(p.played) {
		http.Error(w, "no such exchange", http.StatusTeapot)
		return
	}
	e := p.played[n]
	for name, values := range e.Header {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Connection":
		default:
			w.Header()[name] = values
		}
	}
	w.WriteHeader(e.Status)
	if e.Method != http.MethodHead {
		_, _ = w.Write(e.Body) // prism says when it did not come
	}
}

// violation is what Prism says of an exchange.
type violation struct {
	Location []any  `json:"location"`
	Message  string `json:"message"`
}

func (v violation) String() string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(v.Location), "[]"), " ", ".") + " " + v.Message
}

// Send repeats an exchange, and returns what does not fit the document: of the answer, and of a request that the daemon served. A request that it
// refused goes without its body, which may be no JSON.
func (p *Prism) Send(ctx context.Context, n int) (answer, request []violation, err error) {
	e := p.played[n]
	var body []byte
	if e.Status < http.StatusBadRequest && e.Asked.Get("Content-Encoding") == "" {
		body = e.Request
	}
	r, err := http.NewRequestWithContext(ctx, e.Method, p.url+plain(e.Target), bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("make a request: %w", err)
	}
	r.Header = e.Asked.Clone()
	if body == nil {
		r.Header.Del("Content-Type")
	}
	r.Header.Del("Content-Encoding")
	r.Header.Set(exchangeHeader, strconv.Itoa(n))
	res, err := p.client.Do(r)
	if err != nil {
		return nil, nil, fmt.Errorf("send a request: %w", err)
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	if res.StatusCode != e.Status { // it could make nothing of the answer
		return []violation{{Location: []any{"response"}, Message: fmt.Sprintf("prism answers %d itself: %.300s", res.StatusCode, said)}}, nil, nil
	}
	found := res.Header.Get("sl-violations")
	if found == "" {
		return nil, nil, nil
	}
	var all []violation
	if err := json.Unmarshal([]byte(found), &all); err != nil {
		all = []violation{{Location: []any{"response"}, Message: found}} // it is cut where it is long
	}
	for _, v := range all {
		if len(v.Location) > 0 && v.Location[0] == "request" {
			request = append(request, v)
		} else {
			answer = append(answer, v)
		}
	}
	return answer, request, nil
}
