// SPDX-License-Identifier: GPL-3.0-or-later

package proof

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// bundleOf is the bundle of a run with these tokens.
func bundleOf(outcome string, keep bool, tokens ...string) *Bundle {
	text := strings.Join(tokens, "")
	b := &Bundle{
		Format: Format, TaskID: "t", Outcome: outcome, Request: Request{PromptSHA256: Digest([]byte("a <wish>"))},
		Transcript: Transcript{SHA256: Digest([]byte(text)), Bytes: len(text), Tokens: len(tokens), Kept: keep},
	}
	if keep {
		b.Transcript.Text = text
		at := 0
		for _, token := range tokens {
			at += len(token)
			b.Transcript.Ends = append(b.Transcript.Ends, at)
		}
	}
	return b
}

// texts are pieces of an answer.
func texts(tokens ...string) (pieces []Piece) {
	for _, token := range tokens {
		pieces = append(pieces, Piece{Text: token})
	}
	return pieces
}

// LO-301
func TestCompare(t *testing.T) {
	completed := []string{"ab", "cd", "e"}
	for name, c := range map[string]struct {
		outcome  string
		recorded []string
		keep     bool
		now      []string
		want     Verdict
	}{
		"the same":               {"completed", completed, true, []string{"ab", "cd", "e"}, Verdict{Match: true, Token: -1}},
		"the same, by digest":    {"completed", completed, false, []string{"ab", "cd", "e"}, Verdict{Match: true, Token: -1}},
		"cut otherwise":          {"completed", completed, true, []string{"abc", "de"}, Verdict{Match: true, Token: -1}},
		"another token":          {"completed", completed, true, []string{"ab", "cX", "e"}, Verdict{Token: 1, Want: "cd", Got: "cX"}},
		"another, by digest":     {"completed", completed, false, []string{"ab", "cX", "e"}, Verdict{Token: -1}},
		"shorter":                {"completed", completed, true, []string{"ab", "cd"}, Verdict{Token: 2, Want: "e"}},
		"longer":                 {"completed", completed, true, []string{"ab", "cd", "e", "f"}, Verdict{Token: 3, Got: "f"}},
		"nothing":                {"completed", completed, true, nil, Verdict{Token: 0, Want: "ab"}},
		"canceled, goes on":      {"canceled", []string{"ab", "cd"}, false, []string{"ab", "cd", "e"}, Verdict{Match: true, Partial: true, Token: -1}},
		"canceled, same":         {"canceled", []string{"ab", "cd"}, false, []string{"ab", "cd"}, Verdict{Match: true, Partial: true, Token: -1}},
		"canceled, differs":      {"canceled", []string{"ab", "cd"}, true, []string{"ab", "xx", "e"}, Verdict{Token: 1, Want: "cd", Got: "xx"}},
		"canceled before it ran": {"canceled", nil, false, []string{"ab"}, Verdict{Match: true, Partial: true, Token: -1}},
	} {
		require.Equal(t, c.want, alone(bundleOf(c.outcome, c.keep, c.recorded...).Compare(texts(c.now...), nil)), name)
	}
}

// alone is a verdict without what stands around its token.
func alone(v Verdict) Verdict {
	v.Before, v.Then, v.Now = "", "", ""
	return v
}

// LO-941
func TestADifferenceIsShownWithWhatStandsAroundIt(t *testing.T) {
	recorded := []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f", "g", "h", "i"}
	now := append(append([]string{}, recorded[:10]...), "X", "Y")
	v := bundleOf("completed", true, recorded...).Compare(texts(now...), nil)
	require.Equal(t, Verdict{Token: 10, Want: "a", Got: "X", Before: "23456789", Then: "abcdefgh", Now: "XY"}, v)
}

