// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"fmt"
	"strconv"

	"github.com/llama-orch/llama-orch/service/task"
)

// Verdict is what a comparison of two runs found.
type Verdict struct {
	Match   bool
	Partial bool // the recorded run ended early, and the other begins with all it had
	// Token is the number of the first token that differs, counted from 0; -1 where they match, or where the bundle keeps
	// no transcript to tell by.
	Token     int
	Want, Got string // that token as it was recorded, and in the other run; empty where a run had ended
}

// Compare compares a bundle with what another run answered (LO-301). A task that ended early matches a run that begins as it
// did.
func Compare(p Proof, got task.Transcript) Verdict {
	early := p.Outcome != task.Completed
	if early && len(got.Ends) > p.Transcript.Tokens {
		end := 0
		if p.Transcript.Tokens > 0 {
			end = got.Ends[p.Transcript.Tokens-1]
		}
		if digest([]byte(got.Text[:end])) == p.Transcript.SHA256 {
			return Verdict{Match: true, Partial: true, Token: -1}
		}
	}
	if digest([]byte(got.Text)) == p.Transcript.SHA256 {
		return Verdict{Match: true, Partial: early, Token: -1}
	}
	if !p.Transcript.Kept {
		return Verdict{Token: -1}
	}
	want := task.Transcript{Text: p.Transcript.Text, Ends: p.Transcript.Ends}
	for i := range max(len(want.Ends), len(got.Ends)) {
		a, b := piece(want, i), piece(got, i)
		if a != b || i >= len(want.Ends) || i >= len(got.Ends) {
			return Verdict{Token: i, Want: a, Got: b}
		}
	}
	return Verdict{Token: -1} // only where a transcript's ends are not those of its text
}

// piece is token i of a transcript, empty behind its end.
func piece(t task.Transcript, i int) string {
	if i >= len(t.Ends) {
		return ""
	}
	from := 0
	if i > 0 {
		from = t.Ends[i-1]
	}
	return t.Text[from:t.Ends[i]]
}

func (v Verdict) String() string {
	switch {
	case v.Match && v.Partial:
		return "match, as far as the recorded run got"
	case v.Match:
		return "match"
	case v.Token < 0:
		return "the runs differ; the bundle keeps no transcript that says where"
	}
	return fmt.Sprintf("the runs differ at token %d: recorded %s, now %s", v.Token, orEnd(v.Want), orEnd(v.Got))
}

func orEnd(s string) string {
	if s == "" {
		return "nothing"
	}
	return strconv.Quote(s)
}
