// SPDX-License-Identifier: GPL-3.0-or-later

// Package sdk is a thin typed client of the llama-orch API: plain types, transport, event streams that resume, and typed errors. Its types are made
// from the contract; gen holds requests and answers to it. It holds no prompts and no policy.
//
// A task is submitted, then its stream is read:
//
//	client, err := sdk.New(sdk.Options{Addr: "http://127.0.0.1:8080"})
//	...
//	admission, err := client.Submit(ctx, &sdk.TaskRequest{ModelRef: "haiku", Prompt: "..."})
//	...
//	for event, err := range client.Stream(ctx, admission.TaskID, "") {
//		if err != nil {
//			return err // the stream could not be read
//		}
//		switch e := event.(type) {
//		case sdk.Token:
//			fmt.Print(e.Text)
//		case sdk.ErrorEvent:
//			return e.Err // the task ended without an answer
//		}
//	}
//
// [Client.Run] does both. A field is left out of a request where it has its zero value; where that value means something, it is a pointer, such as
// Temperature: new(0.2).
//
// Errors of every method are one of
//   - [*RequestError]: the request breaks the contract, and nothing was sent;
//   - [*Error]: the server answered with its error envelope;
//   - [*UnreachableError]: no answer, or the connection broke and could not be made again;
//   - [*ProtocolError]: an answer that does not belong to this API, such as a proxy's page;
//   - [*VerifyError]: the stream's bytes are not what its ids or its receipt say;
//   - the context's error.
//
// The API's durations are whole milliseconds, in fields named *MS. [Error.RetryAfter] is a time.Duration.
package sdk

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/llama-orch/llama-orch/gen"
)

// The defaults of Options.
const (
	defaultReconnects     = 8
	defaultReconnectDelay = 250 * time.Millisecond
	defaultIdleTimeout    = time.Minute
	defaultMaxEventBytes  = 64 << 20
)

// headerTimeout bounds the wait for an answer's first bytes. No operation takes that long before it answers, except for those that load models, and a
// submit in a burst of them; these wait as long as their context allows.
const headerTimeout = time.Minute

// Options of a Client. Only Addr is required.
type Options struct {
	Addr string // base URL, http or https, without credentials, such as http://127.0.0.1:8080
	// Others are further servers that share the record of tasks with the one at Addr, so that each of them answers for any task. The client goes on with the next
	// one when it gets no connection to the one that it talks to.
	Others []string
	Token  string // bearer token; empty sends none

	// CAFile is a PEM file with the certificates that sign the server's, beside those of the system. It is not used with an HTTPClient.
	CAFile string

	// HTTPClient carries the requests. It needs a Timeout of 0, since streams last. Default: a client of its own.
	HTTPClient *http.Client
	// Reconnects bounds the attempts to get a broken stream back, counted from the last numbered event. Negative: none. Default 8.
	Reconnects int
	// ReconnectDelay is the mean wait before the first reconnect. It doubles each time, up to 30 times its value, with jitter. If the server
	// asks for a longer wait with Retry-After, the client waits for up to a minute; if the server asks for more, its error is returned.
	// Default 250 ms.
	ReconnectDelay time.Duration
	// OnReconnect, if set, is called before the wait for a reconnect, from the goroutine that reads the stream.
	OnReconnect func(cause error, wait time.Duration)
	// IdleTimeout is how long a stream may be silent before its connection counts as broken. Keep-alive comments break the silence. Negative:
	// for ever. Default a minute.
	IdleTimeout time.Duration
	// MaxEventBytes bounds one event of a stream, and the body of any other answer. Default 64 MiB.
	MaxEventBytes int
}

// Client talks to one server. Its methods may be called from several goroutines.
type Client struct {
	opts    Options
	bases   []string     // the addresses without a slash at their ends
	now     atomic.Int64 // which of them the client talks to
	patient *http.Client // for operations that may wait before they answer
	// sleep waits between reconnects; tests replace it.
	sleep func(context.Context, time.Duration) error
}

