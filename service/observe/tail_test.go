// SPDX-License-Identifier: GPL-3.0-or-later

package observe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/observe"
)

func tailed(t *testing.T, style observe.Style) (*zap.Logger, *observe.Tail) {
	t.Helper()
	tail := observe.NewTail()
	log, err := observe.NewLogger(observe.Options{Out: io.Discard, Tail: tail, Style: style, Redactor: observe.NewRedactor("s3cret")})
	require.NoError(t, err)
	return log, tail
}

func message(t *testing.T, l observe.Line) map[string]any {
	t.Helper()
	text, err := l.JSON()
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(text, &got))
	return got
}

// A reader gets the same lines of JSON, whether the log itself is JSON or for a person.
//
// LO-623
func TestATailHasTheLinesAsJSON(t *testing.T) {
	for _, style := range []observe.Style{{}, {Console: true, Colour: true}} {
		log, tail := tailed(t, style)
		log.With(zap.String("pool_id", "p")).Named("pool").Warn("told s3cret", zap.Int("n", 3), zap.Strings("cards", []string{"a"}))
		observe.NewNarrator(log).StreamEnded(observe.Job{ID: "t", Actor: "self-test"}, "")
		log.Debug("below the level")
		r := tail.Read(10)
		first, ok := r.Past()
		require.True(t, ok)
		require.Equal(t, zap.WarnLevel, first.Level)
		got := message(t, first)
		delete(got, "ts")
		require.Equal(t, map[string]any{"level": "warn", "logger": "pool", "msg": "told [redacted]", "pool_id": "p", "n": 3.0, "cards": []any{"a"}}, got)
		second, ok := r.Past()
		require.True(t, ok)
		require.Equal(t, "t", message(t, second)["job_id"])
		_, ok = r.Past()
		require.False(t, ok)
		log.Info("later")
		_, ok = r.Past()
		require.False(t, ok, "it was not there when the reader began")
		third, err := r.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, "later", message(t, third)["msg"])
	}
}

// Nobody waits for a reader: one that is too slow loses the oldest lines, by their number and by their bytes, and is told how many.
//
// LO-623
func TestASlowReaderLosesLines(t *testing.T) {
	for _, style := range []observe.Style{{}, {Console: true}} {
		log, tail := tailed(t, style)
		r := tail.Read(0)
		for i := range 1500 {
			log.Info(fmt.Sprint(i))
		}
		got, err := r.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1500-1024, got.Lost)
		require.Equal(t, "476", message(t, got)["msg"])
		got, err = r.Next(t.Context())
		require.NoError(t, err)
		require.Zero(t, got.Lost)
		long := strings.Repeat("x", 100<<10)
		for _, write := range []func(){
			func() { log.Info(long) },
			func() { log.Info("m", zap.String("s", long)) },
			func() { log.With(zap.String("s", long)).Info("m") },
			func() { log.Info("m", zap.Strings("s", []string{long})) },
		} {
			for range 20 {
				write()
			}
			kept := 0
			for one := tail.Read(2000); ; kept++ {
				if _, ok := one.Past(); !ok {
					break
				}
			}
			require.Equal(t, 10, kept, "a megabyte")
		}
	}
}

// What other programs say is in the log alone.
//
// LO-623
func TestATailHasNoWordsOfOthers(t *testing.T) {
	for _, style := range []observe.Style{{}, {Console: true}} {
		var out bytes.Buffer
		tail := observe.NewTail()
		log, err := observe.NewLogger(observe.Options{Out: &out, Tail: tail, Style: style})
		require.NoError(t, err)
		log.Info("worker output", zap.String("line", "a prompt"), observe.Verbatim())
		require.Contains(t, out.String(), "a prompt")
		require.NotContains(t, out.String(), "verbatim")
		_, ok := tail.Read(10).Past()
		require.False(t, ok)
	}
}

// LO-623
func TestAReaderWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, tail := tailed(t, observe.Style{Console: true})
		ctx, stop := context.WithCancel(t.Context())
		got := make(chan string)
		for range 2 {
			go func() {
				r := tail.Read(0)
				for {
					l, err := r.Next(ctx)
					if err != nil {
						got <- err.Error()
						return
					}
					text, _ := l.JSON()
					got <- string(text)
				}
			}()
		}
		synctest.Wait()
		log.Info("one")
		require.Contains(t, <-got, `"msg":"one"`)
		require.Contains(t, <-got, `"msg":"one"`)
		synctest.Wait()
		stop()
		require.Equal(t, context.Canceled.Error(), <-got)
		require.Equal(t, context.Canceled.Error(), <-got)
		r := tail.Read(1)
		tail.Close()
		_, err := r.Next(t.Context())
		require.NoError(t, err, "what is there is read")
		_, err = r.Next(t.Context())
		require.ErrorIs(t, err, io.EOF)
	})
}
