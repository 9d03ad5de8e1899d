// SPDX-License-Identifier: GPL-3.0-or-later

package batch

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/gate"
	"github.com/llama-orch/llama-orch/service/front/lenient"
	"github.com/llama-orch/llama-orch/service/task"
)

// OpenAI is the front of files and batches in OpenAI's words. It implements gate.Front.
type OpenAI struct {
	front

	endpoints []string
}

// NewOpenAI makes a front for batches of requests to these paths. Refuse answers with an error in the dialect's shape.
func NewOpenAI(f *Feeder, o exchange.Options, endpoints []string, refuse func(http.ResponseWriter, *http.Request, error)) *OpenAI {
	b := &OpenAI{front{f: f, x: exchange.New(openAI, o), refuse: refuse}, endpoints}
	b.routes = exchange.Routes{
		"/v1/files": {
			http.MethodPost: {Name: "openai.create_file", Serve: b.createFile, Upload: f.o.FileBytes + formBytes},
			http.MethodGet:  {Name: "openai.files", Serve: b.listFiles},
		},
		filesPath: {
			http.MethodGet:    {Name: "openai.file", Serve: b.oneFile},
			http.MethodDelete: {Name: "openai.delete_file", Serve: b.deleteFile},
		},
		"/v1/batches": {
			http.MethodPost: {Name: "openai.create_batch", Serve: b.create},
			http.MethodGet:  {Name: "openai.batches", Serve: b.list},
		},
		batchesPath: {
			http.MethodGet:  {Name: "openai.batch", Serve: b.one},
			http.MethodPost: {Name: "openai.cancel_batch", Serve: b.cancel},
		},
	}
	return b
}

const batchesPath = "/v1/batches/"

// batchPrefix is what the ids of batches begin with.
const batchPrefix = "batch_"

// batchView is a batch, in the dialect's words.
type batchView struct {
	ID           string            `json:"id"`
	Object       string            `json:"object"`
	Endpoint     string            `json:"endpoint"`
	Errors       *faultsView       `json:"errors,omitempty"`
	InputFile    string            `json:"input_file_id"`
	Window       string            `json:"completion_window"`
	Status       string            `json:"status"`
	OutputFile   string            `json:"output_file_id,omitempty"`
	ErrorFile    string            `json:"error_file_id,omitempty"`
	CreatedAt    int64             `json:"created_at"`
	InProgressAt int64             `json:"in_progress_at,omitempty"`
	ExpiresAt    int64             `json:"expires_at"`
	FinalizingAt int64             `json:"finalizing_at,omitempty"`
	CompletedAt  int64             `json:"completed_at,omitempty"`
	FailedAt     int64             `json:"failed_at,omitempty"`
	ExpiredAt    int64             `json:"expired_at,omitempty"`
	CancellingAt int64             `json:"cancelling_at,omitempty"`
	CancelledAt  int64             `json:"cancelled_at,omitempty"`
	Counts       countsView        `json:"request_counts"`
	Metadata     map[string]string `json:"metadata"`
}

