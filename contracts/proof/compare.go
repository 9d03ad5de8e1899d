// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"bytes"
	"encoding/json"
)

// Words are the parts of a request that a bundle may hold by their digests alone. Of other JSON than a request's body it
// takes the fields of these names.
type Words struct {
	Prompt   string    `json:"prompt"`
	Messages []Message `json:"messages"`
	Inputs   []string  `json:"inputs"`
	Chat
}

// Keep puts a request's words into a bundle that has only their digests, and reports whether they are the ones.
func (b *Bundle) Keep(w Words) bool {
	has := func(sum string, there bool, of func() string) bool {
		return sum == "" && !there || there && sum == of()
	}
	r := &b.Request
	if !has(r.PromptSHA256, w.Prompt != "", func() string { return Digest([]byte(w.Prompt)) }) ||
		!has(r.MessagesSHA256, len(w.Messages) > 0, func() string { return DigestMessages(w.Messages) }) ||
		!has(r.InputsSHA256, len(w.Inputs) > 0, func() string { return DigestInputs(w.Inputs) }) ||
		!has(r.ChatSHA256, !w.Empty(), func() string { return DigestChat(w.Chat) }) {
		return false
	}
	r.Prompt, r.Messages, r.Inputs, r.Kept = w.Prompt, w.Messages, w.Inputs, true
	if r.ChatSHA256 != "" {
		chat := w.plain()
		r.Chat = &chat
	}
	return true
}

// SameWords reports whether both bundles are of requests that asked the same.
func (b *Bundle) SameWords(other *Bundle) bool {
	a, o := b.Request, other.Request
	return a.PromptSHA256 == o.PromptSHA256 && a.MessagesSHA256 == o.MessagesSHA256 && a.InputsSHA256 == o.InputsSHA256 && a.ChatSHA256 == o.ChatSHA256
}

// Verdict is what a comparison of two runs found.
type Verdict struct {
	Match   bool `json:"match"`
	Partial bool `json:"partial"` // the recorded run ended early, and the other begins with all it had
	// Token is the first token that differs, from 0; -1 where they match, or where nobody knows.
	Token int    `json:"token"`
	Want  string `json:"want"` // that token as it was recorded, as Piece.String words it; empty where that run had ended
	Got   string `json:"got"`
	// Where a token differs: the text of some tokens before it, which both runs have, and of some from it on, as they were recorded and as they came now.
	Before string `json:"before,omitempty"`
	Then   string `json:"then,omitempty"`
	Now    string `json:"now,omitempty"`
}

// around is how many tokens a Verdict shows on each side of the one that differs.
const around = 8

// Compare compares a bundle with the tokens of another run (LO-301). Recorded are the bundle's own, from elsewhere, where it
// does not keep them; nil where nobody does. A task that ended early matches a run that begins as it did.
func (b *Bundle) Compare(got, recorded []Piece) Verdict {
	early, t := b.Outcome != "completed", b.Transcript
	if early && t.Tokens >= 0 && len(got) > t.Tokens && digestOf(got[:t.Tokens]) == t.SHA256 {
		return Verdict{Match: true, Partial: true, Token: -1}
	}
	if digestOf(got) == t.SHA256 {
		return Verdict{Match: true, Partial: early, Token: -1}
	}
	if t.Kept {
		recorded = t.Pieces()
	} else if recorded == nil || digestOf(recorded) != t.SHA256 {
		return Verdict{Token: -1}
	}
	for i := range max(len(got), len(recorded)) {
		if i >= len(recorded) || i >= len(got) || got[i] != recorded[i] {
			return Verdict{
				Token: i, Want: at(recorded, i), Got: at(got, i),
				Before: joined(got, i-around, i), Then: joined(recorded, i, i+around), Now: joined(got, i, i+around),
			}
		}
	}
	return Verdict{Token: -1}
}

func at(pieces []Piece, i int) string {
	if i < len(pieces) {
		return pieces[i].String()
	}
	return ""
}

// joined are the texts of some pieces.
func joined(pieces []Piece, from, to int) (text string) {
	for i := max(from, 0); i < min(to, len(pieces)); i++ {
		text += pieces[i].Text
	}
	return text
}

// CompareResult compares the answer of a task that streams no tokens.
func (b *Bundle) CompareResult(got json.RawMessage) Verdict {
	var compact bytes.Buffer
	match := b.Result != nil && json.Compact(&compact, got) == nil && Digest(compact.Bytes()) == b.Result.SHA256
	return Verdict{Match: match, Token: -1}
}
