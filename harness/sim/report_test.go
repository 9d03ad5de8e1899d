// SPDX-License-Identifier: GPL-3.0-or-later

package sim

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPlotsAreWellFormedAndTheSameEveryTime(t *testing.T) {
	box, load := Reference(), small(3, 5, 400)
	plots := func() [][]byte {
		var all []*Result
		for _, p := range Policies() {
			r, err := Run(box, load, p, true)
			require.NoError(t, err)
			all = append(all, r)
		}
		return [][]byte{WaitPlot(all), TimelinePlot(&box, 5*time.Minute, all[:2])}
	}
	first, again := plots(), plots()
	require.Equal(t, first, again)
	for _, plot := range first {
		shapes := 0
		for d := xml.NewDecoder(bytes.NewReader(plot)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			if start, ok := token.(xml.StartElement); ok && (start.Name.Local == "polyline" || start.Name.Local == "rect") {
				shapes++
			}
		}
		require.Greater(t, shapes, len(Policies()))
		require.NotContains(t, string(plot), "NaN")
	}
}

func TestPercentile(t *testing.T) {
	waits := make([]time.Duration, 100)
	for i := range waits {
		waits[i] = time.Duration(i)
	}
	require.Equal(t, []time.Duration{0, 50, 99, 99}, []time.Duration{
		Percentile(waits, 0), Percentile(waits, 0.5), Percentile(waits, 0.99), Percentile(waits, 1),
	})
	require.Zero(t, Percentile(nil, 0.5))
}
