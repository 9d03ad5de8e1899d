// SPDX-License-Identifier: GPL-3.0-or-later

// Package extract finds things in the answers of models: text, fenced code, JSON, a unified diff, a tagged part (LO-915). What is not there is a
// *NotFoundError.
package extract

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/utils/fs"
)

// maxTries bounds at how many places of an answer a JSON value may begin.
const maxTries = 200

// NotFoundError says what an answer has not.
type NotFoundError struct {
	What string // that was looked for
	Why  string // what there is instead, or what to ask for
	Err  error  // of what came closest, if anything did
}

func (e *NotFoundError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the answer has no %s: %s: %v", e.What, e.Why, e.Err)
	}
	return fmt.Sprintf("the answer has no %s: %s", e.What, e.Why)
}

func (e *NotFoundError) Unwrap() error { return e.Err }

// Text returns an answer without what is around it: a part between <think> tags at its beginning, a fence around the whole, space at its ends.
func Text(answer string) (string, error) {
	plain := withoutThoughts(answer)
	if blocks := Blocks(plain); len(blocks) == 1 && fencedWhole(plain) {
		plain = strings.TrimSpace(blocks[0].Code)
	}
	if plain == "" {
		return "", &NotFoundError{What: "text", Why: "it is empty, or has thoughts alone; ask again with more tokens"}
	}
	return plain, nil
}

func withoutThoughts(answer string) string {
	plain := strings.TrimSpace(answer)
	if rest, ok := strings.CutPrefix(plain, "<think>"); ok {
		_, plain, _ = strings.Cut(rest, "</think>")
	}
	return strings.TrimSpace(plain)
}

// fencedWhole reports whether a text begins and ends with a fence.
func fencedWhole(plain string) bool {
	last := plain[strings.LastIndexByte(plain, '\n')+1:]
	return strings.HasPrefix(plain, "```") && strings.HasPrefix(last, "```") || strings.HasPrefix(plain, "~~~") && strings.HasPrefix(last, "~~~")
}

// Block is a block of fenced code.
type Block struct {
	Language string `json:"language,omitempty"` // the first word behind the fence, in small letters
	Code     string `json:"code"`
}

// Blocks returns the blocks of fenced code, in their order. A block may be indented, as in a list; its lines lose that indent. A block that is not closed
// goes to the answer's end. Whole parsers of Markdown take seconds for what a model writes that repeats itself; this takes one pass.
func Blocks(answer string) []Block {
	var blocks []Block
	var fence, indent string // of the open block
	var code strings.Builder
	end := func() {
		blocks[len(blocks)-1].Code = code.String()
		code.Reset()
		fence = ""
	}
	for line := range strings.Lines(answer) {
		text := strings.TrimLeft(line, " \t")
		marks, info := fenceOf(text)
		switch {
		case fence == "" && marks != "" && !strings.ContainsRune(info, rune(marks[0])):
			fence, indent = marks, line[:len(line)-len(text)]
			language, _, _ := strings.Cut(info, " ")
			blocks = append(blocks, Block{Language: strings.ToLower(language)})
		case fence == "":
		case info == "" && strings.HasPrefix(marks, fence):
			end()
		default:
			same := 0
			for same < len(indent) && same < len(line) && line[same] == indent[same] {
				same++
			}
			code.WriteString(line[same:])
		}
	}
	if fence != "" {
		end()
	}
	return blocks
}

// fenceOf splits a line that begins with a fence.
func fenceOf(text string) (marks, info string) {
	for _, mark := range []string{"`", "~"} {
		if rest := strings.TrimLeft(text, mark); len(text)-len(rest) >= 3 {
			return text[:len(text)-len(rest)], strings.TrimSpace(rest)
		}
	}
	return "", ""
}

// Code returns the first block of fenced code in a language, or in any for "".
func Code(answer, language string) (string, error) {
	blocks := Blocks(answer)
	var others []string
	for _, b := range blocks {
		if language == "" || b.Language == strings.ToLower(language) {
			return b.Code, nil
		}
		others = append(others, b.Language)
	}
	what, why := "fenced code", "ask for code between lines of ```"
	if language != "" {
		what += " in " + language
		why = "ask for code between lines of ```, with " + language + " behind the first"
	}
	if len(others) > 0 {
		slices.Sort(others)
		why = fmt.Sprintf("there is code in: %s", strings.Join(slices.Compact(others), ", "))
	}
	return "", &NotFoundError{What: what, Why: why}
}

