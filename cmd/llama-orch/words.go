// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/llama-orch/llama-orch/internal/nearest"
	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/guard"
)

const usageHint = "`llama-orch --help` and `llama-orch COMMAND --help` show what each command takes"

// nearer adds to an argument that a command does not take the name that may have been meant. The parser does so itself, but not behind a command that
// stands for another one.
func nearer(err error) error {
	e, ok := errors.AsType[*kong.ParseError](err)
	word, unexpected := strings.CutPrefix(err.Error(), "unexpected argument ")
	if !ok || !unexpected || strings.Contains(word, ", ") || e.Context == nil {
		return err
	}
	var known []string
	for node := e.Context.Selected(); node != nil; node = node.Parent {
		for _, child := range node.Children {
			known = append(known, child.Name)
		}
	}
	if name := nearest.Name(word, known); name != "" {
		return fmt.Errorf("%w, did you mean %q?", err, name)
	}
	return err
}

// explain puts an error in words for a person at a command line.
func (a *app) explain(err error) (message, label, hint string, after time.Duration) {
	if a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return "interrupted", "", "", 0
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return err.Error(), "", usageHint, 0
	}
	if e, ok := errors.AsType[*sdk.Error](err); ok {
		message, hint = a.inWords(e.Message), a.inWords(e.Hint)
		if e.Code == sdk.ErrorCodeMissingToken {
			hint = "export " + tokenEnv + "=TOKEN: the server's"
		}
		if e.Code == sdk.ErrorCodeBadToken {
			hint = "compare " + tokenEnv + " here with the server's"
		}
		if hint == "" && e.Code != "" && !strings.Contains(message, "`") { // else it names what to run already
			hint = "`llama-orch errors " + string(e.Code) + "` says more"
		}
		return message, string(e.Code), hint, e.RetryAfter
	}
	if e, ok := errors.AsType[*sdk.RequestError](err); ok {
		return a.inWords(fmt.Sprintf("`%s`: %s", e.Field, e.Why)), "", usageHint, 0
	}
	if _, ok := errors.AsType[*sdk.UnreachableError](err); ok {
		return err.Error(), "", unreachableHint(a.addr, err), 0
	}
	if _, ok := errors.AsType[*sdk.ProtocolError](err); ok {
		hint = "is this the address of a llama-orch server of this version? `llama-orch version` shows the client's"
		if host, plain := strings.CutPrefix(a.addr, "http://"); plain {
			hint += ". If it is one behind TLS, its address is https://" + host
		}
		return err.Error(), "", hint, 0
	}
	if e, ok := errors.AsType[*guard.Error](err); ok && budgetFlags[e.Rule] != "" {
		return err.Error(), "BUDGET_" + strings.ToUpper(string(e.Rule)), "the budget is " + budgetFlags[e.Rule], 0
	}
	return err.Error(), "", "", 0
}

// budgetFlags are the flags of the budgets that an applet or a blueprint runs in.
var budgetFlags = map[guard.Rule]string{guard.Calls: "--max-calls", guard.Tokens: "--max-tokens", guard.Time: "--max-time", guard.Joules: "--max-joules"}

// unreachableHint says what to do where no answer came. It does not ask whether the server runs where something else is the matter.
func unreachableHint(addr string, err error) string {
	const elsewhere = "--addr or " + addrEnv + " give another address"
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the certificate is for another name: give --addr or " + addrEnv + " a name that is in it"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "the server's certificate has expired, or is not valid yet, or the clock of this machine is wrong: put a new one where `tls.cert` of the server names it, which takes it within seconds"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "something answers there, and its certificate is not trusted on this machine: SSL_CERT_FILE names a file with the authority's certificate"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "the name is not known: check its spelling; " + elsewhere
	}
	host := strings.TrimPrefix(addr, "https://")
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case notTLS, errors.Is(err, http.ErrSchemeMismatch):
		return "the server there speaks plain HTTP: its address is http://" + host
	case os.IsTimeout(err), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the machine does not answer: is it on, and does a firewall let this port through? " + elsewhere
	}
	return "is the server running (`orchestratord serve --config FILE`)? " + elsewhere
}

// word is something of the API that stands in the server's messages, and what the CLI calls it.
type word struct {
	api *regexp.Regexp
	cli string
}

func words(pairs ...string) (all []word) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, word{regexp.MustCompile(pairs[i]), pairs[i+1]})
	}
	return all
}

