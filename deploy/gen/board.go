// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// board is one dashboard.
type board struct {
	name, title, about string
	rows               []row
}

// row is a row of panels of the same height, with a title.
type row struct {
	title  string
	panels []panel
}

// panel shows queries, over time or as one figure.
type panel struct {
	title, about, unit string
	figure             bool // the last value alone
	queries            []query
}

// query is one line of a panel, or as many as its result has. The legend names labels as {{label}}.
type query struct{ expr, legend string }

func line(title, about, unit string, queries ...query) panel {
	return panel{title: title, about: about, unit: unit, queries: queries}
}

func figure(title, about, unit, expr string) panel {
	return panel{title: title, about: about, unit: unit, figure: true, queries: []query{{expr: expr}}}
}

// quantile is the query of a histogram's quantile over the time of one step.
func quantile(q float64, histogram, by, where string) string {
	return fmt.Sprintf("histogram_quantile(%g, sum by (le, %s) (rate(%s_bucket{%s}[$__rate_interval])))", q, by, histogram, where)
}

func (c contract) addDashboards(files map[string][]byte) error {
	for _, b := range boards {
		made, err := c.dashboard(b)
		if err != nil {
			return fmt.Errorf("dashboard %s: %w", b.name, err)
		}
		text, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			return fmt.Errorf("write dashboard %s: %w", b.name, err)
		}
		files["grafana/"+b.name+".json"] = append(text, '\n')
	}
	return nil
}

var labelInLegend = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)

const (
	gridWidth    = 24
	figureHeight = 4
	lineHeight   = 8
)

func (c contract) dashboard(b board) (dashboard.Dashboard, error) {
	source := common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
	d := dashboard.NewDashboardBuilder("llama-orch: "+b.title).Uid("llama-orch-"+b.name).Description(b.about).Tags([]string{"llama-orch"}).
		Refresh("10s").Time("now-1h", "now").Timezone("browser").Readonly().Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Prometheus").Type("prometheus")).
		WithVariable(dashboard.NewQueryVariableBuilder("pool").Label("Pool").Datasource(source).Multi(true).IncludeAll(true).AllValue(".*").
			Query(dashboard.StringOrMap{String: cog.ToPtr("label_values(llorch_pool_info, pool_id)")}).Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
			Current(dashboard.VariableOption{Text: dashboard.StringOrArrayOfString{String: cog.ToPtr("All")}, Value: dashboard.StringOrArrayOfString{String: cog.ToPtr("$__all")}})).
		Link(dashboard.NewDashboardLinkBuilder("llama-orch").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"llama-orch"}).AsDropdown(true).KeepTime(true).IncludeVars(true))
	for _, r := range b.rows {
		d.WithRow(dashboard.NewRowBuilder(r.title))
		for _, p := range r.panels {
			made, err := c.panel(p, uint32(gridWidth/len(r.panels)), source)
			if err != nil {
				return dashboard.Dashboard{}, fmt.Errorf("panel %q: %w", p.title, err)
			}
			d.WithPanel(made)
		}
	}
	return d.Build()
}

func (c contract) panel(p panel, width uint32, source common.DataSourceRef) (cog.Builder[dashboard.Panel], error) {
	var targets []cog.Builder[variants.Dataquery]
	for i, q := range p.queries {
		var wanted []string
		for _, m := range labelInLegend.FindAllStringSubmatch(q.legend, -1) {
			wanted = append(wanted, m[1])
		}
		if err := c.check(q.expr, wanted); err != nil {
			return nil, err
		}
		t := prometheus.NewDataqueryBuilder().Expr(q.expr).RefId(string(rune('A' + i))).LegendFormat(q.legend)
		if p.figure {
			t.Instant()
		} else {
			t.Range()
		}
		targets = append(targets, t)
	}
	if p.figure {
		s := stat.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).Span(width).Height(figureHeight)
		return s.Targets(targets), nil
	}
	s := timeseries.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).Span(width).Height(lineHeight).FillOpacity(10).Min(0)
	return s.Targets(targets), nil
}
