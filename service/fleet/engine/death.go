// SPDX-License-Identifier: GPL-3.0-or-later

package engine

import (
	"slices"
	"strings"
)

// Cause is what a worker died of, according to its last words.
type Cause string

// The causes. OutOfMemory means the memory of the device on which the worker computes; the texts do not tell which that is.
const (
	OutOfVRAM      Cause = "oom_vram"
	OutOfHost      Cause = "oom_host"
	OutOfMemory    Cause = "oom"
	DriverReset    Cause = "driver_reset"    // the driver had trouble with a card
	MissingLibrary Cause = "missing_library" // the program or its libraries are not whole
	BadModel       Cause = "bad_model"       // the engine does not take the model
	PortTaken      Cause = "port_taken"      // another program was faster
	NoKVRoom       Cause = "no_kv_room"      // the model fits, and the KV of its context does not
	ModelMissing   Cause = "model_missing"   // the engine does not find the model, or not all of its files
	UnsupportedGPU Cause = "unsupported_gpu" // the card cannot do what the engine or the model wants
	HostLost       Cause = "host_lost"       // another host, which computes a part, is gone (LO-471)
)

// Sign is a set of texts, in lower case, that an engine writes when it dies of something.
type Sign struct {
	Cause Cause
	Texts []string
}

// Deaths are the texts by which a kind's last words tell what it died of.
type Deaths struct {
	// Harmless are the texts of lines that tell nothing, whatever else is in them.
	Harmless []string
	// Signs are in order: the later ones follow from the first.
	Signs []Sign
}

// Texts are those of all signs.
func (d Deaths) Texts() (all []string) {
	for _, s := range d.Signs {
		all = append(all, s.Texts...)
	}
	return all
}

// Told returns the causes that the lines tell of, the most telling first.
func (d Deaths) Told(lines []string) (causes []Cause) {
	in := func(text string) func(string) bool {
		return func(sign string) bool { return strings.Contains(text, sign) }
	}
	var telling []string
	for _, line := range lines {
		if line = strings.ToLower(line); !slices.ContainsFunc(d.Harmless, in(line)) {
			telling = append(telling, line)
		}
	}
	text := strings.Join(telling, "\n")
	for _, s := range d.Signs {
		if slices.ContainsFunc(s.Texts, in(text)) {
			causes = append(causes, s.Cause)
		}
	}
	return causes
}
