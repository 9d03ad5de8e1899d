// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// LO-626, LO-627: prices of electricity, and budgets of joules.
func TestEnergyOfAConfiguration(t *testing.T) {
	load := func(line string) (Config, error) {
		return Parse("c.yaml", fmt.Appendf(nil, "data_dir: /d\n%s\npools:\n  - {id: p, model: {id: m, ref: x}, provisioning: {mode: external, urls: [\"http://127.0.0.1:1\"]}}\n", line),
			func(string) string { return "" })
	}
	c, err := load(`energy: {price_per_kwh: 0.31, night: {from: "22:30", to: "06:00", price_per_kwh: 0.2}}`)
	require.NoError(t, err)
	require.Equal(t, Energy{PricePerKWh: 0.31, Night: Night{From: "22:30", To: "06:00", PricePerKWh: 0.2}}, c.Energy)
	require.Equal(t, 22*time.Hour+30*time.Minute, Clock(c.Energy.Night.From))
	c, err = load(`energy: {night: {from: "00:00", to: "23:59", price_per_kwh: 0}}`)
	require.NoError(t, err)
	require.Zero(t, c.Energy.PricePerKWh)
	c, err = load(`budgets: {session: {joules: 0.5}, token: {joules: 2000}}`)
	require.NoError(t, err)
	require.InDelta(t, 0.5, c.Budgets.Session.Joules, 0)
	require.InDelta(t, 2000, c.Budgets.Token.Joules, 0)
	for line, wrong := range map[string]string{
		`energy: {night: {from: "22:00", to: "06:00"}}`:                   "energy.night lacks price_per_kwh",
		`energy: {night: {from: "22:00", price_per_kwh: 1}}`:              "energy.night lacks to",
		`energy: {night: {}}`:                                             "energy.night lacks from",
		`energy: {night: {from: "22:00", to: "22:00", price_per_kwh: 1}}`: "ends when it begins, at 22:00",
		`energy: {night: {from: "24:00", to: "06:00", price_per_kwh: 1}}`: "energy.night.from",
		`energy: {night: {from: "10 pm", to: "06:00", price_per_kwh: 1}}`: "energy.night.from",
		`energy: {price_per_kwh: -1}`:                                     "energy.price_per_kwh",
		`energy: {price: 1}`:                                              "price",
		`budgets: {session: {joules: -1}}`:                                "budgets.session.joules",
	} {
		_, err := load(line)
		require.ErrorContains(t, err, wrong, line)
	}
}