// calls are the API's operations, the longer paths first. An id ends where a path or a sentence does.
var calls = words(
	`(?:GET )?/v1/pools/([\w.-]*[\w-])/health`, "`llama-orch pool health $1`",
	`POST /v1/pools/([\w.-]*[\w-])/(drain|reload|resume|load|unload)`, "`llama-orch pool $2 $1`",
	`(?:GET )?/v1/pools\b`, "`llama-orch pools`",
	`POST /v1/catalog/models/([\w.-]*[\w-])/verify`, "`llama-orch models verify $1`",
	`POST /v1/catalog/models/([\w.-]*[\w-])/state`, "`llama-orch models retire $1` (or `activate`)",
	`DELETE /v1/catalog/models/([\w.-]*[\w-])`, "`llama-orch models delete $1`",
	`(?:GET )?/v1/catalog/models/([\w.-]*[\w-])`, "`llama-orch models show $1`",
	`POST /v1/catalog/models\b`, "`llama-orch models add`",
	`GET /v1/catalog/models\b`, "`llama-orch models`",
	`GET /v1/catalog/engines\b`, "`llama-orch engines`",
	`DELETE /v1/sessions/([\w-]+)`, "`llama-orch session delete $1`",
	`GET /v1/sessions/([\w-]+)`, "`llama-orch session show $1`",
	`POST /v1/sessions\b`, "`llama-orch session create`",
	`DELETE /v1/tasks/([\w.-]*[\w-])`, "`llama-orch rm $1`",
	`POST /v1/tasks/([\w.-]*[\w-])/cancel`, "`llama-orch cancel $1`",
	`(?:GET )?/v1/tasks/([\w.-]*[\w-])/stream`, "`llama-orch stream $1`",
	`GET /v1/tasks/([\w.-]*[\w-])`, "`llama-orch task $1`",
	`GET /v1/tasks\b`, "`llama-orch tasks`",
	`GET /v1/artifacts/([\w-]+)`, "`llama-orch artifact get $1`",
	`GET /v1/artifacts\b`, "`llama-orch artifacts`",
	`GET /v1/capabilities\b`, "`llama-orch capabilities`",
	`(?:GET )?/v1/gpus\b`, "`llama-orch gpus`",
	`POST /v1/placement/explain\b`, "`llama-orch explain`",
	`POST /v1/config/reload\b`, "`llama-orch config reload`",
	`GET /readyz\b`, "`llama-orch doctor`",
	"path parameter `id`", "the id",
	"query parameter `(\\w+)`", "`$1`",
	"`params\\.(\\w+)(?:\\[\\d+\\])?`", "`$1`",
	"`placement\\.pool_id`", "`pool`",
	"`new_model_ref`", "the new model's ref",
)

// flags are the API's fields, by the CLI's flags that fill them in. They count only where the command that ran has the flag: elsewhere the
// same word may be a setting of the server.
var flags = map[string]string{
	"model_ref": "model", "max_tokens": "max-tokens", "task_id": "task-id", "session_id": "session", "on_disconnect": "on-disconnect",
	"determinism": "determinism", "seed": "seed", "priority": "priority", "temperature": "temperature", "stop": "stop", "pool": "pool",
	"deadline_ms": "deadline", "limit": "limit", "after": "after", "state": "state", "ctx": "ctx", "workload": "workload", "digest": "digest",
	"signature": "signature", "sbom": "sbom", "kind": "kind", "tag": "tag", "id": "id",
}

// field matches the name of a field in a message. A name of several words needs no marks around it to be one.
var field = regexp.MustCompile("`([a-z_]+)`|\\b([a-z]+_[a-z_]+)\\b")

// inWords puts what the server says into the words of the command that ran: the commands and flags of this program instead of paths and fields
// of the API.
func (a *app) inWords(said string) string {
	for _, w := range calls {
		said = w.api.ReplaceAllString(said, w.cli)
	}
	said = strings.ReplaceAll(said, "``", "`") // a path that stood in marks already
	return field.ReplaceAllStringFunc(said, func(name string) string {
		if flag, ok := flags[strings.Trim(name, "`")]; ok && a.has(flag) {
			return "--" + flag
		}
		return name
	})
}

// has reports whether the command that ran has a flag.
func (a *app) has(flag string) bool {
	if a.command == nil {
		return false
	}
	for _, f := range a.command.Flags() {
		if f.Name == flag {
			return true
		}
	}
	return false
}
