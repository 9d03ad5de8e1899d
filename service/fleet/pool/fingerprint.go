// SPDX-License-Identifier: GPL-3.0-or-later

package pool

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
)

// Facts are all that can change a replica's bytes (LO-205). The hardware of an external engine is unknown here, so its URL stands for
// it.
type Facts struct {
	Engine       string   `json:"engine"`
	Build        string   `json:"build"`         // as the engine says
	System       string   `json:"system"`        // what the engine says of the processor it runs on
	EngineDigest string   `json:"engine_digest"` // of the program and the libraries that its process has loaded (LO-809), or of the container's image
	ModelDigest  string   `json:"model_digest"`
	Device       string   `json:"device"` // class of hardware
	Threads      int      `json:"threads"`
	Ctx          int      `json:"ctx"`
	Slots        int      `json:"slots"`
	Batch        int      `json:"batch"`           // 0: the engine's own
	Flags        []string `json:"flags"`           // what else the engine was told, in order
	Files        []string `json:"files,omitempty"` // the digests of the files that the flags name, in order
	// Of an engine that was prepared: what it was built from, and with which flags.
	BuildRef   string   `json:"build_ref,omitempty"`
	BuildFlags []string `json:"build_flags,omitempty"`
}

// Fingerprint is a name for the facts. Replicas with the same one give the same bytes for the same request digest.
func Fingerprint(facts Facts) string {
	if facts.Flags == nil {
		facts.Flags = []string{}
	}
	data, err := json.Marshal(facts) // canonical: the fields keep their order
	if err != nil {                  // strings and numbers can always be encoded
		panic(err)
	}
	sum := sha256.Sum256(data)
	return "fp-" + hex.EncodeToString(sum[:8])
}

// cpuDevice names this machine's class of CPU.
var cpuDevice = sync.OnceValue(func() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "cpu:unknown"
	}
	defer func() { _ = file.Close() }()
	return "cpu:" + cpuClass(file)
})

// isaPrefixes begin the names of those CPU flags by which engines choose their back ends. The other flags come and go with kernels and
// hypervisors.
var isaPrefixes = []string{
	"sse", "ssse", "pni", "avx", "fma", "f16c", "bmi", "popcnt", "amx", "vnni", // x86
	"asimd", "fphp", "sve", "sme", "i8mm", "bf16", "dotprod", // arm
}

// cpuClass reads the first processor of a /proc/cpuinfo: its model, and the instruction sets it has.
func cpuClass(cpuinfo io.Reader) string {
	var model, isa []string
	scanner := bufio.NewScanner(cpuinfo)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		name, value, ok := strings.Cut(scanner.Text(), ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok {
			break // the end of the first processor
		}
		switch name {
		case "model name", "CPU implementer", "CPU architecture", "CPU variant", "CPU part":
			model = append(model, value)
		case "flags", "Features":
			for flag := range strings.FieldsSeq(value) {
				if slices.ContainsFunc(isaPrefixes, func(p string) bool { return strings.HasPrefix(flag, p) }) {
					isa = append(isa, flag)
				}
			}
		}
	}
	slices.Sort(isa)
	return strings.Join(model, " ") + ";" + strings.Join(isa, ",")
}
