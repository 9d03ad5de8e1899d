// SPDX-License-Identifier: GPL-3.0-or-later

package service_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// uncontained are the goroutines in which a panic ends the process, by their place: the folder, and the function that starts them.
var uncontained = map[string]string{
	"lifecycle.Go":             "what it starts is looked at where it is called",
	"awake.next":               "so is what AfterFunc calls",
	"awake.at":                 "so is what At calls",
	"control/announce.Say":     "it runs in a process of its own, whose end the daemon mends",
	"control/announce.sayOnce": "so does this",
	"fleet/worker.*":           "it runs in the worker's own process, whose end the daemon mends",
	"fleet/engine/httpsse.put": "it closes connections that nobody uses, and calls nothing of ours",
	"observe.Aside":            "it waits, and takes lines to a file where a panic is an error; one of the log could be told nowhere",
	"observe.newBuffer":        "it writes the log, in which a panic would be told; one of the output is an error of that",
}

// A panic in a goroutine ends the process, unless the goroutine itself recovers. So each one does that first of all, or does nothing else
// than what cannot panic or is contained.
//
// LO-803
func TestEveryGoroutineContainsItsPanics(t *testing.T) {
	started, excused := 0, map[string]bool{}
	folders := map[string][]string{}
	for _, root := range []string{".", filepath.Join("..", "cmd", "orchestratord")} {
		require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			if strings.HasSuffix(filepath.Dir(path), "test") {
				return nil // a suite for the tests of others
			}
			folders[filepath.Dir(path)] = append(folders[filepath.Dir(path)], path)
			return nil
		}))
	}
	for folder, paths := range folders {
		set := token.NewFileSet()
		var files []*ast.File
		for _, path := range paths {
			file, err := parser.ParseFile(set, path, nil, 0)
			require.NoError(t, err)
			files = append(files, file)
		}
		n, bare := goroutines(files)
		started += n
		if n > 0 {
			assert.True(t, looksForLeaks(t, folder), "%s starts goroutines, and its tests look for none that is left: call goleak.VerifyTestMain in a TestMain", folder)
		}
		for _, b := range bare {
			place := filepath.ToSlash(folder)
			known := false
			for _, excuse := range []string{place + "." + b.in, place + ".*"} {
				if _, ok := uncontained[excuse]; ok {
					excused[excuse], known = true, true
				}
			}
			if !known {
				t.Errorf("%s: a panic in this goroutine ends the daemon: run what it runs in contain.Do or contain.Loop, or have its first statement recover", set.Position(b.at))
			}
		}
	}
	require.Greater(t, started, 50, "the search is broken: the daemon starts more goroutines than that")
	require.ElementsMatch(t, slices.Collect(maps.Keys(uncontained)), slices.Collect(maps.Keys(excused)), "an excuse that nobody needs any more")
}

// looksForLeaks reports whether the tests of a folder fail where a goroutine is left at their end.
func looksForLeaks(t *testing.T, folder string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	require.NoError(t, err)
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return regexp.MustCompile(`goleak\.(VerifyTestMain\(m|Find\()|(nvmlstub|dialect)\.(Main|Run)\(m`).Match(text)
	})
}

