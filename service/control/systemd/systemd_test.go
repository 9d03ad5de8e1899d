// SPDX-License-Identifier: GPL-3.0-or-later

package systemd_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/llama-orch/llama-orch/service/control/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// heard is what systemd was told.
type heard struct {
	mu    sync.Mutex
	words []string
}

func (h *heard) tell(state string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.words = append(h.words, state)
	return nil
}

// take returns what was said since the last call.
func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	words := h.words
	h.words = nil
	return words
}

// LO-635: the watchdog is fed while every part answers, and only then.
func TestAPartThatHangsStarvesTheWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		core, lines := observer.New(zap.ErrorLevel)
		var hangs sync.Mutex // held: the part hangs
		s := systemd.New(systemd.Options{Tell: h.tell, Watchdog: time.Minute, Log: zap.New(core), Checks: []systemd.Check{
			{Name: "well", Ask: func(context.Context) error { return nil }},
			{Name: "queue", Ask: func(ctx context.Context) error {
				if hangs.TryLock() {
					hangs.Unlock()
					return nil
				}
				<-ctx.Done()
				return context.Cause(ctx)
			}},
		}})
		require.NoError(t, s.Start(t.Context()))
		synctest.Wait()
		require.Equal(t, []string{"READY=1", "WATCHDOG=1"}, h.take())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Len(t, h.take(), 40, "four times in each period")

		hangs.Lock()
		time.Sleep(time.Minute)
		require.LessOrEqual(t, len(h.take()), 1, "the one that was due")
		time.Sleep(time.Hour)
		require.Empty(t, h.take())
		require.Equal(t, 1, lines.Len(), "it is said once")
		require.Equal(t, "queue", lines.All()[0].ContextMap()["part"])

		hangs.Unlock()
		time.Sleep(time.Minute)
		require.NotEmpty(t, h.take(), "it answers again")
		require.NoError(t, s.Stop(t.Context()))
		require.Equal(t, "STOPPING=1", h.take()[0])
		time.Sleep(time.Hour)
		require.Empty(t, h.take())
	})
}

// LO-634: what systemd hears, in this order, and with the time that it wants.
func TestTheLifeOfAServiceAsSystemdHearsIt(t *testing.T) {
	at := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	require.NoError(t, err)
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", at)
	s := systemd.New(systemd.Options{Log: zap.NewNop()})
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Start(t.Context()), "again")
	s.Reload(func() {})
	require.NoError(t, s.Stop(t.Context()))
	var words []string
	for range 4 {
		b := make([]byte, 256)
		n, err := socket.Read(b)
		require.NoError(t, err)
		word, more, _ := strings.Cut(string(b[:n]), "\n")
		words = append(words, word)
		if word == "RELOADING=1" {
			require.Regexp(t, `^MONOTONIC_USEC=\d+\n$`, more)
		}
	}
	require.Equal(t, []string{"READY=1", "RELOADING=1", "READY=1", "STOPPING=1"}, words)
}

// LO-634: a daemon runs without systemd, and with one that does not listen.
func TestNobodyHasToListen(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	core, lines := observer.New(zap.WarnLevel)
	s := systemd.New(systemd.Options{Log: zap.New(core)})
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Stop(t.Context()))
	require.Zero(t, lines.Len())
	s = systemd.New(systemd.Options{Log: zap.New(core), Tell: func(string) error { return errors.New("gone") }})
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, s.Stop(t.Context()))
	require.Equal(t, 2, lines.Len())
}

// LO-635: how often systemd wants to hear something is in the environment, for this process alone.
func TestTheWatchdogOfTheEnvironment(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	require.Zero(t, systemd.Watchdog(zap.NewNop()))
	t.Setenv("WATCHDOG_USEC", "120000000")
	require.Equal(t, 2*time.Minute, systemd.Watchdog(zap.NewNop()))
	t.Setenv("WATCHDOG_PID", "1")
	require.Zero(t, systemd.Watchdog(zap.NewNop()))
	core, lines := observer.New(zap.WarnLevel)
	t.Setenv("WATCHDOG_USEC", "often")
	t.Setenv("WATCHDOG_PID", "")
	require.Zero(t, systemd.Watchdog(zap.New(core)))
	require.Equal(t, 1, lines.Len())
}
