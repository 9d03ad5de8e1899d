// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var shared *lab

// envReport names a file that the suite's figures are added to: `go test` shows a passing test's lines to nobody.
const envReport = "LLORCH_DETERMINISM_REPORT"

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "determinism-")
		if err == nil {
			defer func() { _ = os.RemoveAll(dir) }()
			var root string
			if root, err = filepath.Abs("../.."); err == nil {
				shared, err = newLab(context.Background(), dir, root)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "determinism:", err)
			return 1
		}
		code := m.Run()
		shared.Close()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, "determinism:", err)
			return 1
		}
		return code
	}())
}

// say is a line for the report.
func say(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Log(line)
	path := os.Getenv(envReport)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = fmt.Fprintln(f, line)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// serve starts a daemon that ends with the test.
func serve(t *testing.T, name, config string, env map[string]string) *life {
	t.Helper()
	d, err := shared.serve(t.Context(), name, config, env)
	require.NoError(t, err)
	t.Cleanup(d.Kill)
	return d
}

func cases(t *testing.T) []testCase {
	t.Helper()
	all, err := loadCases()
	require.NoError(t, err)
	return all
}

// engines lists those of this machine; the others are reported as not run.
func engines(t *testing.T) []engine {
	t.Helper()
	present, absent, err := shared.engines()
	require.NoError(t, err)
	tellAbsent.Do(func() {
		for _, why := range absent {
			say(t, "%s", why)
		}
	})
	return present
}

var tellAbsent sync.Once

// OC-TEST-7001, OC-TEST-7003
func TestSixtyFourSeedsAreCommitted(t *testing.T) {
	seeds, names, minutes := map[any]bool{}, map[string]bool{}, 0
	for _, c := range cases(t) {
		require.NotNil(t, c.Request["seed"], c.Name)
		seeds[c.Request["seed"]], names[c.Name] = true, true
		if c.Must != "" {
			minutes++
		}
	}
	require.GreaterOrEqual(t, len(seeds), 64)
	require.Len(t, names, len(cases(t)))
	require.GreaterOrEqual(t, minutes, 40)
}

func took(since time.Time) string { return time.Since(since).Round(100 * time.Millisecond).String() }
