// SPDX-License-Identifier: GPL-3.0-or-later

package mutate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// switches is what a woven package has besides: which of its mutants is on, and a note of those that a test reached.
const switches = `package %s

import (
	"os"
	"strconv"
	"sync/atomic"
)

var mutantID = func() int {
	if id, err := strconv.Atoi(os.Getenv("LLORCH_MUTANT")); err == nil {
		return id
	}
	return -1
}()

var mutantTrace, _ = os.OpenFile(os.Getenv("LLORCH_MUTANT_TRACE"), os.O_WRONLY|os.O_APPEND, 0)

var mutantReached [%d]atomic.Bool

func mutantOn(id int) bool {
	if mutantTrace != nil && !mutantReached[id].Swap(true) {
		_, _ = mutantTrace.WriteString(strconv.Itoa(id) + "\n")
	}
	return id == mutantID
}

type mutantNumber interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr | ~float32 | ~float64
}

func mutantNeg[T mutantNumber](id int, v T) T {
	if mutantOn(id) {
		return -v
	}
	return v
}

func mutantOne[T mutantNumber](id int, v T) T {
	if mutantOn(id) {
		return 1
	}
	return v
}

func mutantInc[T mutantNumber](id int, v T) T {
	if mutantOn(id) {
		return v + 1
	}
	return v
}

func mutantPick[T any](id int, mutant, v T) T {
	if mutantOn(id) {
		return mutant
	}
	return v
}

func mutantErr(id int, err error) error {
	if mutantOn(id) {
		return nil
	}
	return err
}
`

// listed is what go list knows of a package.
type listed struct {
	ImportPath, Name, Dir, Export string
	GoFiles                       []string
	Module                        *struct{ Path string }
}

// subject is a package whose tests are built with all its mutants in it.
type subject struct {
	listed
	exe     string
	flags   []string // of the tests
	mutants []Mutant
	digest  string // of its files, its tests, and what it imports
	sound   *soundness
}

// soundness says whether tests that judge together pass together without a mutant.
type soundness struct {
	mu  sync.Mutex
	are map[string]bool
}

func list(ctx context.Context, o Options, args ...string) (found []listed, err error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-json=ImportPath,Name,Dir,Export,GoFiles,Module"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stderr = o.Dir, o.Env, o.Out
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", strings.Join(args, " "), err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		switch err := d.Decode(&l); {
		case errors.Is(err, io.EOF):
			return found, nil
		case err != nil:
			return nil, fmt.Errorf("reading go list: %w", err)
		}
		found = append(found, l)
	}
}

// read finds the package and its mutants, and says what its files have besides in a build.
func read(ctx context.Context, o Options, path string) (s subject, woven map[string][]byte, err error) {
	all, err := list(ctx, o, "-export", "-deps", path)
	if err != nil {
		return s, nil, err
	}
	s.listed = all[len(all)-1]
	exports := map[string]string{}
	for _, l := range all {
		exports[l.ImportPath] = l.Export
	}
	fset := token.NewFileSet()
	var files []*ast.File
	sources := map[string][]byte{}
	for _, name := range s.GoFiles {
		if sources[name], err = os.ReadFile(filepath.Join(s.Dir, name)); err != nil {
			return s, nil, fmt.Errorf("reading the package: %w", err)
		}
		file, err := parser.ParseFile(fset, name, sources[name], 0)
		if err != nil {
			return s, nil, fmt.Errorf("reading the package: %w", err)
		}
		files = append(files, file)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}, Implicits: map[ast.Node]types.Object{}}
	check := types.Config{Importer: importer.ForCompiler(fset, "gc", func(p string) (io.ReadCloser, error) { return os.Open(exports[p]) })}
	pkg, err := check.Check(s.ImportPath, fset, files, info)
	if err != nil {
		return s, nil, fmt.Errorf("reading the types of %s: %w", s.ImportPath, err)
	}
	short := s.ImportPath
	if s.Module != nil {
		short = strings.TrimPrefix(short, s.Module.Path+"/")
	}
	woven = map[string][]byte{}
	for i, name := range s.GoFiles {
		f := finder{src: sources[name], file: fset.File(files[i].Pos()), info: info, pkg: pkg, imports: imports(files[i], info), next: len(s.mutants)}
		f.find(files[i])
		for _, m := range f.mutants {
			m.Package, m.File = short, name
			s.mutants = append(s.mutants, m)
		}
		woven[name] = f.weave()
	}
	woven["mutant_switches.go"] = fmt.Appendf(nil, switches, s.Name, len(s.mutants))
	s.digest, err = digest(s.Dir, exports)
	return s, woven, err
}

func imports(file *ast.File, info *types.Info) map[string]string {
	names := map[string]string{}
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		if spec.Name != nil {
			names[path] = spec.Name.Name
		} else if p, ok := info.Implicits[spec].(*types.PkgName); ok {
			names[path] = p.Name()
		}
	}
	return names
}

// digest is of all files of the package's folder, so of its tests and what they read beside them too, and of the packages that it imports, whose compiled files have
// their digest as a name.
func digest(dir string, exports map[string]string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("reading the package: %w", err)
	}
	sum := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(exports)) {
		fmt.Fprintf(sum, "%s %s\n", path, filepath.Base(exports[path]))
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", fmt.Errorf("reading the package: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n", e.Name(), len(content))
		sum.Write(content)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// build compiles the package's tests with all mutants in them, in one program. No file of the tree changes.
func (s *subject) build(ctx context.Context, o Options, woven map[string][]byte, dir string) error {
	replace := map[string]string{}
	for name, content := range woven {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, content, 0o600); err != nil {
			return fmt.Errorf("writing the mutants: %w", err)
		}
		replace[filepath.Join(s.Dir, name)] = at
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return fmt.Errorf("writing the overlay: %w", err)
	}
	at := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(at, overlay, 0o600); err != nil {
		return fmt.Errorf("writing the overlay: %w", err)
	}
	s.exe = filepath.Join(dir, "tests")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-w", "-overlay", at, "-o", s.exe, s.ImportPath)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = o.Dir, o.Env, o.Out, o.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the tests of %s with its mutants: %w", s.ImportPath, err)
	}
	if _, err := os.Stat(s.exe); err != nil {
		return fmt.Errorf("%s has no tests", s.ImportPath)
	}
	return nil
}

// sample is the same n mutants each time, as long as their code is the same.
func sample(all []Mutant, n int) map[string]bool {
	type drawn struct{ key, name string }
	var keys []drawn
	for _, m := range all {
		sum := sha256.Sum256([]byte(m.Name()))
		keys = append(keys, drawn{string(sum[:]), m.Name()})
	}
	slices.SortFunc(keys, func(a, b drawn) int { return strings.Compare(a.key, b.key) })
	names := map[string]bool{}
	for _, k := range keys[:min(n, len(keys))] {
		names[k.name] = true
	}
	return names
}
