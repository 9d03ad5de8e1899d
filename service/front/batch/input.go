// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"regexp"

	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// The names of the dialects, as their fronts have them.
const (
	openAI    = "openai"
	anthropic = "anthropic"
)

// asked is a request of a batch.
type asked struct {
	customID string
	body     json.RawMessage
}

// forms read the line of an input, by the dialect. A fault says what keeps the line from being a request.
var forms = map[string]func(endpoint string, line []byte) (asked, *task.BatchFault){openAI: openAILine, anthropic: anthropicLine}

// maxCustomID bounds what a client calls a line, in bytes.
const maxCustomID = 512

// The codes of faults.
const (
	faultJSON      = "invalid_json_line"
	faultLarge     = "line_too_large"
	faultCustomID  = "invalid_custom_id"
	faultDuplicate = "duplicate_custom_id"
	faultMethod    = "invalid_method"
	faultURL       = "mismatched_url"
	faultBody      = "missing_body"
	faultEmpty     = "empty_file"
	faultMany      = "too_many_lines"
	faultGone      = "file_gone"
	faultExpired   = "batch_expired"
	faultCanceled  = "batch_cancelled"
	faultDeleted   = "deleted"
)

func faulty(code, format string, args ...any) *task.BatchFault {
	return &task.BatchFault{Code: code, Message: fmt.Sprintf(format, args...)}
}

// openAILine reads a line of a file.
func openAILine(endpoint string, line []byte) (a asked, fault *task.BatchFault) {
	var in struct {
		CustomID any             `json:"custom_id"`
		Method   any             `json:"method"`
		URL      any             `json:"url"`
		Body     json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return a, faulty(faultJSON, "the line is no JSON object: %s", task.Clip(err.Error(), 200))
	}
	id, _ := in.CustomID.(string)
	if id == "" || len(id) > maxCustomID {
		return a, faulty(faultCustomID, "the line needs a `custom_id`, a text of 1 to %d bytes that no other line has", maxCustomID)
	}
	a = asked{customID: id, body: in.Body}
	switch {
	case in.Method != http.MethodPost:
		return a, faulty(faultMethod, "`method` must be POST")
	case in.URL != endpoint:
		return a, faulty(faultURL, "`url` must be %s, the endpoint of the batch", endpoint)
	case lenient.Missing(in.Body):
		return a, faulty(faultBody, "the line needs a `body`, the request itself")
	}
	return a, nil
}

// customIDs are what Anthropic's document takes.
var customIDs = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// anthropicLine reads a request of a message batch.
func anthropicLine(_ string, line []byte) (a asked, fault *task.BatchFault) {
	var in struct {
		CustomID any             `json:"custom_id"`
		Params   json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return a, faulty(faultJSON, "it must be an object with custom_id and params")
	}
	id, _ := in.CustomID.(string)
	if !customIDs.MatchString(id) {
		return a, faulty(faultCustomID, "`custom_id` must have 1 to 64 letters, digits, _ and -")
	}
	a = asked{customID: id, body: in.Params}
	if lenient.Missing(in.Params) {
		a.body = json.RawMessage("{}") // which the front refuses by what it lacks
	}
	return a, nil
}

// rawLine is a line of an input, without its end.
type rawLine struct {
	at    int64
	bytes int64
	text  []byte // nil: it is longer than a line may be
}

// bom may stand at the beginning of a text.
var bom = []byte("\xef\xbb\xbf")

