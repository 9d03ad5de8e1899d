// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"

	"github.com/cucumber/godog"

	"github.com/llama-orch/llama-orch/harness/watch"
)

func (w *world) batchSteps(step define) {
	step(`^I upload a file "([^"]*)" of (\d+) completions of (\d+) tokens$`, w.iUploadCompletions)
	step(`^I upload a file "([^"]*)" of$`, w.iUpload)
	step(`^a file of (\d+) bytes is refused with (\d+) and "([^"]*)"$`, w.aFileIsRefused)
	step(`^a message batch is refused with (\d+) and "([^"]*)"$`, w.aMessageBatchIsRefused)
	step(`^I delete the file "([^"]*)", which is answered with (\d+)$`, w.iDeleteTheFile)
	step(`^I make a batch "([^"]*)" of the file "([^"]*)"$`, w.iMakeABatch)
	step(`^I make a batch "([^"]*)" of the file "([^"]*)" with the window "([^"]*)"$`, w.iMakeABatchWithin)
	step(`^I make a message batch "([^"]*)" of (\d+) requests$`, w.iMakeAMessageBatch)
	step(`^I cancel the batch "([^"]*)"$`, w.iCancelTheBatch)
	step(`^I cancel the message batch "([^"]*)"$`, w.iCancelTheMessageBatch)
	step(`^the batch "([^"]*)" comes to have$`, w.theBatchComesToHave)
	step(`^the message batch "([^"]*)" comes to have$`, w.theMessageBatchComesToHave)
	step(`^at least (\d+) lines of the batch "([^"]*)" have completed$`, w.linesHaveCompleted)
	step(`^the results of the batch "([^"]*)" have each of (\d+) lines once$`, w.eachLineOnce)
	step(`^the results of the message batch "([^"]*)" have each of (\d+) requests once$`, w.eachRequestOnce)
	step(`^the outputs of the batches "([^"]*)" and "([^"]*)" say the same$`, w.theOutputsAgree)
	step(`^the error of the line "([^"]*)" of the batch "([^"]*)" says "([^"]*)"$`, w.theErrorSays)
}

// ask sends a request to a front, and reads the object that it answers with. The native API's steps do not look at it.
func (w *world) ask(method, path, contentType string, body []byte) (status int, text []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), watch.Patience)
	defer cancel()
	r, err := w.request(ctx, method, path, nil, body)
	if err != nil {
		return 0, nil, err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	res, err := w.daemon.client.Do(r)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	if text, err = io.ReadAll(res.Body); err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return res.StatusCode, text, nil
}

// done is ask for what must be answered with 200.
func (w *world) done(method, path, contentType string, body []byte, into any) error {
	status, text, err := w.ask(method, path, contentType, body)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s %s is answered with %d: %s", method, path, status, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// named is what has an id.
type named struct {
	ID string `json:"id"`
}

func (w *world) iUploadCompletions(name string, lines, tokens int) error {
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, `{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"model":"haiku","prompt":"A haiku about frog %d","max_tokens":%d,"seed":%d}}`+"\n", i+1, i+1, tokens, i)
	}
	return w.upload(name, b.String())
}

func (w *world) iUpload(name string, text *godog.DocString) error {
	return w.upload(name, text.Content)
}

func (w *world) upload(name, content string) error {
	kind, form, err := formOf(name, content)
	if err != nil {
		return err
	}
	var got named
	err = w.done(http.MethodPost, "/v1/files", kind, form, &got)
	w.kept["file "+name] = got.ID
	return err
}

// formOf is the form that uploads a file, and its media type.
func formOf(name, content string) (kind string, text []byte, err error) {
	var form bytes.Buffer
	to := multipart.NewWriter(&form)
	file, err := to.CreateFormFile("file", name+".jsonl")
	if err == nil {
		_, err = io.WriteString(file, content)
	}
	if err = errors.Join(err, to.WriteField("purpose", "batch"), to.Close()); err != nil {
		return "", nil, fmt.Errorf("write a form: %w", err)
	}
	return to.FormDataContentType(), form.Bytes(), nil
}

func (w *world) aFileIsRefused(bytes, status int, says string) error {
	kind, form, err := formOf("large", strings.Repeat("x", bytes))
	if err != nil {
		return err
	}
	return w.refused("/v1/files", kind, form, status, says)
}

func (w *world) aMessageBatchIsRefused(status int, says string) error {
	return w.refused("/v1/messages/batches", "application/json", requests(1), status, says)
}

func (w *world) refused(path, contentType string, body []byte, want int, says string) error {
	status, text, err := w.ask(http.MethodPost, path, contentType, body)
	if err == nil && (status != want || !bytes.Contains(text, []byte(says))) {
		err = fmt.Errorf("%s is answered with %d: %s", path, status, text)
	}
	return err
}

func (w *world) iDeleteTheFile(name string, want int) error {
	status, text, err := w.ask(http.MethodDelete, "/v1/files/"+w.kept["file "+name], "", nil)
	if err == nil && status != want {
		err = fmt.Errorf("it is answered with %d: %s", status, text)
	}
	return err
}

func (w *world) iMakeABatch(name, file string) error { return w.iMakeABatchWithin(name, file, "24h") }

func (w *world) iMakeABatchWithin(name, file, window string) error {
	body := fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/completions","completion_window":%q}`, w.kept["file "+file], window)
	var got named
	err := w.done(http.MethodPost, "/v1/batches", "application/json", []byte(body), &got)
	w.kept["batch "+name] = "/v1/batches/" + got.ID
	return err
}

