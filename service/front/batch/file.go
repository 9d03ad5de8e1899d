// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"cmp"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// What the ids of files begin with: of those that clients sent, and of the results of a batch, whose own id follows.
const (
	filePrefix   = "file-"
	outputPrefix = "file-output-"
	errorPrefix  = "file-error-"
)

// The purposes of files.
const (
	forBatch   = "batch"
	forResults = "batch_output"
)

// fileView is a file, in the dialect's words.
type fileView struct {
	ID        string `json:"id"`
	Object    string `json:"object"`
	Bytes     int64  `json:"bytes"`
	CreatedAt int64  `json:"created_at"`
	Name      string `json:"filename"`
	Purpose   string `json:"purpose"`
	Status    string `json:"status"`
}

func viewOf(f task.File) fileView {
	return fileView{ID: f.ID, Object: "file", Bytes: f.Bytes, CreatedAt: f.CreatedAt.Unix(), Name: f.Name, Purpose: forBatch, Status: "processed"}
}

// resultViews are the files of a batch's results.
func resultViews(b task.BatchRecord) (views []fileView) {
	for _, one := range []struct {
		id, name string
		bytes    int64
	}{{outputID(b), "output", b.OutputBytes}, {errorsID(b), "error", b.ErrorBytes}} {
		if one.id != "" {
			views = append(views, fileView{
				ID: one.id, Object: "file", Bytes: one.bytes, CreatedAt: b.EndedAt.Unix(), Name: b.ID + "_" + one.name + ".jsonl",
				Purpose: forResults, Status: "processed",
			})
		}
	}
	return views
}

// outputID and errorsID are the ids of the files of a batch's results; empty: there is none.
func outputID(b task.BatchRecord) string { return resultID(b, outputPrefix, b.OutputBytes) }
func errorsID(b task.BatchRecord) string { return resultID(b, errorPrefix, b.ErrorBytes) }

func resultID(b task.BatchRecord, prefix string, bytes int64) string {
	if b.EndedAt.IsZero() || bytes == 0 {
		return ""
	}
	return prefix + strings.TrimPrefix(b.ID, batchPrefix)
}

func noFile(id string) error {
	return task.Errorf(task.NotFound, "there is no file %.100q: it was never sent, or it was deleted, or removed since artifacts are kept for a time only", id)
}

// file is one that a client sent.
func (f *Feeder) file(ctx context.Context, id string) (task.File, error) {
	found, ok, err := f.o.Records.File(ctx, id)
	switch {
	case err != nil:
		return found, f.unwritten(err)
	case !ok || !f.o.Store.Has(found.Artifact):
		return found, noFile(id)
	}
	return found, nil
}

// resultFile is the batch of a file of results, and the lines that are in it; nil: the id is that of no such file.
func (f *Feeder) resultFile(ctx context.Context, id string) (b task.BatchRecord, wanted func(task.LineState) bool, err error) {
	prefix := outputPrefix
	if wanted = inOutput; strings.HasPrefix(id, errorPrefix) {
		prefix, wanted = errorPrefix, inErrors
	}
	digits, ok := strings.CutPrefix(id, prefix)
	if !ok {
		return b, nil, nil
	}
	b, err = f.Batch(ctx, openAI, batchPrefix+digits)
	if task.HasCode(err, task.NotFound) || err == nil && id != outputID(b) && id != errorsID(b) {
		err = noFile(id)
	}
	return b, wanted, err
}

// createFile serves POST /v1/files.
func (o *OpenAI) createFile(w http.ResponseWriter, r *http.Request) error {
	in, err := openUpload(r)
	if err != nil {
		return err
	}
	name := cmp.Or(in.name, "batch.jsonl")
	artifact, size, err := o.f.o.Store.Put(r.Context(), name, in, o.f.o.FileBytes)
	if task.HasCode(err, task.TooLarge) {
		return task.Errorf(task.TooLarge, "the file has more than the %d bytes that this server takes: split it, or raise limits.file_bytes", o.f.o.FileBytes).Because(err)
	}
	if err != nil {
		return err
	}
	file, err := o.f.keepFile(r.Context(), name, artifact, size)
	if err != nil {
		return err
	}
	o.x.Write(w, http.StatusOK, viewOf(file))
	return nil
}

// maxFilesListed bounds a list, as the dialect's document says.
const maxFilesListed = 10_000

// listFiles serves GET /v1/files.
func (o *OpenAI) listFiles(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, err := lenient.Limit(query, maxFilesListed, maxFilesListed)
	if err != nil {
		return err
	}
	filter := task.FileFilter{Sent: true, Results: openAI, After: query.Get("after")}
	if filter.Oldest, err = lenient.Ascending(query); err != nil {
		return err
	}
	if purpose := query.Get("purpose"); purpose != "" {
		filter.Sent = purpose == forBatch
		if purpose != forResults {
			filter.Results = ""
		}
	}
	all, err := o.f.files(r.Context(), filter, limit)
	if err != nil {
		return err
	}
	out := struct {
		Object string     `json:"object"`
		Data   []fileView `json:"data"`
		First  string     `json:"first_id"`
		Last   string     `json:"last_id"`
		More   bool       `json:"has_more"`
	}{Object: "list", Data: []fileView{}}
	some, more := lenient.Page(all, limit)
	if out.More = more; len(some) > 0 {
		out.Data, out.First, out.Last = some, some[0].ID, some[len(some)-1].ID
	}
	o.x.Write(w, http.StatusOK, out)
	return nil
}

