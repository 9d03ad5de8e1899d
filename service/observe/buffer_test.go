// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// slow is an output that takes nothing until it is let go.
type slow struct {
	open chan struct{} // closed: it takes everything

	mu    sync.Mutex
	fails int // so many writes fail

	panics bool // else they return an error
	text   bytes.Buffer
}

func (s *slow) Write(p []byte) (int, error) {
	<-s.open
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails > 0 {
		s.fails--
		if s.panics {
			panic("no room")
		}
		return 0, errors.New("no room")
	}
	return s.text.Write(p)
}

func (s *slow) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Nobody waits for an output that takes nothing. Narrated lines are dropped before others, audit lines never, and the log says how many
// are missing.
// LO-810
func TestABufferDropsWhatMattersLeast(t *testing.T) {
	out := &slow{open: make(chan struct{})}
	b := newBuffer(out, 64<<10)
	log, err := NewLogger(Options{Out: b})
	require.NoError(t, err)
	filler, audits := strings.Repeat("x", 1000), 200
	for i := range 200 {
		log.Info("told", zap.Int("n", i), zap.String("human", filler))
		log.Info("other", zap.Int("n", i), zap.String("filler", filler))
	}
	for i := range audits {
		log.Info("decided", zap.Int("n", i), zap.String("filler", filler), Audit())
		log.With(Audit()).Info("decided too", zap.Int("n", i))
	}
	require.Error(t, b.Sync(), "it waits a moment, and no longer")
	close(out.open)
	require.NoError(t, b.Sync())
	narrated, plain := strings.Count(out.String(), `"told"`), strings.Count(out.String(), `"other"`)
	require.Positive(t, narrated)
	require.Greater(t, plain, narrated)
	require.Less(t, plain, 100)
	require.Equal(t, audits, strings.Count(out.String(), `"decided"`))
	require.Equal(t, audits, strings.Count(out.String(), `"decided too"`))
	log.Info("after") // makes sure that the line about the gap is there
	require.NoError(t, b.Close())
	var said [2]int // by all lines about gaps: how many there are depends on when the first write began
	for _, gap := range regexp.MustCompile(`"plain":(\d+),"narrated":(\d+)}`).FindAllStringSubmatch(out.String(), -1) {
		for i := range said {
			n, err := strconv.Atoi(gap[1+i])
			require.NoError(t, err)
			said[i] += n
		}
	}
	require.Equal(t, [2]int{200 - plain, 200 - narrated}, said)
	require.EqualValues(t, 400-plain-narrated, testutil.ToFloat64(b.dropped.WithLabelValues("plain"))+testutil.ToFloat64(b.dropped.WithLabelValues("narrated")))
	require.Contains(t, out.String(), `"after"`)
}

// What an output refuses is dropped and counted. Audit lines wait until it takes them.
// LO-811, LO-803: the same holds for an output that panics.
func TestABufferOutlivesAnOutputThatFails(t *testing.T) {
	for _, panics := range []bool{false, true} {
		outlives(t, &slow{open: make(chan struct{}), fails: 1, panics: panics})
	}
}

func outlives(t *testing.T, out *slow) {
	b := newBuffer(out, 64<<10)
	b.put(audit, []byte("a\n"), nil)
	b.put(plain, []byte("p\n"), nil)
	b.put(audit, []byte("b\n"), nil)
	close(out.open)
	require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "b\n") }, 4*auditRetry, auditRetry/50)
	require.Equal(t, 1, strings.Count(out.String(), "a\n"))
	_, err := b.Write([]byte("a table\n"))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = b.Write([]byte("too late\n"))
	require.NoError(t, err)
	require.Contains(t, out.String(), "a table\n")
	require.NotContains(t, out.String(), "too late")
}

// Audit lines that the output does not take are in a file, those of a write that does not end too. The log says so once it is read again.
//
// LO-622
func TestAuditLinesGoAside(t *testing.T) {
	out := &slow{open: make(chan struct{})}
	b := newBuffer(out, 64<<10)
	path := filepath.Join(t.TempDir(), "audit.log")
	b.Aside(path)
	log, err := NewLogger(Options{Out: b})
	require.NoError(t, err)
	log.Info("decided 1", Audit())
	log.Info("plain")
	told := func(n int) func() bool {
		return func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.aside.count == n
		}
	}
	require.Eventually(t, told(1), time.Minute, asideWithin/50)
	require.Equal(t, 1, linesOf(path))
	log.Info("decided 2", Audit())
	log.Info("decided 3", Audit())
	require.Eventually(t, told(3), time.Minute, asideWithin/50)
	require.Equal(t, 3, linesOf(path))
	close(out.open)
	require.NoError(t, b.Sync())
	log.Info("after")
	require.NoError(t, b.Close())
	require.Equal(t, 1, strings.Count(out.String(), "decided 1"), "the write that did not end had it")
	require.NotContains(t, out.String(), "decided 2")
	require.Contains(t, out.String(), `"plain"`)
	require.Regexp(t, `"audit lines are in a file of the data folder, since the log was not read or could not be written","file":"audit.log","lines":3}`, out.String())
}

// What waits at the end is kept, the file is bounded, and where it cannot be written the lines go on waiting.
//
// LO-622
func TestAuditLinesOfTheEndGoAside(t *testing.T) {
	out := &slow{open: make(chan struct{})}
	defer close(out.open)
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "audit.log")
	b := newBuffer(out, 64<<10)
	b.Aside(path)
	b.put(audit, []byte("A\n"), []byte("a\n"))
	b.put(audit, []byte("B\n"), []byte("b\n"))
	b.putAside()
	require.Zero(t, linesOf(path), "there is no folder yet")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("x\n"), asideBytes/2), 0o600))
	require.Error(t, b.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "a\nb\n", string(text))
	require.Equal(t, asideBytes/2, linesOf(path+".1"))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
}

func linesOf(path string) int {
	text, _ := os.ReadFile(path)
	return bytes.Count(text, []byte("\n"))
}
