// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/sdk"
)

// answer shows a task's stream: tokens and calls of tools go to stdout; the wait, the thinking and the summary to stderr.
type answer struct {
	*app
	submitted time.Time // about the time of admission, from which predictions count; zero: unknown
	plainOut  bool      // stdout is a terminal: only text may reach it, and the answer ends with a line feed
	lineErr   bool      // stderr is a terminal: the wait is shown in one changing line
	oneFile   bool      // stdout and stderr are one file, such as a log's
	waiting   string    // the wait as it was last shown
	ended     bool      // the last text ended in a line feed, or there was no text
	thinking  bool      // the last text was of the thinking
	thought   bool      // and it ended in a line feed
}

func (a *app) answer(submitted time.Time) *answer {
	a.view = &answer{app: a, submitted: submitted, plainOut: terminal(a.out), lineErr: terminal(a.err), oneFile: oneFile(a.out, a.err), ended: true}
	return a.view
}

// lost tells a user who watches that the connection is gone and will be made again.
func (a *app) lost(_ error, wait time.Duration) {
	if v := a.view; v != nil && !v.json {
		v.endLine()
		v.wait("connection lost, trying again in " + duration(wait.Milliseconds()))
	}
}

// follow streams the task to its end. A task that ended without an answer is an *sdk.Error.
func (v *answer) follow(id, after string) error {
	for event, err := range v.client.Stream(v.ctx, id, after) {
		if err == nil {
			err = v.show(event)
		}
		if err != nil {
			v.clear()
			v.endLine()
			return err
		}
	}
	return nil
}

func (v *answer) show(event sdk.Event) error {
	if v.json {
		if err := v.printJSON(event.Wire()); err != nil {
			return err
		}
		if e, ok := event.(sdk.ErrorEvent); ok {
			return e.Err
		}
		return nil
	}
	switch e := event.(type) {
	case sdk.Started:
		if e.QueuePosition > 0 || e.PredictedStartMS > 0 {
			v.wait(v.place(e.QueuePosition, e.PredictedStartMS))
		}
	case sdk.Metrics:
		switch e.Phase {
		default:
		case sdk.PhaseQueued:
			v.wait(v.place(e.QueuePosition, e.PredictedStartMS))
		case sdk.PhaseLoading:
			v.wait(v.loading(e))
		case sdk.PhasePrefill:
			v.wait("reading the prompt")
		}
	case sdk.Token:
		return v.text(e.Text)
	case sdk.Reasoning:
		v.think(e.Text)
	case sdk.End:
		v.clear()
		if len(e.Result) > 0 {
			if err := v.text(string(e.Result) + "\n"); err != nil {
				return err
			}
		}
		if err := v.calls(e.ToolCalls); err != nil {
			return err
		}
		v.endLine()
		v.note("%s", summary(e))
	case sdk.ErrorEvent:
		return e.Err
	}
	return nil
}

func (v *answer) place(position int, startMS int64) string {
	line := "next in line"
	if position > 0 {
		line = fmt.Sprintf("%d ahead in line", position)
	}
	if !v.submitted.IsZero() {
		startMS -= time.Since(v.submitted).Milliseconds()
	}
	if startMS > 0 {
		line += ", starts in about " + duration(startMS)
	}
	return line
}

func (v *answer) loading(e sdk.Metrics) string {
	line := "the model is being loaded"
	if e.LoadProgress != nil {
		line += fmt.Sprintf(", %d %%", int(*e.LoadProgress*100))
	}
	return line + "; " + v.place(e.QueuePosition, e.PredictedStartMS)
}

// wait shows what the task waits for. On a terminal it uses one changing line; elsewhere it only speaks if asked to.
func (v *answer) wait(line string) {
	switch {
	case line == v.waiting:
		return
	case v.lineErr:
		v.endThinking()
		fmt.Fprintf(v.err, "\r\x1b[K%s", clip(line, columns(v.err)-1))
	case v.verbose:
		v.note("%s", line)
	default:
		return
	}
	v.waiting = line
}

// clear removes the changing line.
func (v *answer) clear() {
	if v.lineErr && v.waiting != "" {
		fmt.Fprint(v.err, "\r\x1b[K")
	}
	v.waiting = ""
}

// dim and bright switch a terminal to faint letters and back.
const (
	dim    = "\x1b[2m"
	bright = "\x1b[22m"
)

// think shows a piece of the thinking, dimmed on a terminal.
func (v *answer) think(s string) {
	v.clear()
	if !v.thinking {
		v.endLine()
	}
	shown := s
	if v.colours(v.lineErr) {
		shown = dim + strings.Map(visible, s) + bright
	}
	fmt.Fprint(v.err, shown) // if stderr cannot be written, there is nothing to do about it
	v.thinking, v.thought = true, strings.HasSuffix(s, "\n")
}

// calls shows the calls of tools, one a line, each with the id that its result needs.
func (v *answer) calls(calls []sdk.Call) error {
	for _, c := range calls {
		line := ""
		if !v.ended {
			line = "\n"
		}
		if err := v.text(line + oneLine(fmt.Sprintf("call %s %s as %s", c.Name, c.Arguments, c.ID)) + "\n"); err != nil {
			return err
		}
	}
	return nil
}

func (v *answer) text(s string) error {
	v.clear()
	v.endThinking()
	if v.plainOut {
		s = strings.Map(visible, s)
	}
	if _, err := io.WriteString(v.out, s); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	if s != "" {
		v.ended = strings.HasSuffix(s, "\n")
	}
	return nil
}

// endThinking ends the thinking's last line.
func (v *answer) endThinking() {
	if v.thinking && !v.thought {
		fmt.Fprintln(v.err)
	}
	v.thinking = false
}

// endLine ends the answer's last line on a terminal, and where what comes next goes to the same file. Elsewhere the answer stays as it is, byte for
// byte. It ends the thinking's last line everywhere.
func (v *answer) endLine() {
	v.endThinking()
	if (v.plainOut || v.oneFile) && !v.ended {
		fmt.Fprintln(v.out)
		v.ended = true
	}
}

// oneFile reports whether two writers write to one file.
func oneFile(a, b io.Writer) bool {
	var infos [2]os.FileInfo
	for i, w := range []io.Writer{a, b} {
		f, ok := w.(*os.File)
		if !ok {
			return false
		}
		info, err := f.Stat()
		if err != nil {
			return false
		}
		infos[i] = info
	}
	return os.SameFile(infos[0], infos[1])
}

// receiptDigits is the number of digits of the transcript's hash in the summary.
const receiptDigits = 12

func summary(e sdk.End) string {
	hash := e.Receipt.TranscriptSHA256
	line := fmt.Sprintf("%s, %s, %s, seed %d, receipt %s", plural(e.TokensOut, "token"), duration(e.DecodeTimeMS),
		e.Receipt.ReplicaID, e.Receipt.Seed, hash[:min(len(hash), receiptDigits)])
	if e.EnergyJ != nil {
		line += ", " + joules(*e.EnergyJ)
	}
	if e.FinishReason == sdk.FinishReasonLength {
		line += ", cut at the length limit"
	}
	return line
}
