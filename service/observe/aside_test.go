// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// steps is an output each of whose writes waits for its result.
type steps struct {
	begun   chan string
	results chan error
}

func newSteps() *steps { return &steps{make(chan string), make(chan error)} }

func (s *steps) Write(p []byte) (int, error) {
	s.begun <- string(p)
	if err := <-s.results; err != nil {
		return 0, err
	}
	return len(p), nil
}

// takes lets one write begin and end, and returns its text.
func (s *steps) takes(result error) string {
	text := <-s.begun
	s.results <- result
	return text
}

// slowFile is a file for audit lines that is opened no sooner than read says so, and that cannot be synced.
func slowFile(t *testing.T) (path string, read func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.log")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	return path, func() {
		f, err := os.Open(path)
		require.NoError(t, err)
		_, err = io.ReadAll(f)
		require.NoError(t, errors.Join(err, f.Close()))
	}
}

func (b *Buffer) eventually(t *testing.T, holds func() bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return holds()
	}, time.Minute, time.Millisecond)
}

// A line is in neither the output nor the file where both fail at the same time. It is written again.
//
// LO-622
func TestAnAuditLineOutlivesTwoFailures(t *testing.T) {
	out := newSteps()
	b := NewBuffer(out)
	path, read := slowFile(t)
	b.mu.Lock()
	b.aside.path = path // without the watch
	b.mu.Unlock()
	b.put(audit, []byte("line\n"), []byte("{}\n"))
	require.Equal(t, "line\n", <-out.begun)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.putAside()
	}()
	require.Eventually(t, func() bool { return !b.filing.TryLock() || unlock(b) }, time.Minute, time.Millisecond)
	out.results <- errors.New("no room")
	b.eventually(t, func() bool { return b.writing == nil })
	read()
	<-done
	require.Equal(t, "line\n", out.takes(nil))
	b.eventually(t, func() bool { return b.idle && b.aside.count == 0 })
	b.mu.Lock()
	b.over = true
	b.moved.Broadcast()
	b.mu.Unlock()
}

func unlock(b *Buffer) bool {
	b.filing.Unlock()
	return false
}

// While a line is on its way to the file, it is not written: nobody is told so, and Close waits for the file.
//
// LO-622
func TestCloseWaitsForTheFile(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	out := newSteps()
	b := NewBuffer(out)
	b.put(plain, []byte("plain\n"), nil)
	<-out.begun
	path, read := slowFile(t)
	b.Aside(path)
	b.put(audit, []byte("line\n"), []byte("{}\n"))
	require.Eventually(t, func() bool { return !b.filing.TryLock() || unlock(b) }, time.Minute, time.Millisecond)
	require.Error(t, b.Sync())
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	out.results <- nil
	require.Equal(t, "line\n", out.takes(nil), "the output takes it meanwhile")
	b.eventually(t, func() bool { return b.idle })
	select {
	case err := <-closed:
		require.Fail(t, "the file is being written", "%v", err)
	default:
	}
	read()
	require.NoError(t, <-closed)
}

// What the log says of missing lines is said again where that was not written, and to who reads the log over the API too.
//
// LO-622, LO-810
func TestANoteIsNotLost(t *testing.T) {
	out, tail := newSteps(), NewTail()
	b := NewBuffer(out)
	log, err := NewLogger(Options{Out: b, Tail: tail, Style: Style{Console: true}})
	require.NoError(t, err)
	b.mu.Lock()
	b.lost, b.aside.count, b.aside.path = [2]int{5, 2}, 3, "audit.log"
	b.mu.Unlock()
	log.Info("one")
	out.takes(errors.New("no room"))
	b.eventually(t, func() bool { return b.writing == nil })
	log.Info("two")
	require.NotContains(t, out.takes(nil), "audit.log", "it is dead until it takes something")
	log.Info("three")
	said := out.takes(nil)
	require.Contains(t, said, "plain=6  narrated=2", "the line that was lost meanwhile counts")
	require.Contains(t, said, "file=audit.log  lines=3")
	b.eventually(t, func() bool { return b.idle })
	counts := map[string]int{}
	for r := tail.Read(10); ; {
		line, more := r.Past()
		if !more {
			break
		}
		text, err := line.JSON()
		require.NoError(t, err)
		var got struct{ Msg string }
		require.NoError(t, json.Unmarshal(text, &got))
		counts[strings.Fields(got.Msg)[0]]++
	}
	require.Equal(t, map[string]int{"one": 1, "two": 1, "three": 1, "log": 1, "audit": 1}, counts)
	b.mu.Lock()
	b.over = true
	b.moved.Broadcast()
	b.mu.Unlock()
}

// The file has JSON, whatever the log is for.
//
// LO-622
func TestTheFileOfAuditLinesIsJSON(t *testing.T) {
	for _, style := range []Style{{}, {Priorities: true}, {Console: true, Colour: true}, {Console: true, Priorities: true}} {
		out := newSteps()
		b := NewBuffer(out)
		path := filepath.Join(t.TempDir(), "audit.log")
		b.Aside(path)
		log, err := NewLogger(Options{Out: b, Style: style, Redactor: NewRedactor("s3cret")})
		require.NoError(t, err)
		log.Info("decided", zap.String("actor", "self-test"), zap.String("action", "fetch"), zap.String("target", "https://x/s3cret"), Audit())
		require.Error(t, b.Close())
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var got map[string]any
		require.NoError(t, json.Unmarshal(text, &got), "%s", text)
		require.NotEmpty(t, got["ts"])
		delete(got, "ts")
		require.Equal(t, map[string]any{"level": "info", "msg": "decided", "actor": "self-test", "action": "fetch", "target": "https://x/[redacted]", "audit": true}, got)
		go out.takes(nil)
	}
}