// JSON returns the first JSON object or array that fits, or, where nothing else is there, the whole as a JSON value. It may stand in a fence or between words.
// Without fits, any does.
func JSON(answer string, fits func([]byte) error) (json.RawMessage, error) {
	plain := withoutThoughts(answer)
	candidates := []string{plain}
	for _, b := range Blocks(plain) {
		candidates = append(candidates, strings.TrimSpace(b.Code))
	}
	var closest error
	for _, c := range candidates {
		if json.Valid([]byte(c)) {
			err := check(fits, []byte(c))
			if err == nil {
				return json.RawMessage(c), nil
			}
			closest = first(closest, err)
		}
	}
	tries := 0
	for at := 0; at < len(plain) && tries < maxTries; {
		next := strings.IndexAny(plain[at:], "{[")
		if next < 0 {
			break
		}
		at += next
		tries++
		var value json.RawMessage
		d := json.NewDecoder(strings.NewReader(plain[at:]))
		if d.Decode(&value) != nil {
			at++
			continue
		}
		err := check(fits, value)
		if err == nil {
			return value, nil
		}
		closest = first(closest, err)
		at++ // what fits may stand inside
	}
	if closest != nil {
		return nil, &NotFoundError{What: "JSON that fits", Why: "what there is does not", Err: closest}
	}
	return nil, &NotFoundError{What: "JSON", Why: "no whole value is in it; ask for JSON alone, or by a format, and with more tokens if the answer was cut off"}
}

func check(fits func([]byte) error, raw []byte) error {
	if fits == nil {
		return nil
	}
	return fits(raw)
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Diff returns the unified diff of an answer, as fs applies it.
func Diff(answer string) (string, error) {
	plain := withoutThoughts(answer)
	var closest error
	for _, b := range append(Blocks(plain), Block{Code: plain}) {
		diff, err := fs.FindDiff(b.Code)
		if err == nil {
			return diff, nil
		}
		closest = err
	}
	return "", &NotFoundError{What: "unified diff", Why: "ask for one, with the lines --- a/FILE, +++ b/FILE and @@ -LINE,COUNT +LINE,COUNT @@", Err: closest}
}

// Tag returns what stands between <name> and </name>, without the line ends around it. The first part counts; the same tag may stand inside of it.
func Tag(answer, name string) (string, error) {
	plain := withoutThoughts(answer)
	what := "<" + name + ">"
	if name == "" || strings.ContainsAny(name, "<>/ \t\r\n") {
		return "", &NotFoundError{What: what, Why: "this is not the name of a tag: take a word such as answer"}
	}
	begin, depth := -1, 0
	for at := 0; ; {
		next := strings.IndexByte(plain[at:], '<')
		if next < 0 {
			break
		}
		at += next
		opens, length := tagAt(plain[at:], name)
		switch {
		case length == 0:
			at++
			continue
		case opens:
			if depth++; depth == 1 {
				begin = at + length
			}
		case depth > 0:
			if depth--; depth == 0 {
				return strings.Trim(plain[begin:at], "\r\n"), nil
			}
		}
		at += length
	}
	if begin >= 0 {
		return "", &NotFoundError{What: "whole " + what, Why: "it is never closed; ask again with more tokens if the answer was cut off"}
	}
	return "", &NotFoundError{What: what, Why: fmt.Sprintf("ask for it by writing that the answer goes between <%s> and </%s>", name, name)}
}

// tagAt reads a tag of a name at the beginning of a text. A length of 0: it is none.
func tagAt(text, name string) (opens bool, length int) {
	rest, closes := strings.CutPrefix(text, "</")
	if !closes {
		rest = text[1:]
	}
	rest, ok := strings.CutPrefix(rest, name)
	if !ok || rest == "" || !strings.ContainsRune("> \t\r\n", rune(rest[0])) {
		return false, 0
	}
	end := strings.IndexAny(rest, "<>")
	if end < 0 || rest[end] != '>' {
		return false, 0
	}
	return !closes, len(text) - len(rest) + end + 1
}
