// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// lines reads what is typed, with editing and a history at a terminal (ADR 038).
type lines struct {
	a       *app
	plain   *bufio.Scanner // where there is no terminal
	tty     *os.File
	edit    *term.Terminal
	signals <-chan os.Signal
}

// chatPrompt is shown before each line.
const chatPrompt = ">>> "

func newLines(a *app, signals <-chan os.Signal) *lines {
	l := &lines{a: a, signals: signals}
	in, isFile := a.stdin.(*os.File)
	if !isFile || !term.IsTerminal(int(in.Fd())) || !terminal(a.out) || a.env("TERM") == "dumb" {
		l.plain = bufio.NewScanner(a.stdin)
		l.plain.Buffer(nil, maxPrompt)
		return l
	}
	l.tty = in
	l.edit = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{kept{in}, a.out}, chatPrompt)
	return l
}

func (l *lines) interactive() bool { return l.edit != nil }

// next reads a line. One that ends with a backslash, or was pasted, goes on with the next. io.EOF: there is no more.
//
// The terminal is in raw mode only while a line is read. While an answer comes, Ctrl-C is a signal.
func (l *lines) next() (string, error) {
	if l.plain != nil {
		defer l.watch(func() {})()
		var text strings.Builder
		for l.plain.Scan() {
			part, more := strings.CutSuffix(l.plain.Text(), "\\")
			text.WriteString(part)
			if !more {
				return text.String(), nil
			}
			text.WriteByte('\n')
		}
		if err := l.plain.Err(); err != nil {
			return "", err
		}
		return text.String(), io.EOF
	}
	before, err := term.MakeRaw(int(l.tty.Fd()))
	if err != nil {
		return "", fmt.Errorf("preparing the terminal: %w", err)
	}
	restore := func() { _ = term.Restore(int(l.tty.Fd()), before) }
	defer restore()
	defer l.watch(restore)()
	if width, height, err := term.GetSize(int(l.tty.Fd())); err == nil {
		_ = l.edit.SetSize(width, height)
	}
	l.edit.SetBracketedPasteMode(true)
	defer l.edit.SetBracketedPasteMode(false)
	var text strings.Builder
	for {
		line, err := l.edit.ReadLine()
		pasted := errors.Is(err, term.ErrPasteIndicator)
		if err != nil && !pasted {
			return "", err
		}
		part, more := strings.CutSuffix(line, "\\")
		text.WriteString(part)
		if !more && !pasted {
			return text.String(), nil
		}
		text.WriteByte('\n')
	}
}

// watch ends the process by a signal that comes while a line is awaited, since the read itself cannot be ended. It returns what ends the watch.
func (l *lines) watch(restore func()) (enough func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-l.signals:
			restore()
			os.Exit(exitInterrupted)
		case <-over:
		}
	}()
	return func() {
		close(over)
		<-done
	}
}

// kept makes a Ctrl-C at the prompt empty the line, where it would end the input otherwise.
type kept struct{ io.Reader }

const (
	ctrlC = 3
	ctrlU = 21 // empties the line
)

func (k kept) Read(p []byte) (int, error) {
	n, err := k.Reader.Read(p)
	for i, b := range p[:n] {
		if b == ctrlC {
			p[i] = ctrlU
		}
	}
	return n, err
}
