// SPDX-License-Identifier: GPL-3.0-or-later

package mutate

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// Mutant is one small change of the code.
type Mutant struct {
	Package string // its import path, without the module's
	File    string
	Func    string // where it is, with its receiver's type
	Change  string // what is done there, with the source text; alike changes of one function are numbered
	Line    int
}

// Name is the same as long as the changed code is: no line is in it.
func (m Mutant) Name() string { return m.Package + "/" + m.File + " " + m.Func + ": " + m.Change }

// insert is text that the woven file has besides at a place. Openings and closings belong to the range of code that they enclose.
type insert struct {
	at, start, end, seq int
	text                string
}

func (i insert) closes() bool { return i.at == i.end }

// finder collects the mutants of one file and what makes them.
type finder struct {
	src     []byte
	file    *token.File
	info    *types.Info
	pkg     *types.Package
	imports map[string]string // path → the name in this file
	next    int               // the number of the next mutant

	mutants []Mutant
	inserts []insert
	within  string // the function
	results *types.Tuple
	as      map[ast.Expr]role
}

// role is what a boolean expression is for.
type role int

const (
	value  role = iota
	branch      // what an if or a case turns on
	conjunct
	disjunct
	loop
)

// find collects the mutants of a file. Only the bodies of functions are changed.
func (f *finder) find(file *ast.File) {
	f.as = map[ast.Expr]role{}
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		f.within = receiver(fn) + fn.Name.Name
		f.body(fn.Body, f.info.Defs[fn.Name].Type().(*types.Signature).Results())
	}
	seen := map[string]int{}
	for i := range f.mutants {
		m := &f.mutants[i]
		seen[m.Func+m.Change]++
		if n := seen[m.Func+m.Change]; n > 1 {
			m.Change = fmt.Sprintf("%s (%d)", m.Change, n)
		}
	}
}

func receiver(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return ""
	}
	t := fn.Recv.List[0].Type
	for {
		switch of := t.(type) {
		case *ast.StarExpr:
			t = of.X
		case *ast.IndexExpr:
			t = of.X
		case *ast.IndexListExpr:
			t = of.X
		case *ast.Ident:
			return of.Name + "."
		default:
			return ""
		}
	}
}

func (f *finder) body(block *ast.BlockStmt, results *types.Tuple) {
	outer := f.results
	f.results = results
	defer func() { f.results = outer }()
	ast.Inspect(block, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			f.body(n.Body, f.info.TypeOf(n).(*types.Signature).Results())
			return false
		case *ast.GenDecl:
			return n.Tok == token.VAR
		case *ast.ArrayType:
			return false
		case *ast.BlockStmt:
			f.statements(n.List)
		case *ast.CaseClause:
			f.statements(n.Body)
		case *ast.CommClause:
			f.statements(n.Body)
		case *ast.IfStmt:
			f.as[n.Cond] = branch
		case *ast.ForStmt:
			if n.Cond != nil {
				f.as[n.Cond] = loop
			}
		case *ast.SwitchStmt:
			if n.Tag == nil {
				f.cases(n)
			}
		case *ast.ReturnStmt:
			f.returned(n)
		case *ast.CallExpr:
			return f.call(n)
		case *ast.KeyValueExpr:
			if lit, ok := n.Key.(*ast.BasicLit); ok { // an array's index is a constant
				f.as[lit] = loop
			}
		}
		if e, ok := n.(ast.Expr); ok {
			return f.expression(e)
		}
		return true
	})
}

func (f *finder) cases(s *ast.SwitchStmt) {
	for _, c := range s.Body.List {
		for _, e := range c.(*ast.CaseClause).List {
			f.as[e] = branch
		}
	}
}

// statements drops each statement that stands for itself, and swaps calls that follow one another.
func (f *finder) statements(list []ast.Stmt) {
	for i, s := range list {
		if !f.droppable(s) {
			continue
		}
		f.wrap(s, "drop "+f.text(s), "if !mutantOn(%d) { ", " }")
		if i > 0 && isCall(s) && isCall(list[i-1]) && f.droppable(list[i-1]) {
			before := list[i-1]
			id := f.mutant(s, "swap "+f.text(before)+" with "+f.text(s))
			f.open(before, s, fmt.Sprintf("if mutantOn(%d) { %s }; ", id, f.raw(s)))
			f.around(s, fmt.Sprintf("if !mutantOn(%d) { ", id), " }")
		}
	}
}

func isCall(s ast.Stmt) bool {
	e, ok := s.(*ast.ExprStmt)
	if !ok {
		return false
	}
	_, ok = e.X.(*ast.CallExpr)
	return ok
}