// files are those of a filter: at least one more than the limit where there are more. The last one that is not wanted may be a file of results, behind
// which its batch may have another.
func (f *Feeder) files(ctx context.Context, filter task.FileFilter, limit int) (all []fileView, err error) {
	b, results, err := f.resultFile(ctx, filter.After)
	if err != nil {
		return nil, err
	}
	if results != nil {
		if views := f.viewsOf(filter, task.Listed{Batch: &b}); filter.Results != "" {
			all = views[1+slices.IndexFunc(views, func(v fileView) bool { return v.ID == filter.After }):]
		}
		filter.After = b.ID
	}
	for filter.Limit = min(limit+1, pageOfFiles); len(all) <= limit; {
		some, err := f.o.Records.Files(ctx, filter)
		switch {
		case task.HasCode(err, task.NotFound):
			return nil, noFile(filter.After)
		case err != nil:
			return nil, f.unwritten(err)
		case len(some) == 0:
			return all, nil
		}
		for _, one := range some {
			all = append(all, f.viewsOf(filter, one)...)
		}
		filter.After = some[len(some)-1].ID()
	}
	return all, nil
}

// viewsOf are the files of an entry in a list, in the list's order.
func (f *Feeder) viewsOf(filter task.FileFilter, l task.Listed) (views []fileView) {
	switch {
	case l.Batch == nil && f.o.Store.Has(l.File.Artifact):
		return []fileView{viewOf(l.File)}
	case l.Batch != nil:
		if views = resultViews(*l.Batch); filter.Oldest {
			slices.Reverse(views)
		}
	}
	return views
}

const filesPath = "/v1/files/"

// oneFile serves GET /v1/files/{id} and GET /v1/files/{id}/content.
func (o *OpenAI) oneFile(w http.ResponseWriter, r *http.Request) error {
	id, call, nested := strings.Cut(exchange.Under(r, filesPath), "/")
	if nested && call != "content" {
		return exchange.NoPath(r)
	}
	b, wanted, err := o.f.resultFile(r.Context(), id)
	if err != nil {
		return err
	}
	if wanted != nil {
		if nested {
			return o.f.send(w, r, b, wanted, outputOf)
		}
		views := resultViews(b)
		o.x.Write(w, http.StatusOK, views[slices.IndexFunc(views, func(v fileView) bool { return v.ID == id })])
		return nil
	}
	file, err := o.f.file(r.Context(), id)
	if err != nil {
		return err
	}
	if !nested {
		o.x.Write(w, http.StatusOK, viewOf(file))
		return nil
	}
	in, err := o.f.o.Store.Open(file.Artifact)
	if err != nil {
		return err
	}
	defer in.Close()
	o.f.sendFile(w, io.Reader(in))
	return nil
}

// deleteFile serves DELETE /v1/files/{id}.
func (o *OpenAI) deleteFile(w http.ResponseWriter, r *http.Request) error {
	id := exchange.Under(r, filesPath)
	b, wanted, err := o.f.resultFile(r.Context(), id)
	switch {
	case err != nil:
		return err
	case wanted != nil:
		err = o.f.deleteResults(r.Context(), b, id)
	default:
		err = o.f.deleteFile(r.Context(), id)
	}
	if err != nil {
		return err
	}
	o.x.Write(w, http.StatusOK, struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Deleted bool   `json:"deleted"`
	}{id, "file", true})
	return nil
}

func (f *Feeder) deleteFile(ctx context.Context, id string) error {
	file, err := f.file(ctx, id)
	if err != nil {
		return err
	}
	err = f.o.Records.DropFile(ctx, id)
	if task.HasCode(err, task.Conflict) {
		return task.Errorf(task.Conflict, "batch %s reads file %.100q and has not ended: cancel the batch first, or wait for its end", f.reader(id), id)
	}
	if err != nil {
		return f.unwritten(err)
	}
	return f.release(ctx, file.Artifact)
}

// reader is the id of a batch that reads a file.
func (f *Feeder) reader(file string) string {
	for _, r := range f.running() {
		if r.record().FileID == file {
			return r.id
		}
	}
	return ""
}

// deleteResults deletes a file of results: what was asked and answered in it, from the record.
func (f *Feeder) deleteResults(ctx context.Context, b task.BatchRecord, id string) error {
	f.ended.Lock()
	defer f.ended.Unlock()
	b, err := f.Batch(ctx, openAI, b.ID) // as it is now
	if err != nil {
		return err
	}
	states := []task.LineState{task.LineCompleted}
	if id == outputID(b) {
		b.OutputBytes = 0
	} else {
		states, b.ErrorBytes = []task.LineState{task.LineFailed, task.LineCanceled, task.LineExpired}, 0
	}
	if err := f.o.Records.EraseLines(ctx, b.ID, states, f.o.Now()); err != nil {
		return f.unwritten(err)
	}
	return f.unwritten(f.o.Records.KeepBatch(ctx, b, nil))
}
