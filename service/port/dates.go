// SPDX-License-Identifier: GPL-3.0-or-later

package port

import (
	"crypto/tls"
	"fmt"
	"time"
)

// Dates are those between which a certificate is valid.
type Dates struct{ From, To time.Time }

// soon is how long before its end a certificate is warned of. Who renews by a program does it 30 days before.
const soon = 14 * 24 * time.Hour

func datesOf(pair *tls.Certificate) Dates { return Dates{pair.Leaf.NotBefore, pair.Leaf.NotAfter} }

// outside reports whether clients refuse the certificate.
func (d Dates) outside(now time.Time) bool { return now.Before(d.From) || now.After(d.To) }

// Warning says what is wrong with the dates, as what follows "the certificate"; empty: nothing is.
func (d Dates) Warning(now time.Time) string {
	const day = "2006-01-02 15:04 MST"
	switch {
	case now.After(d.To):
		return fmt.Sprintf("has expired on %s, so clients refuse it: put a new one in its place, which is taken within seconds", d.To.UTC().Format(day))
	case now.Before(d.From):
		return fmt.Sprintf("is not valid before %s, so clients refuse it: put the one from before in its place, or set the clock of this machine", d.From.UTC().Format(day))
	case d.To.Sub(now) < soon:
		return fmt.Sprintf("expires on %s: put a new one in its place, which is taken within seconds", d.To.UTC().Format(day))
	}
	return ""
}
