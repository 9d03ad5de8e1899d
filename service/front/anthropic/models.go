// SPDX-License-Identifier: GPL-3.0-or-later

package anthropic

import (
	"net/http"
	"slices"
	"time"

	"github.com/llama-orch/llama-orch/service/front/exchange"
	"github.com/llama-orch/llama-orch/service/front/lenient"
)

// modelView is a model, with all the fields that the dialect's document has. Null is what nobody knows here.
type modelView struct {
	Type         string    `json:"type"`
	ID           string    `json:"id"`
	Name         string    `json:"display_name"`
	Created      time.Time `json:"created_at"`
	MaxInput     *int      `json:"max_input_tokens"`
	MaxTokens    *int      `json:"max_tokens"`
	Capabilities *string   `json:"capabilities"`
	Lifecycle    string    `json:"lifecycle"`
	Line         *string   `json:"line"`
	Deprecated   *string   `json:"deprecated_at"`
	Retires      *string   `json:"retires_at"`
}

func view(m exchange.Model) modelView {
	v := modelView{Type: "model", ID: m.ID, Name: m.ID, Created: m.Created.UTC().Truncate(time.Second), Lifecycle: "active"}
	if m.Created.IsZero() {
		v.Created = time.Unix(0, 0).UTC()
	}
	if m.Ctx > 0 { // prompt and answer share it
		v.MaxInput, v.MaxTokens = &m.Ctx, &m.Ctx
	}
	return v
}

// The bounds of a page of models.
const (
	defaultPage = 20
	maxPage     = 1000
)

// models serves /v1/models, page by page.
func (f *Front) models(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	limit, err := lenient.Limit(query, defaultPage, maxPage)
	if err != nil {
		return err
	}
	all := f.x.Models()
	from, to := 0, len(all)
	if id := query.Get("after_id"); id != "" {
		from = 1 + slices.IndexFunc(all, func(m exchange.Model) bool { return m.ID == id })
		if from == 0 {
			return exchange.NoModel(id, all)
		}
	}
	if id := query.Get("before_id"); id != "" {
		to = slices.IndexFunc(all, func(m exchange.Model) bool { return m.ID == id })
		if to < 0 {
			return exchange.NoModel(id, all)
		}
		from = max(from, to-limit) // a page that ends there
	}
	more := to-from > limit || query.Get("before_id") != "" && from > 0
	page := all[min(from, to):min(from+limit, to)]
	out := struct {
		Data  []modelView `json:"data"`
		More  bool        `json:"has_more"`
		First *string     `json:"first_id"`
		Last  *string     `json:"last_id"`
	}{Data: []modelView{}, More: more}
	for _, m := range page {
		out.Data = append(out.Data, view(m))
	}
	if n := len(out.Data); n > 0 {
		out.First, out.Last = &out.Data[0].ID, &out.Data[n-1].ID
	}
	f.x.Write(w, http.StatusOK, out)
	return nil
}

// model serves /v1/models/{id}. An id may have slashes.
func (f *Front) model(w http.ResponseWriter, r *http.Request) error {
	m, err := f.x.Model(exchange.Under(r, modelPath))
	if err != nil {
		return err
	}
	f.x.Write(w, http.StatusOK, view(m))
	return nil
}
