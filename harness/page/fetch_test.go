// SPDX-License-Identifier: GPL-3.0-or-later

package page

import (
	"net/http"
	"os"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// A model comes half way, then whole; then it is retired, and active again.
func (x *box) fetches() {
	model, err := os.ReadFile(x.lab.Model)
	require.NoError(x.t, err)
	require.NoError(x.t, x.hub.Put("m.gguf", model))
	goOn := make(chan struct{})
	x.hub.Lock()
	x.hub.Cut = []int{len(model) / 2}
	x.hub.Gate = func(_ http.ResponseWriter, _ int, r *http.Request) {
		select {
		case <-goOn:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	x.hub.Unlock()
	x.view("models")
	x.b.says("[data-group=models]", "The catalog is empty")
	_, err = x.served.Client.Post(x.t.Context(), "/v1/catalog/models", []byte(`{"id":"fetched","ref":"`+x.hub.Ref+`"}`), http.StatusCreated)
	require.NoError(x.t, err)
	x.b.says("[data-group=models] [data-key=fetched]", "fetching")
	x.b.until("(({ value, max }) => value > 0 && value < max)(document.querySelector('[data-key=fetched] progress') || {})")
	close(goOn)
	x.b.says("[data-group=models] [data-key=fetched]", "active")
	x.b.until("!document.querySelector('[data-key=fetched] progress')")
	x.b.run(chromedp.Click(chromedp.CSS("[aria-label='Retire fetched']")))
	x.b.says("[data-group=models] [data-key=fetched]", "retired")
	x.b.run(chromedp.Click(chromedp.CSS("[aria-label='Activate fetched']")))
	x.b.says("[data-group=models] [data-key=fetched]", "active")
}
