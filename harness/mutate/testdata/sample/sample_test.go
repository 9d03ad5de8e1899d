// SPDX-License-Identifier: GPL-3.0-or-later

package sample

import "testing"

func TestHeld(t *testing.T) {
	if n, err := Held(0); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := Held(-1); n != 0 || err == nil {
		t.Fatal(n, err)
	}
}

func TestSlack(t *testing.T) {
	if Slack(5) || !Slack(20) {
		t.Fatal()
	}
}
