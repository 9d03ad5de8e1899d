// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/service/contain"
	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/task"
)

// result is what came of a line.
type result struct {
	line   task.Line
	status int             // of what its client would have got; 0: it never got so far, and fault says why
	body   json.RawMessage // the same
	fault  *task.BatchFault
}

// The files of results that OpenAI's clients see (LO-439).
func inOutput(s task.LineState) bool { return s == task.LineCompleted }
func inErrors(s task.LineState) bool { return s != task.LineCompleted }
func inBoth(task.LineState) bool     { return true }

// results yields what came of the lines of a batch that are wanted, in their order.
func (f *Feeder) results(ctx context.Context, b task.BatchRecord, wanted func(task.LineState) bool, do func(result) error) error {
	for filter := (task.LineFilter{Limit: pageOfLines}); ; {
		page, err := f.o.Records.Lines(ctx, b.ID, filter)
		if err != nil {
			return f.unwritten(err)
		}
		if len(page) == 0 {
			return nil
		}
		filter.After = page[len(page)-1].N
		for _, l := range page {
			if !l.State.Final() || !wanted(l.State) {
				continue
			}
			r, err := f.result(ctx, b, l)
			if err == nil {
				err = do(r)
			}
			if err != nil {
				return err
			}
		}
	}
}

// result is what came of a line.
func (f *Feeder) result(ctx context.Context, b task.BatchRecord, l task.Line) (result, error) {
	r := result{line: l, status: l.Status, body: l.Refusal, fault: l.Fault}
	switch {
	case l.Fault != nil || l.Status != 0:
		return r, nil
	case l.State == task.LineExpired:
		r.fault = faulty(faultExpired, "This request could not be executed before the completion window expired.")
		return r, nil
	case l.State == task.LineCanceled:
		r.fault = faulty(faultCanceled, "This request was not executed because the batch, or its task, was canceled.")
		return r, nil
	}
	record, ok, err := f.o.Records.Get(ctx, l.TaskID())
	switch {
	case task.HasCode(err, task.Internal): // a damaged record, and the error says what to do
		f.refuse(&r, b, err)
	case err != nil:
		return r, f.unwritten(err)
	case !ok || record.Deleted != nil:
		r.fault = faulty(faultDeleted, "What was asked and answered here was deleted from the server's record.")
	case record.Err != nil:
		f.refuse(&r, b, record.Err)
	default:
		r.body, err = contain.Try(func() (json.RawMessage, error) {
			return exchange.JSON(f.o.Dialects[b.Dialect].LineAnswer(b.Endpoint, record)), nil
		})
		if r.status = http.StatusOK; err != nil {
			f.log.Error("the result of a line cannot be made", zap.String("job_id", record.Task.ID), zap.Error(err))
			f.refuse(&r, b, err)
		}
	}
	return r, nil
}

func (f *Feeder) refuse(r *result, b task.BatchRecord, err error) {
	status, body := f.o.Dialects[b.Dialect].LineRefusal(b.Endpoint, err, r.line.TaskID())
	r.status, r.body = status, exchange.JSON(body)
}

// output is a line of an output file or an error file of OpenAI's.
type output struct {
	ID       string          `json:"id"`
	CustomID string          `json:"custom_id"`
	Response *outputResponse `json:"response"`
	Error    *outputError    `json:"error"`
}

type outputResponse struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

type outputError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func outputOf(r result) any {
	out := output{ID: fmt.Sprintf("batch_req_%s_%d", strings.TrimPrefix(r.line.Batch, batchPrefix), r.line.N), CustomID: r.line.CustomID}
	if r.fault != nil {
		out.Error = &outputError{r.fault.Code, r.fault.Message}
	} else {
		out.Response = &outputResponse{r.status, r.line.TaskID(), r.body}
	}
	return out
}

// counting counts what is written to it.
type counting int64

// Write implements io.Writer.
func (c *counting) Write(p []byte) (int, error) {
	*c += counting(len(p))
	return len(p), nil
}

// sizes are those of the files of results; 0: there is none.
func (f *Feeder) sizes(ctx context.Context, b task.BatchRecord) (out, faults int64, err error) {
	if b.Dialect != openAI {
		return 0, 0, nil
	}
	var in [2]counting
	err = f.results(ctx, b, inBoth, func(r result) error {
		to := &in[0]
		if inErrors(r.line.State) {
			to = &in[1]
		}
		return writeLine(to, outputOf(r))
	})
	return int64(in[0]), int64(in[1]), err
}

func writeLine(w io.Writer, v any) error {
	_, err := w.Write(append(exchange.JSON(v), '\n'))
	return err
}

// send answers with results as JSONL, as they come.
func (f *Feeder) send(w http.ResponseWriter, r *http.Request, b task.BatchRecord, wanted func(task.LineState) bool, view func(result) any) error {
	out := &sending{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", linesType)
	err := f.results(r.Context(), b, wanted, func(one result) error { return writeLine(out, view(one)) })
	switch {
	case err == nil && !out.begun:
		w.WriteHeader(http.StatusOK)
	case err == nil:
	case !out.begun:
		return err
	default:
		f.log.Debug("an answer broke off", zap.Error(err))
		panic(http.ErrAbortHandler) // nobody may take it for whole
	}
	return nil
}

// linesType is the type of JSON line by line.
const linesType = "application/jsonl"
