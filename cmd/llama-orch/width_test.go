// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/llama-orch/llama-orch/gen"
)

// onTerminal runs the program with a terminal of some columns as its stdout, and returns what the terminal got.
func onTerminal(t *testing.T, addr string, width uint16, args ...string) (shown string, stderr string, code int) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	defer screen.Close()
	fd := int(screen.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	line, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(line.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: width}))
	got := make(chan string)
	go func() { // ends when the line is closed
		text, _ := io.ReadAll(screen) // a terminal ends with EIO
		got <- string(text)
	}()
	var out bytes.Buffer
	code = run(t.Context(), args, func(key string) string { return map[string]string{addrEnv: addr, "HOME": t.TempDir()}[key] }, strings.NewReader(""), line, &out)
	require.NoError(t, line.Close())
	return strings.ReplaceAll(<-got, "\r\n", "\n"), out.String(), code
}

// LO-847
func TestTablesFitTheTerminal(t *testing.T) {
	t.Parallel()
	d := newCatalogDaemon()
	d.pools[0].LastError = gen.NewOptString(strings.Repeat("it is a long story. ", 8))
	addr := d.serve(t)
	for _, args := range []string{"tasks", "pools", "pools default", "models", "engines", "gpus", "explain -m haiku", "capabilities", "top --once", "doctor"} {
		for _, width := range []int{60, 80, 110} {
			shown, stderr, code := onTerminal(t, addr, uint16(width), strings.Fields(args)...)
			require.Zero(t, code, "%s: %s", args, stderr)
			for line := range strings.SplitSeq(shown, "\n") {
				if args == "doctor" && !strings.HasPrefix(line, "SELF-TEST") || strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "http") {
					continue // sentences, which may wrap
				}
				require.LessOrEqual(t, utf8.RuneCountInString(line), width, "%s on %d columns: %s", args, width, line)
			}
			require.NotContains(t, stderr, "POOL, POOL")
		}
	}
	whole := call(t.Context(), addr, "", "pools").out
	require.Contains(t, whole, strings.TrimSpace(strings.Repeat("it is a long story. ", 8)), "through a pipe nothing is cut")
	shown, stderr, _ := onTerminal(t, addr, 80, "pools")
	require.Contains(t, shown, "it is a long story")
	require.Contains(t, shown, "…\n")
	require.Regexp(t, "^left out, since the terminal has 80 columns: .*LIFECYCLE", stderr)
}

// LO-847
func TestAnAnswerEndsItsLineOnATerminal(t *testing.T) {
	t.Parallel()
	addr := newDaemon().complete(t, "one ", "two").serve(t)
	for _, args := range [][]string{{"run", "-m", "haiku", "p"}, {"stream", "t"}} {
		shown, stderr, code := onTerminal(t, addr, 80, args...)
		require.Zero(t, code, stderr)
		require.Equal(t, "one two\n", shown)
	}
	var out bytes.Buffer
	a := &app{out: &out}
	require.NoError(t, a.printText(strings.NewReader("no line feed")))
	require.NoError(t, a.printText(strings.NewReader("one\n")))
	require.NoError(t, a.printText(strings.NewReader("")))
	require.Equal(t, "no line feed\none\n", out.String())
}

// LO-847
func TestFit(t *testing.T) {
	t.Parallel()
	rows := [][]string{{"TASK", "STATE", "AHEAD", "PRIORITY", "NOTE"}, {"a", "queued", "-", "batch", "ä long text that says much"}, {"b", "done", "", "batch", "short"}}
	for width, want := range map[int][]string{
		0:  {"TASK", "STATE", "AHEAD", "PRIORITY", "NOTE"},
		99: {"TASK", "STATE", "AHEAD", "PRIORITY", "NOTE"},
		52: {"TASK", "STATE", "PRIORITY", "NOTE"},
		40: {"TASK", "STATE", "NOTE"},
		30: {"TASK", "STATE", "NOTE"},
		5:  {"TASK", "STATE", "NOTE"},
	} {
		got, gone := fit(rows, width)
		require.Equal(t, want, got[0], width)
		if len(want) == 3 {
			require.Equal(t, []string{"PRIORITY"}, gone, "a column without a value is not missed")
		} else {
			require.Empty(t, gone)
		}
		if width >= 30 {
			require.LessOrEqual(t, wide(got), width)
		}
	}
	got, _ := fit(rows, 30)
	require.Equal(t, "ä long text tha…", got[1][2])
	require.Equal(t, "ä long text that says much", rows[1][4], "what was given stays as it is")
	facts := [][]string{{"ref", strings.Repeat("x", 100)}}
	got, _ = fit(facts, 40)
	require.Equal(t, facts, got)
}