// requests are the body of a message batch.
func requests(n int) []byte {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`{"custom_id":"c%d","params":{"model":"haiku","max_tokens":4,"messages":[{"role":"user","content":"Frog %d"}]}}`, i+1, i+1))
	}
	return []byte(`{"requests":[` + strings.Join(all, ",") + `]}`)
}

func (w *world) iMakeAMessageBatch(name string, n int) error {
	var got named
	err := w.done(http.MethodPost, "/v1/messages/batches", "application/json", requests(n), &got)
	w.kept["batch "+name] = "/v1/messages/batches/" + got.ID
	return err
}

func (w *world) iCancelTheBatch(name string) error {
	var got named
	return w.done(http.MethodPost, w.kept["batch "+name]+"/cancel", "application/json", []byte("{}"), &got)
}

func (w *world) iCancelTheMessageBatch(name string) error { return w.iCancelTheBatch(name) }

// theBatchComesToHave polls until the batch is as the table has it.
func (w *world) theBatchComesToHave(name string, t *godog.Table) error {
	rows, err := w.rows(t)
	if err != nil {
		return err
	}
	return w.batchUntil(name, func(b any) error {
		for _, r := range rows {
			if err := match(dig(b, r.name), r.value); err != nil {
				return fmt.Errorf("%s: %w, in %v", r.name, err, b)
			}
		}
		return nil
	})
}

func (w *world) theMessageBatchComesToHave(name string, t *godog.Table) error {
	return w.theBatchComesToHave(name, t)
}

// batchUntil polls a batch until it is so.
func (w *world) batchUntil(name string, so func(b any) error) error {
	return poll("batch "+name, func() error {
		status, text, err := w.ask(http.MethodGet, w.kept["batch "+name], "", nil)
		if err != nil || status != http.StatusOK {
			return errors.Join(err, fmt.Errorf("it is answered with %d: %s", status, text))
		}
		b, err := decode(text)
		if err != nil {
			return err
		}
		return so(b)
	})
}

func (w *world) linesHaveCompleted(n int, name string) error {
	return w.batchUntil(name, func(b any) error { return match(dig(b, "request_counts.completed"), fmt.Sprintf(">= %d", n)) })
}

// outcome is a line of results, of either dialect.
type outcome struct {
	CustomID string          `json:"custom_id"`
	Response json.RawMessage `json:"response"`
	Error    json.RawMessage `json:"error"`
	Result   json.RawMessage `json:"result"`
}

// outcomes are the lines of a file of results.
func (w *world) outcomes(path string) (all []outcome, err error) {
	status, text, err := w.ask(http.MethodGet, path, "", nil)
	if err != nil || status != http.StatusOK {
		return nil, errors.Join(err, fmt.Errorf("%s is answered with %d: %.300s", path, status, text))
	}
	for line := range bytes.Lines(text) {
		var o outcome
		if err := json.Unmarshal(line, &o); err != nil {
			return nil, fmt.Errorf("the line %q: %w", line, err)
		}
		all = append(all, o)
	}
	return all, nil
}

// results are the lines of the output file and the error file of a batch, where it has them.
func (w *world) results(name string) (output, faults []outcome, err error) {
	var b struct {
		Output string `json:"output_file_id"`
		Errors string `json:"error_file_id"`
	}
	if err := w.done(http.MethodGet, w.kept["batch "+name], "", nil, &b); err != nil {
		return nil, nil, err
	}
	if b.Output != "" {
		if output, err = w.outcomes("/v1/files/" + b.Output + "/content"); err != nil {
			return nil, nil, err
		}
	}
	if b.Errors != "" {
		faults, err = w.outcomes("/v1/files/" + b.Errors + "/content")
	}
	return output, faults, err
}

// once says whether the results have those that were asked for, c1, c2 and so on, each once.
func once(all []outcome, n int) error {
	var got, want []string
	for _, o := range all {
		got = append(got, o.CustomID)
	}
	for i := range n {
		want = append(want, fmt.Sprint("c", i+1))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("there are results of %q", got)
	}
	return nil
}

func (w *world) eachLineOnce(name string, n int) error {
	output, faults, err := w.results(name)
	if err != nil {
		return err
	}
	return once(append(output, faults...), n)
}

func (w *world) eachRequestOnce(name string, n int) error {
	all, err := w.outcomes(w.kept["batch "+name] + "/results")
	if err != nil {
		return err
	}
	return once(all, n)
}

// theOutputsAgree compares what the completions of two batches say, line by line.
func (w *world) theOutputsAgree(one, other string) error {
	said := func(name string) (all []string, err error) {
		output, _, err := w.results(name)
		for _, o := range output {
			var r struct {
				Body struct {
					Choices []struct {
						Text string `json:"text"`
					} `json:"choices"`
				} `json:"body"`
			}
			if err := json.Unmarshal(o.Response, &r); err != nil || len(r.Body.Choices) != 1 || r.Body.Choices[0].Text == "" {
				return nil, errors.Join(fmt.Errorf("line %s says nothing: %s", o.CustomID, o.Response), err)
			}
			all = append(all, o.CustomID+" "+r.Body.Choices[0].Text)
		}
		return all, err
	}
	a, err := said(one)
	if err != nil {
		return err
	}
	b, err := said(other)
	if err != nil {
		return err
	}
	if len(a) == 0 || !slices.Equal(a, b) {
		return fmt.Errorf("they say %q and %q", a, b)
	}
	return nil
}

func (w *world) theErrorSays(line, name, part string) error {
	_, faults, err := w.results(name)
	if err != nil {
		return err
	}
	for _, o := range faults {
		if o.CustomID == line {
			if text := string(o.Response) + string(o.Error); !strings.Contains(text, part) {
				return fmt.Errorf("it says %s", text)
			}
			return nil
		}
	}
	return fmt.Errorf("the error file has no line %q", line)
}
