// SPDX-License-Identifier: GPL-3.0-or-later

package scripted

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Script says what the engine answers. The first rule that matches a request is played.
type Script struct {
	Rules []Rule `json:"rules"`
}

// Rule is an answer to the requests that it matches. A rule that asks nothing matches every request.
type Rule struct {
	// Match is a text in the last message of a user or a tool. In a plain prompt that is the last turn, or all of it where it has none.
	Match string `json:"match,omitempty"`
	Role  string `json:"role,omitempty"` // whose message the last one is: user or tool
	// Contains is a text anywhere in the rendered prompt.
	Contains string `json:"contains,omitempty"`
	Tools    *bool  `json:"tools,omitempty"` // whether the request may call tools
	Times    int    `json:"times,omitempty"` // so many requests have this rule, and then it matches no more; 0: all
	Play     []Step `json:"play"`
	// Finish is the reason of the end: stop, length or tool_calls. Empty: what the answer is.
	Finish string `json:"finish,omitempty"`
}

// Step is one thing that happens. Exactly one of its fields says what, and Once and OnceFile say how often.
type Step struct {
	Text      string `json:"text,omitempty"`      // a piece of the answer
	Reasoning string `json:"reasoning,omitempty"` // a piece of the thinking
	Call      *Call  `json:"call,omitempty"`      // a piece of a tool call
	PauseMS   int    `json:"pause_ms,omitempty"`
	Wait      bool   `json:"wait,omitempty"` // waits for Release
	Ping      bool   `json:"ping,omitempty"` // a comment
	// Error is the engine's error: the answer's status where nothing was sent yet, else an error frame. It ends the answer.
	Error *Failure `json:"error,omitempty"`
	Die   bool     `json:"die,omitempty"`  // cuts the connection
	Exit  int      `json:"exit,omitempty"` // ends the process with this code
	Raw   string   `json:"raw,omitempty"`  // these bytes as one frame's data
	// Cut cuts a text, a reasoning or arguments into pieces of so many runes. 0: one piece.
	Cut int `json:"cut,omitempty"`
	// Once: a fault that happens the first time only that this engine plays the step. OnceFile is the same over all engines of a
	// machine: it does not happen where the file exists, and makes it.
	Once     bool   `json:"once,omitempty"`
	OnceFile string `json:"once_file,omitempty"`
}

// Call is a piece of a tool call: the name in the first one, and then arguments.
type Call struct {
	N         int    `json:"n"`
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments,omitempty"`
}

// Failure is an error of the engine.
type Failure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Type    string `json:"type,omitempty"`
}

// Parse reads a script and refuses one that says what nobody can play.
func Parse(data []byte) (s Script, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("read the script: %w", err)
	}
	return s, s.check()
}

// ReadFile reads a script from a file.
func ReadFile(path string) (Script, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Script{}, fmt.Errorf("read the script: %w", err)
	}
	return Parse(data)
}

func (s Script) check() error {
	for i, r := range s.Rules {
		switch r.Finish {
		case "", finishStop, finishLength, finishCalls:
		default:
			return fmt.Errorf("rule %d: finish is %q, and can be stop, length or tool_calls", i, r.Finish)
		}
		for at, step := range r.Play {
			if err := step.check(); err != nil {
				return fmt.Errorf("rule %d, step %d: %w", i, at, err)
			}
		}
	}
	return nil
}

func (s Step) check() error {
	said := 0
	for _, is := range []bool{
		s.Text != "", s.Reasoning != "", s.Call != nil, s.PauseMS > 0, s.Wait, s.Ping, s.Error != nil, s.Die, s.Exit != 0, s.Raw != "",
	} {
		if is {
			said++
		}
	}
	switch {
	case said != 1:
		return fmt.Errorf("it says %d things, and has to say one", said)
	case s.Call != nil && s.Call.N < 0:
		return errors.New("the number of a call is below 0")
	case s.Cut < 0:
		return errors.New("cut is below 0")
	}
	return nil
}

// asked is what of a request decides which rule is played.
type asked struct {
	prompt, last, role string
	tools              bool
}

func (r Rule) matches(a asked, played int) bool {
	switch {
	case r.Times > 0 && played >= r.Times,
		r.Role != "" && r.Role != a.role,
		r.Tools != nil && *r.Tools != a.tools:
		return false
	}
	return strings.Contains(a.last, r.Match) && strings.Contains(a.prompt, r.Contains)
}

// cut cuts a text into pieces of so many runes.
func cut(text string, runes int) (pieces []string) {
	if runes <= 0 {
		return []string{text}
	}
	all := []rune(text)
	for len(all) > 0 {
		n := min(runes, len(all))
		pieces = append(pieces, string(all[:n]))
		all = all[n:]
	}
	return pieces
}
