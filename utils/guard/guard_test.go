// SPDX-License-Identifier: GPL-3.0-or-later

package guard

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func refuses(t *testing.T, err error, rule Rule, says string) {
	t.Helper()
	by, ok := errors.AsType[*Error](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, rule, by.Rule)
	require.ErrorContains(t, err, says)
}

// LO-919
func TestBudgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Rules{Calls: 3, Tokens: 100, Time: time.Minute})
		require.NoError(t, g.Call())
		require.NoError(t, g.Spend(60))
		require.NoError(t, g.Call())
		refuses(t, g.Spend(41), Tokens, "101 tokens are used, of 100")
		refuses(t, g.Call(), Tokens, "ask for less")
		g = New(Rules{Calls: 1, Time: time.Minute})
		require.NoError(t, g.Call())
		require.NoError(t, g.Spend(1<<40), "no budget of tokens")
		refuses(t, g.Call(), Calls, "all 1 calls are used")
		time.Sleep(time.Minute)
		refuses(t, g.Call(), Time, "1m0s is over")
		calls, tokens := g.Used()
		require.Equal(t, 1, calls)
		require.EqualValues(t, 1<<40, tokens)
		require.NoError(t, New(Rules{}).Call())
	})
}

// No more calls pass than there are, whoever asks at once.
//
// LO-919
func TestACallIsCountedOnce(t *testing.T) {
	g := New(Rules{Calls: 50})
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 10 {
				if g.Call() == nil {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 50, passed.Load())
}

// LO-919
func TestPathsAndCommands(t *testing.T) {
	g := New(Rules{Paths: []string{"docs", "*.go", "a/file"}, Commands: []string{"go test", "ls"}})
	for _, name := range []string{"docs", "docs/x/y", "main.go", "a/file", "./docs/../main.go"} {
		require.NoError(t, g.Path(name), name)
	}
	for _, name := range []string{"docsx", "pkg/main.go", "../main.go", "docs/../secret", "/docs", "a", ""} {
		refuses(t, g.Path(name), Paths, "allowed are docs, *.go, a/file")
	}
	require.NoError(t, g.Command("go", "test", "./..."))
	require.NoError(t, g.Command("ls", "-l"))
	refuses(t, g.Command("go", "run", "x"), Commands, `"go run x"`)
	refuses(t, g.Command("go"), Commands, "allowed are go test, ls")
	refuses(t, g.Command("lss"), Commands, `did you mean "ls"?`)
	refuses(t, New(Rules{}).Path("x"), Paths, "none is allowed")
	all := New(Rules{Paths: []string{"."}})
	require.NoError(t, all.Path("x/y"))
	refuses(t, all.Path("../x"), Paths, "")
	refuses(t, all.Path("/x"), Paths, "")
}
