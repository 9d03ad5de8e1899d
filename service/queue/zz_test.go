// SPDX-License-Identifier: GPL-3.0-or-later

package queue

import (
	"context"
	"testing"
)

func TestZZ(t *testing.T) {
	_ = context.TODO()
	if testing.Short() {
		t.Skip("x")
	}
	if testing.Verbose() {
		t.SkipNow()
	}
	t.Run("x", func(tt *testing.T) { tt.Skipf("x") })
}

func BenchmarkZZ(b *testing.B) { b.Skip("x") }

func FuzzZZ(f *testing.F) { f.Skip("x") }

func help(tb testing.TB) { tb.Skip("x") }
