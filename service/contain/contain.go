// SPDX-License-Identifier: GPL-3.0-or-later

// Package contain keeps a panic in one goroutine from ending the process (LO-803). A goroutine runs what it runs in Do or in Loop, or it
// defers, before anything else, a call that recovers. A test in service/ finds those that do not.
package contain

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/task"
)

// maxText bounds what is told of a panic's value, in bytes.
const maxText = 500

// The waits of Loop before it begins anew: the first one, which doubles, and the longest. After a run of longRun, they begin with the first.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = 10 * time.Second
	longRun     = time.Minute
)

// PanicError is a panic on its way from the goroutine in which it happened to whoever waits for that.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine in which it happened
}

// Error says what the panic said.
func (e *PanicError) Error() string { return "panic: " + text(e.Value) }

func text(value any) string { return task.Clip(fmt.Sprint(value), maxText) }

// Caught makes an error of what recover has returned, and nil of nil. The deferred function that recovers calls it.
func Caught(p any) *PanicError {
	if p == nil {
		return nil
	}
	if err, ok := p.(error); ok {
		if passed, ok := errors.AsType[*PanicError](err); ok { // it was caught before, and passed on
			return passed
		}
	}
	return &PanicError{Value: p, Stack: debug.Stack()}
}

// Log writes the one line about a panic: what it said, and where it was. The deferred function that recovers calls it.
func Log(log *zap.Logger, msg string, p any, fields ...zap.Field) {
	log.Error(msg, append(slices.Clip(fields), Fields(p)...)...)
}

// Fields are what a line of the log says of a panic. The deferred function that recovers calls it.
func Fields(p any) []zap.Field {
	caught := Caught(p)
	return []zap.Field{zap.String("panic", text(caught.Value)), zap.ByteString("stack", caught.Stack)}
}

// Try runs f and returns what it returns. A panic in it becomes a *PanicError, which is logged by nobody yet.
func Try[T any](f func() (T, error)) (value T, err error) {
	defer func() {
		if caught := Caught(recover()); caught != nil {
			err = caught
		}
	}()
	return f()
}

// Do runs f. It logs a panic in it as msg, and returns that as an error: INTERNAL, with the *PanicError as its cause.
func Do(log *zap.Logger, msg string, f func(), fields ...zap.Field) (err error) {
	defer func() {
		if caught := Caught(recover()); caught != nil {
			Log(log, msg, caught, fields...)
			err = task.Errorf(task.Internal, "something went wrong inside the orchestrator; its log has the cause").Because(caught)
		}
	}()
	f()
	return nil
}

// Each runs what it is given, one after the other. It logs a panic as msg, and goes on with the next.
func Each(log *zap.Logger, msg string, all []func(), fields ...zap.Field) {
	for _, f := range all {
		_ = Do(log, msg, f, fields...) // it was logged
	}
}

// Loop runs f until it returns. It logs a panic in it as msg, and runs it anew after a while, as long as ctx has not ended.
func Loop(ctx context.Context, log *zap.Logger, msg string, f func(ctx context.Context), fields ...zap.Field) {
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		began := time.Now()
		if Do(log, msg, func() { f(ctx) }, fields...) == nil {
			return
		}
		if time.Since(began) >= longRun {
			wait = firstWait
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}