// LO-301
func TestCompareFindsTheFirstDifference(t *testing.T) {
	token := rapid.StringMatching(`[a-cé]{1,3}`)
	rapid.Check(t, func(t *rapid.T) {
		tokens := rapid.SliceOfN(token, 1, 20).Draw(t, "tokens")
		b := bundleOf("completed", true, tokens...)
		require.True(t, b.Compare(texts(tokens...), nil).Match)
		i := rapid.IntRange(0, len(tokens)-1).Draw(t, "at")
		other := append([]string{}, tokens...)
		other[i] += "z"
		require.Equal(t, Verdict{Token: i, Want: tokens[i], Got: other[i]}, alone(b.Compare(texts(other...), nil)))
	})
}

// LO-301
func TestCompareWithTokensFromElsewhere(t *testing.T) {
	b := bundleOf("completed", false, "ab", "cd")
	require.Equal(t, Verdict{Token: 1, Want: "cd", Got: "cX"}, alone(b.Compare(texts("ab", "cX"), texts("ab", "cd"))))
	require.Equal(t, Verdict{Token: -1}, b.Compare(texts("ab", "cX"), texts("other")), "tokens that are not the recorded ones prove nothing")

	b.Result = &Result{SHA256: Digest([]byte(`{"v":[1]}`))}
	require.True(t, b.CompareResult(json.RawMessage(`{"v": [1]}`)).Match)
	require.False(t, b.CompareResult(json.RawMessage(`{"v":[2]}`)).Match)
	require.False(t, b.CompareResult(nil).Match)
}

// LO-301
func TestWordsAreKeptWhereTheyAreTheOnes(t *testing.T) {
	b := bundleOf("completed", false, "ab")
	require.False(t, b.Keep(Words{Prompt: "another"}))
	require.False(t, b.Keep(Words{}))
	require.False(t, b.Keep(Words{Prompt: "a <wish>", Inputs: []string{"more"}}))
	require.False(t, b.Request.Kept)
	require.True(t, b.Keep(Words{Prompt: "a <wish>"}))
	require.Equal(t, "a <wish>", b.Request.Prompt)
	require.True(t, b.Request.Kept)
}

// LO-301
func TestABundleThatWasTamperedWithIsRefused(t *testing.T) {
	text, err := bundleOf("completed", true, "ab", "cd").Encode()
	require.NoError(t, err)
	whole := string(text)
	for name, change := range map[string][2]string{
		"no JSON":      {whole, "{"},
		"another form": {Format, "proof.v9"},
		"text":         {`"text":"abcd"`, `"text":"abce"`},
		"ends":         {`"ends":[2,4]`, `"ends":[4,2]`},
		"negative":     {`"ends":[2,4]`, `"ends":[-2,4]`},
		"beyond":       {`"ends":[2,4]`, `"ends":[2,5]`},
		"too few":      {`"ends":[2,4]`, `"ends":[4]`},
		"bytes":        {`"bytes":4`, `"bytes":5`},
	} {
		changed := strings.Replace(whole, change[0], change[1], 1)
		require.NotEqual(t, whole, changed, name)
		_, err := Decode([]byte(changed))
		require.Error(t, err, name)
	}
	_, err = Decode(text)
	require.NoError(t, err)
}

// LO-301
func FuzzDecodeProof(f *testing.F) {
	for _, keep := range []bool{true, false} {
		text, err := bundleOf("completed", keep, "ab", "é").Encode()
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte(`{"format":"llama-orch.proof.v1","transcript":{"kept":true,"ends":[9]}}`))
	f.Add([]byte(`{"format":"llama-orch.proof.v1","transcript":{"kept":true,"text":"ab","ends":[1,2],"runs":[{"from":1,"tokens":9,"kind":"reasoning"}]}}`))
	f.Add([]byte(`{"format":"llama-orch.proof.v1","request":{"messages":[{"role":"user","content":[{"type":"image","data":"AAAA"}]}]},"transcript":{}}`))
	f.Add([]byte(`{"format":"llama-orch.proof.v1","outcome":"failed","transcript":{"tokens":-1}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := Decode(text)
		if err != nil {
			return
		}
		b.Compare(texts("ab", "x"), nil)
		again, err := b.Encode()
		require.NoError(t, err)
		_, err = Decode(again)
		require.NoError(t, err)
	})
}