type countsView struct {
	Total     int `json:"total"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

type faultsView struct {
	Object string      `json:"object"`
	Data   []faultView `json:"data"`
}

type faultView struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    *int    `json:"line"`
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func openAIView(b task.BatchRecord) batchView {
	c := b.Counts
	v := batchView{
		ID: b.ID, Object: "batch", Endpoint: b.Endpoint, InputFile: b.FileID, Window: b.Window, OutputFile: outputID(b), ErrorFile: errorsID(b),
		CreatedAt: b.CreatedAt.Unix(), ExpiresAt: b.ExpiresAt.Unix(), CancellingAt: unix(b.CancelAt), Metadata: b.Metadata,
		Counts: countsView{b.Total, c.Completed, c.Failed + c.Canceled + c.Expired},
	}
	if len(b.Faults) == 0 {
		v.InProgressAt, v.FinalizingAt = unix(b.BegunAt), unix(b.FinalAt)
	}
	switch ended := !b.EndedAt.IsZero(); {
	case ended && len(b.Faults) > 0:
		v.Status, v.FailedAt = "failed", unix(b.EndedAt)
		v.Errors = &faultsView{Object: "list"}
		for _, f := range b.Faults {
			one := faultView{Code: f.Code, Message: f.Message}
			if f.Line > 0 {
				one.Line = &f.Line
			}
			v.Errors.Data = append(v.Errors.Data, one)
		}
	case ended && !b.CancelAt.IsZero():
		v.Status, v.CancelledAt = "cancelled", unix(b.EndedAt)
	case ended && c.Expired > 0:
		v.Status, v.ExpiredAt = "expired", unix(b.ExpiredAt)
	case ended:
		v.Status, v.CompletedAt = "completed", unix(b.EndedAt)
	case !b.CancelAt.IsZero():
		v.Status = "cancelling"
	case b.BegunAt.IsZero() || len(b.Faults) > 0:
		v.Status = "validating"
	case !b.FinalAt.IsZero():
		v.Status = "finalizing"
	default:
		v.Status = "in_progress"
	}
	return v
}

// createRequest is the body of POST /v1/batches.
type createRequest struct {
	InputFile string             `json:"input_file_id"`
	Endpoint  string             `json:"endpoint"`
	Window    string             `json:"completion_window"`
	Metadata  map[string]*string `json:"metadata"`
}

// create serves POST /v1/batches.
func (o *OpenAI) create(w http.ResponseWriter, r *http.Request) error {
	var in createRequest
	if _, err := lenient.Decode(r, &in); err != nil {
		return err
	}
	window, err := windowOf(in.Window)
	switch {
	case err != nil:
		return err
	case !slices.Contains(o.endpoints, in.Endpoint):
		return lenient.Bad("endpoint", "it must be one of %s, not %q", strings.Join(o.endpoints, ", "), task.Clip(in.Endpoint, 100))
	case in.InputFile == "":
		return lenient.Bad("input_file_id", "name the file with the requests: send it to /v1/files first, with the purpose batch")
	}
	metadata, err := metadataOf(in.Metadata)
	if err != nil {
		return err
	}
	if _, wanted, _ := o.f.resultFile(r.Context(), in.InputFile); wanted != nil {
		return lenient.Bad("input_file_id", "file %.100q has the purpose %s, and a batch reads one with the purpose batch", in.InputFile, forResults)
	}
	file, err := o.f.file(r.Context(), in.InputFile)
	if err != nil {
		return err
	}
	now := o.f.o.Now().UTC()
	b, err := o.f.Create(r.Context(), task.BatchRecord{
		ID: batchPrefix + o.f.o.NewID(), Dialect: openAI, Endpoint: in.Endpoint, FileID: file.ID, Artifact: file.Artifact, Window: in.Window,
		Metadata: metadata, Actor: gate.CallFrom(r.Context()).Identity, CreatedAt: now, ExpiresAt: now.Add(window),
	})
	if err != nil {
		return err
	}
	o.x.Write(w, http.StatusOK, openAIView(b))
	return nil
}

// windows are what a completion window may be.
var windows = regexp.MustCompile(`^([1-9][0-9]{0,6})([smhd])$`)

// maxWindow is the longest one.
const maxWindow = 30 * 24 * time.Hour

func windowOf(text string) (time.Duration, error) {
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
	if m := windows.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if window := time.Duration(n) * units[m[2]]; err == nil && window <= maxWindow {
			return window, nil
		}
	}
	return 0, lenient.Bad("completion_window", "it must be 24h, or another whole number of s, m, h or d up to 30d, not %q", task.Clip(text, 40))
}

// The bounds of metadata, as the dialect's document has them.
const (
	maxPairs = 16
	maxKey   = 64
	maxValue = 512
)

func metadataOf(in map[string]*string) (map[string]string, error) {
	if len(in) > maxPairs {
		return nil, lenient.Bad("metadata", "it may have %d pairs, not %d", maxPairs, len(in))
	}
	var out map[string]string
	for key, value := range in {
		if value == nil {
			continue
		}
		if len(key) > maxKey || len(*value) > maxValue {
			return nil, lenient.Bad("metadata", "a key may have %d bytes, and a value %d", maxKey, maxValue)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = *value
	}
	return out, nil
}

// The bounds of a page of batches.
const (
	usualPage = 20
	maxPage   = 100
)

// list serves GET /v1/batches.
func (o *OpenAI) list(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, err := lenient.Limit(query, usualPage, maxPage)
	if err != nil {
		return err
	}
	found, err := o.f.Batches(r.Context(), task.BatchFilter{Dialect: openAI, After: query.Get("after"), Limit: limit + 1})
	if err != nil {
		return err
	}
	out := struct {
		Object string      `json:"object"`
		Data   []batchView `json:"data"`
		First  string      `json:"first_id,omitempty"`
		Last   string      `json:"last_id,omitempty"`
		More   bool        `json:"has_more"`
	}{Object: "list", Data: []batchView{}}
	found, out.More = lenient.Page(found, limit)
	for _, b := range found {
		out.Data = append(out.Data, openAIView(b))
	}
	if n := len(found); n > 0 {
		out.First, out.Last = found[0].ID, found[n-1].ID
	}
	o.x.Write(w, http.StatusOK, out)
	return nil
}

// one serves GET /v1/batches/{id}.
func (o *OpenAI) one(w http.ResponseWriter, r *http.Request) error {
	b, err := o.f.Batch(r.Context(), openAI, exchange.Under(r, batchesPath))
	if err != nil {
		return err
	}
	o.x.Write(w, http.StatusOK, openAIView(b))
	return nil
}

// cancel serves POST /v1/batches/{id}/cancel.
func (o *OpenAI) cancel(w http.ResponseWriter, r *http.Request) error {
	id, ok := strings.CutSuffix(exchange.Under(r, batchesPath), "/cancel")
	if !ok {
		return exchange.NoPath(r)
	}
	b, err := o.f.Cancel(r.Context(), openAI, id)
	if err != nil {
		return err
	}
	o.x.Write(w, http.StatusOK, openAIView(b))
	return nil
}