// droppable leaves locks alone, which fail at once or are the race detector's, and what is only told to the log.
func (f *finder) droppable(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		return !ok || !f.quiet(call)
	case *ast.DeferStmt:
		return !f.quiet(s.Call)
	case *ast.AssignStmt:
		if s.Tok == token.DEFINE {
			return false
		}
		return slices.ContainsFunc(s.Lhs, func(e ast.Expr) bool { id, ok := e.(*ast.Ident); return !ok || id.Name != "_" })
	case *ast.IncDecStmt, *ast.SendStmt, *ast.GoStmt:
		return true
	case *ast.ReturnStmt:
		return len(s.Results) == 0
	case *ast.BranchStmt:
		return s.Tok == token.BREAK || s.Tok == token.CONTINUE
	}
	return false
}

func (f *finder) quiet(call *ast.CallExpr) bool {
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name == "panic"
	case *ast.SelectorExpr:
		switch fn.Sel.Name {
		case "Lock", "Unlock", "RLock", "RUnlock":
			return true
		}
		t := f.info.TypeOf(fn.X)
		return t != nil && strings.HasSuffix(t.String(), "zap.Logger")
	}
	return false
}

// returned drops errors, and turns plain answers around.
func (f *finder) returned(r *ast.ReturnStmt) {
	if f.results == nil || len(r.Results) != f.results.Len() {
		return
	}
	for i, e := range r.Results {
		id, named := e.(*ast.Ident)
		switch t := f.results.At(i).Type(); {
		case types.Identical(t, types.Universe.Lookup("error").Type()):
			if !named || id.Name != "nil" {
				f.wrap(e, "return no error, not "+f.text(e), "mutantErr(%d, ", ")")
			}
		case named && (id.Name == "true" || id.Name == "false") && types.Identical(t, types.Typ[types.Bool]):
			f.wrap(e, "return not "+id.Name, "(mutantOn(%d) != ", ")")
		}
	}
}

// call mutates min and max, and keeps away from capacities and what is told to the log.
func (f *finder) call(c *ast.CallExpr) bool {
	if f.quiet(c) {
		return false
	}
	fn, ok := c.Fun.(*ast.Ident)
	if !ok {
		return true
	}
	if _, builtin := f.info.Uses[fn].(*types.Builtin); !builtin {
		return true
	}
	switch {
	case fn.Name == "make" && len(c.Args) > 1:
		f.as[c.Args[len(c.Args)-1]] = loop
	case (fn.Name == "min" || fn.Name == "max") && !f.constant(c) && len(c.Args) == 2 && f.nameable(f.info.TypeOf(c)) != "":
		other := map[string]string{"min": "max", "max": "min"}[fn.Name]
		id := f.mutant(c, other+" for "+f.text(c))
		t := f.nameable(f.info.TypeOf(c))
		f.around(c, fmt.Sprintf("mutantPick(%d, %s(%s), %s(", id, t, strings.Replace(f.raw(c), fn.Name, other, 1), t), "))")
	}
	return true
}

func (f *finder) constant(e ast.Expr) bool {
	t, ok := f.info.Types[e]
	return ok && t.Value != nil
}

// expression mutates what a value is made of. False: what is in it stays as it is.
func (f *finder) expression(e ast.Expr) bool {
	t := f.info.Types[e]
	if t.IsType() {
		return false
	}
	if lit, ok := e.(*ast.BasicLit); ok {
		f.literal(lit)
		return false
	}
	if t.Value != nil {
		return false
	}
	if t.Type != nil && isBool(t.Type) {
		f.boolean(e)
	}
	if b, ok := e.(*ast.BinaryExpr); ok && isNumber(t.Type) {
		f.arithmetic(b)
	}
	return true
}

func isBool(t types.Type) bool {
	b, ok := t.(*types.Basic)
	return ok && b.Info()&types.IsBoolean != 0
}

func isNumber(t types.Type) bool {
	if t == nil {
		return false
	}
	if _, generic := t.(*types.TypeParam); generic {
		return false
	}
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&(types.IsInteger|types.IsFloat) != 0
}

func (f *finder) boolean(e ast.Expr) {
	as := f.as[e]
	if p, ok := e.(*ast.ParenExpr); ok {
		f.as[p.X] = as
		return
	}
	b, binary := e.(*ast.BinaryExpr)
	logical := binary && (b.Op == token.LAND || b.Op == token.LOR)
	if logical {
		to := conjunct
		if b.Op == token.LOR {
			to = disjunct
		}
		f.as[b.X], f.as[b.Y] = to, to
	}
	switch {
	case as == branch:
		f.wrap(e, "never "+f.text(e), "(!mutantOn(%d) && (", "))")
		if !logical {
			f.wrap(e, "always "+f.text(e), "(mutantOn(%d) || (", "))")
		}
	case as == conjunct && !logical:
		f.wrap(e, "without && "+f.text(e), "(mutantOn(%d) || (", "))")
	case as == disjunct && !logical:
		f.wrap(e, "without || "+f.text(e), "(!mutantOn(%d) && (", "))")
	}
	if !binary {
		return
	}
	other, ordered := map[token.Token]token.Token{token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR}[b.Op]
	switch {
	case ordered:
		f.instead(b, other)
	case as == value && b.Op == token.EQL:
		f.instead(b, token.NEQ)
	case as == value && b.Op == token.NEQ:
		f.instead(b, token.EQL)
	}
}

