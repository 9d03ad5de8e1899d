// SPDX-License-Identifier: GPL-3.0-or-later

package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A chat template is a program that came with a file. So it runs in a process of its own, which has bounds (render.go) and can be killed
// (LO-804). The process is started for the first template, and serves until it dies or the worker ends.
type templates struct {
	turn chan *renderer // capacity 1: who takes it renders; nil: no process runs
}

func newTemplates() *templates {
	t := &templates{turn: make(chan *renderer, 1)}
	t.turn <- nil
	return t
}

// maxTemplate bounds the source of a template. The longest of known models have 32 KiB.
const maxTemplate = 256 << 10

// chatml is what llama-server uses for a model without a template of its own.
const chatml = "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}{%- endfor -%}" +
	"{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"

// apply renders the model's template. Chat is the object of what it may use. A template that is broken, or that passes its bounds, is refused by its name.
func (t *templates) apply(ctx context.Context, m *model, chat json.RawMessage) (string, error) {
	name := "the chat template of " + filepath.Base(m.path)
	source := m.template
	if source == "" {
		source = chatml
	}
	if len(source) > maxTemplate {
		return "", invalid("%s has %d bytes, and may have %d: use another file of the model, or send a prompt", name, len(source), maxTemplate)
	}
	answer, err := t.render(ctx, rendering{Source: source, Chat: chat})
	var out *boundError
	switch {
	case errors.As(err, &out):
		return "", invalid("%s %s: use another file of the model, or send a prompt", name, out.what)
	case err != nil:
		return "", err
	case answer.Broken != "":
		return "", invalid("%s cannot be used: %s; use another file of the model, or send a prompt", name, answer.Broken)
	case answer.Refused != "":
		return "", invalid("%s refused the messages: %s", name, answer.Refused)
	}
	return answer.Prompt, nil
}

// render takes its turn at the process. The end of ctx ends the process, so that nothing goes on for a client that has gone.
func (t *templates) render(ctx context.Context, what rendering) (answer rendered, err error) {
	var r *renderer
	select {
	case r = <-t.turn:
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
	defer func() { t.turn <- r }()
	if r != nil && r.dead() { // nobody's template did that
		_ = r.end()
		r = nil
	}
	for range renders {
		if r == nil {
			if r, err = startRenderer(); err != nil {
				return answer, fmt.Errorf("start the process that renders chat templates: %w", err)
			}
		}
		if answer, err = r.ask(ctx, what); err == nil {
			return answer, nil
		}
		passed := r.end()
		r = nil
		switch {
		case ctx.Err() != nil:
			return answer, context.Cause(ctx)
		case passed != nil:
			return answer, passed
		}
	}
	return answer, fmt.Errorf("the process that renders chat templates was ended %d times: %w", renders, err)
}

// renders is how often a rendering is tried whose process somebody ended: not the template is to blame for that.
const renders = 2

// renderer is the process.
type renderer struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

func startRenderer() (*renderer, error) {
	r := &renderer{command: exec.Command("/proc/self/exe")} //nolint:noctx // it outlives the request; end kills it
	r.command.Args = os.Args
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "LLAMA_API_KEY=") {
			r.command.Env = append(r.command.Env, v)
		}
	}
	r.command.Env = append(r.command.Env, envRenders+"=1")
	in, err := r.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := r.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.in, r.out = in, bufio.NewReader(out)
	return r, r.command.Start()
}

func (r *renderer) ask(ctx context.Context, what rendering) (answer rendered, err error) {
	stop := context.AfterFunc(ctx, func() { _ = r.command.Process.Kill() }) // then the pipes end
	defer stop()
	if err := json.NewEncoder(r.in).Encode(what); err != nil {
		return answer, err
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(line, &answer)
}

// boundError says which bound a template has passed.
type boundError struct{ what string }

func (e *boundError) Error() string { return "the template " + e.what }

// end ends the process, and returns which bound ended it before, if one did.
func (r *renderer) end() error {
	_ = r.in.Close()
	_ = r.command.Process.Kill() // it has ended, or is of no use
	_ = r.command.Wait()
	status, _ := r.command.ProcessState.Sys().(syscall.WaitStatus)
	killed := status.Signaled() && (status.Signal() == syscall.SIGKILL || status.Signal() == syscall.SIGTERM)
	switch code := status.ExitStatus(); {
	case killed, code == ExitOK, code == ExitFailure: // somebody did that, or it did not get as far as the template
		return nil
	case code == exitTime:
		return &boundError{"takes more time than a template may"}
	}
	return &boundError{"needs more memory, or calls itself more often, than a template may"} // the runtime ended it
}

// dead reports whether the process has ended. It leaves the reaping to end.
func (r *renderer) dead() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, r.command.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || info.Signo != 0
}
