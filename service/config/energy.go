// SPDX-License-Identifier: GPL-3.0-or-later

package config

import "time"

// energy checks the prices of electricity (LO-626).
func (c *Config) energy(ps *problems) {
	if !c.where.set("energy.night") {
		return
	}
	for _, name := range []string{"from", "to", "price_per_kwh"} {
		if !c.where.set("energy.night." + name) {
			ps.add(c.where.of("energy.night"), "energy.night lacks "+name, `write both times and the price, like night: {from: "22:00", to: "06:00", price_per_kwh: 0.2}, or leave night out`)
			return
		}
	}
	if n := c.Energy.Night; n.From == n.To && n.From != "" {
		ps.add(c.where.of("energy.night.to"), "energy.night ends when it begins, at "+n.To, "write another time, or leave night out")
	}
}

// Clock is a time of the day that the configuration names, since midnight.
func Clock(text string) time.Duration {
	at, err := time.Parse("15:04", text)
	if err != nil { // the schema lets none such through
		return 0
	}
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
}
