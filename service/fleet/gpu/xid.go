// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import "fmt"

// meaning is what NVIDIA's list says of an XID. Critical means that the card should get no more work.
type meaning struct {
	text     string
	critical bool
}

var xids = map[uint64]meaning{
	13:  {"a program made an error in the graphics engine, most likely an access out of bounds", false},
	31:  {"a program accessed memory of the card that is not its own", false},
	43:  {"a program's work on the card stopped because of an error of its own; other programs go on", false},
	45:  {"the driver ended a program's work on the card, as after another error or when the program is killed", false},
	48:  {"the card's memory had a double-bit error that it could not correct: reset the card with `nvidia-smi --gpu-reset`, or restart the machine", true},
	62:  {"the card's own microcontroller halted: restart the machine, and have the card checked if it comes again", true},
	63:  {"the card takes a bad part of its memory out of use, at its next reset", false},
	64:  {"the card could not take a bad part of its memory out of use: reset it with `nvidia-smi --gpu-reset`, and have it checked", true},
	74:  {"the link between cards (NVLink) failed: check the bridge, and reset the cards with `nvidia-smi --gpu-reset`", true},
	79:  {"the card fell off the bus: restart the machine, and check power, heat and seating if it comes again", true},
	94:  {"the card's memory had an error that it could not correct, contained to one program, which is to be restarted", false},
	95:  {"the card's memory had an error that it could not correct nor contain: reset the card with `nvidia-smi --gpu-reset`", true},
	119: {"the card's system processor (GSP) did not answer the driver: reset the card with `nvidia-smi --gpu-reset`, or restart the machine", true},
}

// xid says what a number means, and whether it is critical. After an unknown XID the card goes on: if it is broken, the probes of its
// workers find out.
func xid(code uint64) (text string, critical bool) {
	m, ok := xids[code]
	if !ok {
		return fmt.Sprintf("XID %d: see NVIDIA's list of XID errors", code), false
	}
	return fmt.Sprintf("XID %d: %s", code, m.text), m.critical
}
