// SPDX-License-Identifier: GPL-3.0-or-later

// Package guard holds a program to rules: budgets of calls, tokens, time and energy, paths, commands, and checks of answers (LO-919).
package guard

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/llama-orch/llama-orch/internal/nearest"
)

// Rule names what refused.
type Rule string

// The rules.
const (
	Calls    Rule = "calls"
	Tokens   Rule = "tokens"
	Time     Rule = "time"
	Joules   Rule = "joules"
	Paths    Rule = "paths"
	Commands Rule = "commands"
	Answer   Rule = "answer"
)

// Error says which rule refused, and why.
type Error struct {
	Rule    Rule
	Problem string // what was refused, and what to do
	Err     error  // of a check of an answer
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("refused by the rule %q: %s: %v", e.Rule, e.Problem, e.Err)
	}
	return fmt.Sprintf("refused by the rule %q: %s", e.Rule, e.Problem)
}

func (e *Error) Unwrap() error { return e.Err }

func refused(rule Rule, format string, args ...any) error {
	return &Error{Rule: rule, Problem: fmt.Sprintf(format, args...)}
}

// Rules are what a program may do. A budget of zero is none; lists that are empty allow nothing.
type Rules struct {
	Calls    int           // of models
	Tokens   int64         // in and out, over all calls
	Time     time.Duration // since New
	Joules   float64       // that cards took for the calls that have ended, as far as the server knows (LO-627)
	Paths    []string      // files, folders with all below them, and patterns of path.Match
	Commands []string      // names, or names with the arguments that they begin with: `git log`
}

// Guard counts against rules. Its methods may be called from several goroutines.
type Guard struct {
	rules Rules
	ends  time.Time // zero: never

	mu     sync.Mutex
	calls  int
	tokens int64
	joules float64
}

// New begins to count.
func New(rules Rules) *Guard {
	g := &Guard{rules: rules}
	if rules.Time > 0 {
		g.ends = time.Now().Add(rules.Time)
	}
	return g
}

// Used are the calls and tokens so far.
func (g *Guard) Used() (calls int, tokens int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls, g.tokens
}

// Call counts one call, or refuses it.
func (g *Guard) Call() error {
	if !g.ends.IsZero() && !time.Now().Before(g.ends) {
		return g.late()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rules.Calls > 0 && g.calls >= g.rules.Calls {
		return refused(Calls, "all %d calls are used: raise the budget, or let the program end sooner", g.rules.Calls)
	}
	if g.rules.Tokens > 0 && g.tokens >= g.rules.Tokens {
		return g.spent()
	}
	if g.rules.Joules > 0 && g.joules >= g.rules.Joules {
		return refused(Joules, "%.1f joules are used, of %g: raise the budget, or let the program end sooner", g.joules, g.rules.Joules)
	}
	g.calls++
	return nil
}

// Spend counts tokens. The error says that they are more than there are.
func (g *Guard) Spend(tokens int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens += max(tokens, 0)
	if g.rules.Tokens > 0 && g.tokens > g.rules.Tokens {
		return g.spent()
	}
	return nil
}

// Burn counts joules. It is known what a call took once it has ended, so it is the next one that is refused.
func (g *Guard) Burn(joules float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joules += max(joules, 0)
}

func (g *Guard) late() error {
	return refused(Time, "the time of %s is over: raise the budget, or let the program do less", g.rules.Time)
}

func (g *Guard) spent() error {
	return refused(Tokens, "%d tokens are used, of %d: raise the budget, or ask for less", g.tokens, g.rules.Tokens)
}

// Path allows a path below a root, or refuses it. The guard looks at the name alone; fs holds it below the root.
func (g *Guard) Path(name string) error {
	clean := path.Clean(name)
	for _, rule := range g.rules.Paths {
		rule = path.Clean(rule)
		if ok, err := path.Match(rule, clean); ok && err == nil {
			return nil
		}
		inside := !path.IsAbs(clean) && clean != ".." && !strings.HasPrefix(clean, "../")
		if strings.HasPrefix(clean, rule+"/") || rule == "." && inside {
			return nil
		}
	}
	return refused(Paths, "%q: %s", name, allowed(name, g.rules.Paths))
}

// Command allows a command with its arguments, or refuses it.
func (g *Guard) Command(name string, args ...string) error {
	words := append([]string{name}, args...)
	for _, rule := range g.rules.Commands {
		want := strings.Fields(rule)
		if len(want) > 0 && len(words) >= len(want) && slices.Equal(words[:len(want)], want) {
			return nil
		}
	}
	return refused(Commands, "%q: %s", strings.Join(words, " "), allowed(name, g.rules.Commands))
}

func allowed(name string, list []string) string {
	if len(list) == 0 {
		return "none is allowed"
	}
	text := "allowed are " + strings.Join(list, ", ")
	if like := nearest.Name(name, list); like != "" {
		text += fmt.Sprintf("; did you mean %q?", like)
	}
	return text
}