// New makes a client. It sends nothing. An error says what is wrong with the options.
func New(opts Options) (*Client, error) {
	var bases []string
	for _, addr := range append([]string{opts.Addr}, opts.Others...) {
		if err := checkAddr(addr); err != nil {
			return nil, err
		}
		bases = append(bases, strings.TrimRight(addr, "/"))
	}
	if strings.ContainsFunc(opts.Token, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) || r == ' ' }) {
		return nil, errors.New("the token has characters that a header cannot carry: check it for line feeds and spaces")
	}
	patient := opts.HTTPClient
	if opts.HTTPClient == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.ResponseHeaderTimeout = headerTimeout
		transport.DisableCompression = true // compression would hold tokens back
		if opts.CAFile != "" {
			roots, err := readRoots(opts.CAFile)
			if err != nil {
				return nil, err
			}
			transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		}
		opts.HTTPClient = &http.Client{Transport: transport}
		transport = transport.Clone()
		transport.ResponseHeaderTimeout = 0
		patient = &http.Client{Transport: transport}
	}
	if opts.Reconnects == 0 {
		opts.Reconnects = defaultReconnects
	}
	if opts.ReconnectDelay <= 0 {
		opts.ReconnectDelay = defaultReconnectDelay
	}
	if opts.IdleTimeout == 0 {
		opts.IdleTimeout = defaultIdleTimeout
	}
	if opts.MaxEventBytes <= 0 {
		opts.MaxEventBytes = defaultMaxEventBytes
	}
	return &Client{opts: opts, bases: bases, patient: patient, sleep: sleep}, nil
}

// checkAddr says what is wrong with the address of a server.
func checkAddr(addr string) error {
	base, err := url.Parse(addr)
	switch {
	case err != nil:
		return errors.New("the server's address is not a URL: give one such as http://127.0.0.1:8080")
	case base.User != nil:
		return errors.New("the server's address must not hold credentials: the token goes into Options.Token")
	case base.RawQuery != "" || base.Fragment != "":
		return fmt.Errorf("the server's address %q must end with its path: leave out what begins with ? or #", addr)
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return fmt.Errorf("the server's address %q needs a scheme and a host, such as http://127.0.0.1:8080", addr)
	}
	return nil
}

// readRoots are the certificates that the system trusts, and those of a file.
func readRoots(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the file with the server's certificates cannot be read: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil { // the system has none
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM's form: give the certificate of the server, or of who signed it", file)
	}
	return roots, nil
}

// Close closes idle connections. Streams in progress end with their context.
func (c *Client) Close() {
	c.opts.HTTPClient.CloseIdleConnections()
	c.patient.CloseIdleConnections()
}

// Submit submits a task and returns its admission: place in line, prediction, the seed. With a TaskID it may be repeated: the same body gets the
// same admission (LO-101), another body gets the Error CONFLICT.
func (c *Client) Submit(ctx context.Context, request *TaskRequest) (*Admission, error) {
	if request.SessionID != "" {
		if err := holdSession("session_id", request.SessionID); err != nil {
			return nil, err
		}
	}
	body, err := bodyOf[gen.TaskRequest](request)
	if err != nil {
		return nil, err
	}
	return ask[Admission, gen.Admission](ctx, c, post(body, "v1", "tasks").waits())
}

// Get returns one task.
func (c *Client) Get(ctx context.Context, id string) (*TaskStatus, error) {
	if err := hold[gen.TaskID]("id", id); err != nil {
		return nil, err
	}
	return ask[TaskStatus, gen.TaskStatus](ctx, c, get("v1", "tasks", id))
}

// List returns recent tasks, newest first: those in the given state, or all if it is empty. It returns at most limit tasks; if limit is 0, the
// server chooses.
func (c *Client) List(ctx context.Context, state TaskState, limit int) ([]TaskStatus, error) {
	if err := cmp.Or(holdSome[gen.TaskState]("state", string(state)), holdLimit(limit)); err != nil {
		return nil, err
	}
	list, err := ask[TaskList, gen.TaskList](ctx, c, get("v1", "tasks").with("state", string(state)).with("limit", number(limit)))
	if err != nil {
		return nil, err
	}
	return list.Tasks, nil
}

// Cancel cancels a task. When it returns, the task's log is sealed at LastEventID and its outcome is final (ORCH-3026). If the task had ended
// before, it returns the recorded outcome.
func (c *Client) Cancel(ctx context.Context, id string) (*CancelResult, error) {
	if err := hold[gen.TaskID]("id", id); err != nil {
		return nil, err
	}
	return ask[CancelResult, gen.CancelResult](ctx, c, post(nil, "v1", "tasks", id, "cancel"))
}

// Delete deletes a task that has ended: its prompt, its answer, their digests and its proof bundle (LO-832). It may be repeated. The Error is
// CONFLICT while the task has not ended. Afterwards whoever asks for the task gets the Error DELETED.
func (c *Client) Delete(ctx context.Context, id string) error {
	if err := hold[gen.TaskID]("id", id); err != nil {
		return err
	}
	return c.tell(ctx, remove("v1", "tasks", id))
}

// number is a number of the query, or nothing for 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
