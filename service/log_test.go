// SPDX-License-Identifier: GPL-3.0-or-later

package service_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every field of the log that is a duration says its unit in its name, and the unit is milliseconds.
//
// LO-846
func TestDurationsInTheLogCarryTheirUnit(t *testing.T) {
	calls := 0
	for _, root := range []string{".", filepath.Join("..", "cmd")} {
		require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				return err
			}
			n, wrong := logFields(file)
			calls += n
			for _, w := range wrong {
				t.Errorf("%s: the field %q: %s", set.Position(w.at), w.key, w.what)
			}
			return nil
		}))
	}
	require.Greater(t, calls, 100, "the search is broken: the daemon has more fields than that in its log")
}

// The search finds each kind of breach.
//
// LO-846
func TestTheSearchForDurationsFindsBreaches(t *testing.T) {
	for field, want := range map[string]int{
		`zap.Duration("took_ms", d)`:                     0,
		`zap.Int64("took_ms", d.Milliseconds())`:         0,
		`zap.Int("tokens", n)`:                           0,
		`zap.Duration("took", d)`:                        1,
		`zap.Durationp("took_s", d)`:                     1,
		`zap.Int64("took", d.Milliseconds())`:            1,
		`zap.Float64("took_s", d.Seconds())`:             1,
		`zap.Float64("took_ms", d.Seconds())`:            1,
		`zap.String("wait", d.String())`:                 1,
		`zap.Any("retry_after", d)`:                      1,
		`zap.Stringer("idle_timeout", d)`:                1,
		`log.With(zap.Duration("since", time.Since(d)))`: 1,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc f() { log.Info(\"m\", "+field+") }", 0)
		require.NoError(t, err)
		n, wrong := logFields(file)
		require.Equal(t, 1, n, field)
		require.Len(t, wrong, want, field)
	}
}

// breach is a field of the log whose name does not say what its value is.
type breach struct {
	at   token.Pos
	key  string
	what string
}

// ofTime matches names that only a duration has, whatever the type of the value is.
var ofTime = regexp.MustCompile(`(^|_)(took|waits?|waited|elapsed|duration|ttl|timeout|within|interval|delay|age|idle|latency|uptime|retry_after|next_try|since)(_[a-z]+)?$`)

// logFields returns how many fields of the log a file names, and those that are wrong.
func logFields(file *ast.File) (calls int, wrong []breach) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 2 {
			return true
		}
		made, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := made.X.(*ast.Ident); !ok || pkg.Name != "zap" {
			return true
		}
		literal, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		key, err := strconv.Unquote(literal.Value)
		if err != nil {
			return true
		}
		calls++
		inMS := strings.HasSuffix(key, "_ms")
		seconds, milliseconds := calling(call.Args[1], "Seconds", "Minutes", "Hours"), calling(call.Args[1], "Milliseconds")
		switch {
		case seconds:
			wrong = append(wrong, breach{call.Pos(), key, "durations are in milliseconds: take zap.Duration"})
		case !inMS && (strings.HasPrefix(made.Sel.Name, "Duration") || milliseconds || made.Sel.Name != "Time" && ofTime.MatchString(key)):
			wrong = append(wrong, breach{call.Pos(), key, "a duration's name ends in _ms"})
		}
		return true
	})
	return calls, wrong
}

// calling reports whether an expression is a call of a method of one of these names.
func calling(value ast.Expr, names ...string) bool {
	call, ok := value.(*ast.CallExpr)
	if !ok {
		return false
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	for _, name := range names {
		if ok && method.Sel.Name == name {
			return true
		}
	}
	return false
}
