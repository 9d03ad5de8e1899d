// SPDX-License-Identifier: GPL-3.0-or-later

package energy

import "time"

// joulesPerKWh is how many joules a kilowatt-hour has.
const joulesPerKWh = 3_600_000

// Tariff is what electricity costs (LO-626). The zero value is no tariff.
type Tariff struct {
	PerKWh      float64
	NightPerKWh float64
	// NightFrom and NightTo are times of the day, since midnight. Where they are equal, there is no night.
	NightFrom, NightTo time.Duration
	Zone               *time.Location // nil: the machine's
}

// Set reports whether there is a price.
func (t Tariff) Set() bool { return t.PerKWh > 0 || t.NightPerKWh > 0 }

// At is what a joule costs at a time.
func (t Tariff) At(at time.Time) float64 {
	zone := t.Zone
	if zone == nil {
		zone = time.Local
	}
	at = at.In(zone)
	clock := time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute + time.Duration(at.Second())*time.Second
	night := t.NightFrom <= clock && clock < t.NightTo
	if t.NightFrom > t.NightTo { // it goes over midnight
		night = t.NightFrom <= clock || clock < t.NightTo
	}
	if night {
		return t.NightPerKWh / joulesPerKWh
	}
	return t.PerKWh / joulesPerKWh
}
