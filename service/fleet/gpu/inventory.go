// SPDX-License-Identifier: GPL-3.0-or-later

// Package gpu knows the machine's GPUs. The Monitor reads them through NVML, and tells what happens to them. A card is one GPU. Its index
// is NVML's, which counts by PCI bus; a worker needs CUDA_DEVICE_ORDER=PCI_BUS_ID to count in the same way.
package gpu

import (
	"strings"
	"time"
)

// Inventory is what one sample found. Nobody changes it, so it is read without a lock.
type Inventory struct {
	Seq    uint64    // counts the samples from 1; 0: nobody looked yet
	At     time.Time // when the sample began
	Driver string    // as in 570.86.10
	CUDA   string    // the newest CUDA the driver can run, as in 12.8
	Err    string    // why no card can be used, and what to do; empty: they can
	Cards  []Card    // by index; while the driver is lost, those that it had, as unhealthy
}

// Card is one GPU. Memory is in bytes.
type Card struct {
	Index       int
	UUID        string
	Name        string
	Total       int64
	Free        int64
	Used        int64   // including what the driver keeps for itself
	Utilization float64 // share of the time in which it computed, 0 to 1; 0 if the card does not tell
	Temperature int     // °C; 0 if the card does not tell
	Power       float64 // W; 0 if the card does not tell
	Energy      float64 // J since the driver was loaded, by the card's own counter; 0 if it has none
	Processes   []Process
	Healthy     bool
	Problem     string // why it is not healthy, and what to do
}

// Counter is what a card's own counter of energy says.
type Counter struct {
	Card   int // its index
	UUID   string
	At     time.Time // of the reading
	Joules float64   // since the driver was loaded; 0: the card has none, or does not answer
}

// Process is one that computes on a card. Bytes is 0 if the driver does not tell.
type Process struct {
	PID   int
	Bytes int64
}

// Short is the card's name without the maker's: RTX 3090.
func (c Card) Short() string {
	name := strings.TrimPrefix(c.Name, "NVIDIA ")
	return strings.TrimPrefix(name, "GeForce ")
}

// Card finds a card by its index.
func (i Inventory) Card(index int) (Card, bool) {
	for _, c := range i.Cards {
		if c.Index == index {
			return c, true
		}
	}
	return Card{}, false
}

// Kind says what an Event is about.
type Kind string

// The kinds of events. An XID is the driver's number for what went wrong on a card.
const (
	DriverLost Kind = "driver_lost"
	DriverBack Kind = "driver_back"
	CardLost   Kind = "card_lost"
	CardBack   Kind = "card_back"
	XID        Kind = "xid"
	ECC        Kind = "ecc" // a memory error that could not be corrected
)

// Event is something that happened to the driver or a card.
type Event struct {
	At       time.Time // of the sample that noticed it
	Kind     Kind
	Card     int // -1: it is about the driver, and so about all cards
	UUID     string
	XID      uint64 // 0: none
	Critical bool   // the card must not be given work; else it was a program's own fault, or it is over
	Text     string // what it means
}

// Back reports whether the event says that a card or the driver can be used again.
func (e Event) Back() bool { return e.Kind == CardBack || e.Kind == DriverBack }