// rawLines yields the lines of an input that are not empty. Each text is valid until the next one. Of a line that is too long no more is held than may be.
func rawLines(r io.Reader, most int64) iter.Seq2[rawLine, error] {
	return func(yield func(rawLine, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		var text []byte
		for at := int64(0); ; {
			text = text[:0]
			line, size := rawLine{at: at}, int64(0)
			for more := true; more; {
				piece, err := in.ReadSlice('\n')
				size += int64(len(piece))
				if size <= most+int64(len("\r\n")+len(bom)) {
					text = append(text, piece...)
				}
				switch {
				case err == nil:
					more = false
				case errors.Is(err, bufio.ErrBufferFull):
				case errors.Is(err, io.EOF):
					more = false
					if size == 0 {
						return
					}
				default:
					yield(line, err)
					return
				}
			}
			at += size
			line.bytes = size
			if size <= most+int64(len("\r\n")+len(bom)) {
				body := text
				if line.at == 0 {
					body = bytes.TrimPrefix(body, bom)
				}
				line.at += int64(len(text) - len(body))
				line.text = bytes.TrimRight(body, "\r\n")
				line.bytes = int64(len(line.text))
				if len(bytes.TrimSpace(line.text)) == 0 {
					continue
				}
				if line.bytes > most {
					line.text = nil
				}
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

// The bounds of what is told and recorded of an input at a time.
const (
	maxFaults = 100
	chunk     = 1024
)

// read finds the lines of a batch's input, and records them (LO-436). It may be called again after a crash or an error: the same input gives the same lines.
func (r *run) read(ctx context.Context) error {
	b := r.record()
	in, err := r.f.o.Store.Open(r.artifact)
	if err != nil {
		if !task.HasCode(err, task.NotFound) {
			return err
		}
		return r.begun(ctx, b.Total, []task.BatchFault{*faulty(faultGone, "the input is not on the server any more")})
	}
	defer in.Close()
	var lines []task.Line
	var faults []task.BatchFault
	seen, total, sound := map[string]int{}, 0, 0
	for raw, err := range rawLines(in, r.f.o.LineBytes) {
		if err != nil {
			return fmt.Errorf("read the input of batch %s: %w", r.id, err)
		}
		if total++; total > maxLines {
			return r.begun(ctx, 0, []task.BatchFault{*faulty(faultMany, "a batch has at most %d lines: split it", maxLines)})
		}
		l := task.Line{Batch: r.id, N: total, At: raw.at, Bytes: raw.bytes, State: task.LineWaits}
		a, fault := r.parse(b, raw)
		if first := seen[a.customID]; first > 0 { // whatever else is wrong with it
			fault = faulty(faultDuplicate, "the custom_id %q is that of line %d", task.Clip(a.customID, 100), first)
			a.customID = "" // whose result is that line's
		}
		if l.CustomID = a.customID; a.customID != "" {
			seen[a.customID] = total
		}
		if fault == nil {
			sound++
		} else {
			fault.Line = total
			fault.Message = fmt.Sprintf("line %d: %s", total, fault.Message)
			l.State, l.Fault = task.LineFailed, fault
			if len(faults) < maxFaults {
				faults = append(faults, *fault)
			}
		}
		if lines = append(lines, l); len(lines) == chunk {
			if err := r.add(ctx, lines); err != nil {
				return err
			}
			lines = lines[:0]
		}
	}
	switch {
	case total == 0:
		return r.begun(ctx, 0, []task.BatchFault{*faulty(faultEmpty, "the file has no lines")})
	case sound == 0:
		return r.begun(ctx, total, faults)
	}
	if err := r.add(ctx, lines); err != nil {
		return err
	}
	return r.begun(ctx, total, nil)
}

func (r *run) parse(b task.BatchRecord, raw rawLine) (asked, *task.BatchFault) {
	if raw.text == nil {
		return asked{}, faulty(faultLarge, "it has %d bytes, and a line may have %d: shorten it, or raise limits.body_bytes", raw.bytes, r.f.o.LineBytes)
	}
	return forms[b.Dialect](b.Endpoint, raw.text)
}

// begun records that all lines are known, or why none is run.
func (r *run) begun(ctx context.Context, total int, faults []task.BatchFault) error {
	return r.change(ctx, func(b *task.BatchRecord) {
		b.BegunAt, b.Total, b.Faults = r.f.o.Now().UTC(), total, faults
	})
}