// instead has another operator between the operands.
func (f *finder) instead(b *ast.BinaryExpr, op token.Token) {
	id := f.mutant(b, op.String()+" for "+f.text(b))
	f.around(b, fmt.Sprintf("(mutantOn(%d) && (%s %s %s) || !mutantOn(%d) && (", id, f.raw(b.X), op, f.raw(b.Y), id), "))")
}

func (f *finder) arithmetic(b *ast.BinaryExpr) {
	var helper, change string
	switch b.Op {
	case token.ADD:
		helper, change = "mutantNeg", "- for "
	case token.SUB:
		helper, change = "mutantNeg", "+ for "
	case token.MUL, token.QUO:
		helper, change = "mutantOne", "only the left of "
	default:
		return
	}
	f.operand(b.Y, helper, change+f.text(b))
	if _, ok := b.Y.(*ast.BasicLit); ok {
		f.as[b.Y] = loop
	}
}

// literal is one more than it says.
func (f *finder) literal(lit *ast.BasicLit) {
	if lit.Kind == token.INT && f.as[lit] != loop && isNumber(f.info.TypeOf(lit)) {
		f.operand(lit, "mutantInc", "one more than "+lit.Value+" in line: "+f.lineText(lit))
	}
}

func (f *finder) operand(e ast.Expr, helper, change string) {
	t := f.nameable(f.info.TypeOf(e))
	if t == "" {
		return
	}
	f.wrap(e, change, helper+"(%d, "+t+"(", "))")
}

// nameable is how the file can name a type; empty: it cannot.
func (f *finder) nameable(t types.Type) string {
	ok := true
	name := types.TypeString(t, func(p *types.Package) string {
		if p == f.pkg {
			return ""
		}
		local, imported := f.imports[p.Path()]
		ok = ok && imported
		return local
	})
	switch t := t.(type) {
	case *types.Basic:
		if t.Info()&types.IsUntyped != 0 {
			return ""
		}
	case *types.Named:
		if t.TypeArgs().Len() > 0 || t.Obj().Parent() != t.Obj().Pkg().Scope() {
			return ""
		}
	default:
		return ""
	}
	if !ok {
		return ""
	}
	return name
}

// mutant adds one.
func (f *finder) mutant(at ast.Node, change string) int {
	f.mutants = append(f.mutants, Mutant{Func: f.within, Change: change, Line: f.file.Line(at.Pos())})
	f.next++
	return f.next - 1
}

// wrap adds a mutant that needs text around the code only.
func (f *finder) wrap(n ast.Node, change, before, after string) {
	f.around(n, fmt.Sprintf(before, f.mutant(n, change)), after)
}

func (f *finder) around(n ast.Node, before, after string) {
	start, end := f.file.Offset(n.Pos()), f.file.Offset(n.End())
	seq := len(f.inserts)
	f.inserts = append(f.inserts, insert{start, start, end, seq, before}, insert{end, start, end, seq, after})
}

// open adds text before a statement, outside of what is around it.
func (f *finder) open(n, until ast.Node, text string) {
	start := f.file.Offset(n.Pos())
	f.inserts = append(f.inserts, insert{start, start, f.file.Offset(until.End()), len(f.inserts), text})
}

func (f *finder) raw(n ast.Node) string {
	return string(f.src[f.file.Offset(n.Pos()):f.file.Offset(n.End())])
}

// text is the code in one line, and not all of it if it is long.
func (f *finder) text(n ast.Node) string { return short(f.raw(n)) }

func (f *finder) lineText(n ast.Node) string {
	line := f.file.Line(n.Pos())
	start, end := f.file.Offset(f.file.LineStart(line)), len(f.src)
	if line < f.file.LineCount() {
		end = f.file.Offset(f.file.LineStart(line + 1))
	}
	code, _, _ := strings.Cut(string(f.src[start:end]), " // ")
	return short(code)
}

func short(code string) string {
	const most = 90
	one := strings.Join(strings.Fields(code), " ")
	if runes := []rune(one); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return one
}

// weave is the file with all its mutants in it.
func (f *finder) weave() []byte {
	slices.SortStableFunc(f.inserts, func(a, b insert) int {
		switch {
		case a.at != b.at:
			return a.at - b.at
		case a.closes() != b.closes():
			if a.closes() {
				return -1
			}
			return 1
		case a.closes() && a.start != b.start:
			return b.start - a.start
		case a.closes():
			return b.seq - a.seq
		case a.end != b.end:
			return b.end - a.end
		}
		return a.seq - b.seq
	})
	var woven []byte
	last := 0
	for _, i := range f.inserts {
		woven = append(append(woven, f.src[last:i.at]...), i.text...)
		last = i.at
	}
	return append(woven, f.src[last:]...)
}