// The search tells what is contained from what is not.
//
// LO-803
func TestTheSearchForGoroutinesFindsBareOnes(t *testing.T) {
	for body, want := range map[string]int{
		`go work()`:                           1,
		`go func() { f() }()`:                 1,
		`go func() { defer close(c); f() }()`: 1,
		`go func() { defer f(); defer func() { _ = recover() }() }()`: 1,
		`wg.Go(work)`:                1,
		`wg.Go(func() { f() })`:      1,
		`wg.Go(func() { c <- f() })`: 1,
		`life.Go(x.work)`:            1,
		`life.Go(func(ctx context.Context) { x.work(ctx) })`:                         1,
		`life.Go(func(ctx context.Context) { contain.Loop(ctx, log, "m", g); f() })`: 1,
		`time.AfterFunc(d, func() { f() })`:                                          1,
		`time.AfterFunc(d, work)`:                                                    1,
		`awake.At(d, func() { x.work() })`:                                           1,

		`go safe()`:   0,
		`go x.safe()`: 0,
		`go func() { defer func() { _ = recover() }(); f() }()`:                        0,
		`go func() { defer x.saved(); defer f(); f() }()`:                              0,
		`go func() { defer close(c); _ = contain.Do(log, "m", f) }()`:                  0,
		`go func() { <-c; n.Add(-1) }()`:                                               0,
		`wg.Go(safe)`:                                                                  0,
		`wg.Go(func() { x.safe() })`:                                                   0,
		`wg.Go(func() { v, err := contain.Try(f); c <- answer{v, err} })`:              0,
		`wg.Go(func() { if err := contain.Do(log, "m", f); err != nil { c <- err } })`: 0,
		`wg.Go(func() { c <- typed() })`:                                               0,
		`life.Go(func(ctx context.Context) { contain.Loop(ctx, log, "m", f) })`:        0,
		`time.AfterFunc(d, func() { cancel(errLate) })`:                                0,
		`context.AfterFunc(ctx, cancel)`:                                               0,
		`time.AfterFunc(d, func() { x.aside() })`:                                      0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", `package x
			func start() { `+body+` }
			func work() { f() }
			func (x *T) work() { f() }
			func safe() { defer func() { _ = recover() }(); f() }
			func (x *T) safe() { defer x.saved(); f() }
			func (x *T) saved() { if p := recover(); p != nil { f() } }
			func typed() (err error) { err = contain.Do(log, "m", f); return errors.Join(err) }
			func (x *T) aside() { x.mu.Lock(); defer x.mu.Unlock(); wg.Go(safe) }
			func f() { g() }`, 0)
		require.NoError(t, err)
		n, bare := goroutines([]*ast.File{file})
		require.Positive(t, n, body)
		require.Len(t, bare, want, body)
	}
}

// goroutine is one that may panic.
type goroutine struct {
	at token.Pos
	in string // the function that starts it
}

// goroutines returns how many places of a package start a goroutine, and those of them where a panic in it would end the process.
func goroutines(files []*ast.File) (starts int, bare []goroutine) {
	p := &pkg{functions: map[string][]*ast.FuncDecl{}}
	for _, file := range files {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				p.functions[f.Name.Name] = append(p.functions[f.Name.Name], f)
			}
		}
	}
	for _, named := range p.functions {
		for _, in := range named {
			ast.Inspect(in.Body, func(n ast.Node) bool {
				run, timer := started(n)
				if run == nil {
					return true
				}
				starts++
				if !p.contained(run, timer) {
					bare = append(bare, goroutine{n.Pos(), in.Name.Name})
				}
				return true
			})
		}
	}
	return starts, bare
}

// started returns the function that a node runs in a goroutine; nil: it starts none. Timer says that it is called when something has ended,
// as most of these only cancel something.
func started(n ast.Node) (run ast.Expr, timer bool) {
	switch n := n.(type) {
	case *ast.GoStmt:
		return n.Call.Fun, false
	case *ast.CallExpr:
		name := called(n)
		switch {
		case len(n.Args) == 0:
		case name == "Go":
			return n.Args[len(n.Args)-1], false
		case name == "AfterFunc", name == "At" && from(n) == "awake":
			return n.Args[len(n.Args)-1], true
		}
	}
	return nil, false
}

// called is the name of the function that a call calls, and from the name before the dot.
func called(call *ast.CallExpr) string { return last(call.Fun) }

// last is the name in an expression behind its dot, if it has one.
func last(f ast.Expr) string {
	switch f := f.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

func from(call *ast.CallExpr) string {
	if f, ok := call.Fun.(*ast.SelectorExpr); ok {
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name
		}
	}
	return ""
}

// pkg is what the search knows of a package.
type pkg struct {
	functions map[string][]*ast.FuncDecl // and methods, by their names
	depth     int
}

// contained reports whether a function lets no panic out.
func (p *pkg) contained(run ast.Expr, timer bool) bool {
	if f, ok := run.(*ast.FuncLit); ok {
		return p.body(f.Body)
	}
	named := p.find(run)
	if len(named) == 0 { // it stands in a variable
		return timer && slices.Contains(ends, last(run))
	}
	return p.all(named)
}

// find returns the functions, or the methods, that an expression may name.
func (p *pkg) find(f ast.Expr) (found []*ast.FuncDecl) {
	_, method := f.(*ast.SelectorExpr)
	for _, d := range p.functions[last(f)] {
		if (d.Recv != nil) == method {
			found = append(found, d)
		}
	}
	return found
}

// all reports whether each of some functions lets no panic out.
func (p *pkg) all(named []*ast.FuncDecl) bool {
	if p.depth > 3 {
		return false
	}
	p.depth++
	defer func() { p.depth-- }()
	return !slices.ContainsFunc(named, func(f *ast.FuncDecl) bool { return !p.body(f.Body) })
}

func (p *pkg) body(b *ast.BlockStmt) bool {
	if len(b.List) > 0 {
		if d, ok := b.List[0].(*ast.DeferStmt); ok && p.recovers(d.Call.Fun) {
			return true
		}
	}
	return p.tame(b.List)
}

// recovers reports whether a deferred function recovers.
func (p *pkg) recovers(f ast.Expr) bool {
	var bodies []*ast.BlockStmt
	if lit, ok := f.(*ast.FuncLit); ok {
		bodies = append(bodies, lit.Body)
	}
	for _, named := range p.find(f) {
		bodies = append(bodies, named.Body)
	}
	return len(bodies) > 0 && !slices.ContainsFunc(bodies, func(b *ast.BlockStmt) bool {
		found := false
		ast.Inspect(b, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && called(call) == "recover" && from(call) == "" {
				found = true
			}
			_, inner := n.(*ast.FuncLit)
			return !inner
		})
		return !found
	})
}

// Calls that do not panic as they are used here. Own functions and methods of the names in harmless are looked at, those in simple are not.
var (
	simple   = []string{"Add", "Done", "Load", "Lock", "Store", "Unlock", "Wait"} // of package sync
	harmless = []string{
		"append", "close", "delete", "len", "make", "max", "min", "Broadcast", "Close", "Err", "Errorf", "Is", "Join", "Retry", "SetDeadline",
		"Go", "AfterFunc", // which are looked at by themselves
	}
	ends = []string{"cancel", "detach", "forget", "hard", "stop"} // of contexts, in variables
)

// tame reports whether statements call nothing but what is contained or harmless.
func (p *pkg) tame(list []ast.Stmt) bool {
	ok := true
	var look func(n ast.Node) bool
	look = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit: // what is given to contain, or another goroutine
			return false
		case *ast.CompositeLit:
			for _, e := range n.Elts {
				ast.Inspect(e, look)
			}
			return false
		case *ast.IndexExpr, *ast.SliceExpr, *ast.TypeAssertExpr:
			ok = false
		case *ast.CallExpr:
			if from(n) == "contain" {
				return false // also what it is given
			}
			if lit, is := n.Fun.(*ast.FuncLit); is {
				ok = ok && p.body(lit.Body)
				return false
			}
			named := p.find(n.Fun)
			switch {
			case slices.Contains(simple, called(n)):
			case len(named) > 0:
				ok = ok && p.all(named)
			default:
				ok = ok && (slices.Contains(harmless, called(n)) || slices.Contains(ends, called(n)))
			}
		}
		return true
	}
	for _, s := range list {
		ast.Inspect(s, look)
	}
	return ok
}
