// SPDX-License-Identifier: GPL-3.0-or-later

package process

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzHear: whatever a worker prints, one announcement at most counts, and what is kept of its words is bounded.
//
// LO-861
func FuzzHear(f *testing.F) {
	f.Add(`{"listening":"127.0.0.1:9700"}`, "CUDA error: out of memory")
	f.Add(`{"listening":7}`, "\xff\x00")
	f.Fuzz(func(t *testing.T, first, second string) {
		p := &Process{log: &ring{signs: []string{"out of memory"}}, announced: make(chan string, 1)}
		for _, line := range []string{first, second, first} {
			p.hear(line)
			p.log.add("stderr", line, time.Unix(0, 0))
		}
		require.LessOrEqual(t, len(p.announced), 1)
		if len(p.announced) == 1 {
			require.NotEmpty(t, <-p.announced)
		}
		for _, line := range append(p.log.cause(), p.log.tail()...) {
			require.Less(t, len(line), len(first)+len(second)+200)
		}
	})
}

// FuzzNote: whatever stands in the note of a worker, nothing is ended by it but what is ours.
//
// LO-813, LO-861
func FuzzNote(f *testing.F) {
	dir := f.TempDir()
	d := &runDir{path: dir, boot: "boot"}
	name := filepath.Join(dir, "1.json")
	f.Add([]byte(`{"pid":1,"start":2,"boot":"boot","replica_id":"p-0","mark":"x"}`))
	f.Add([]byte(`{"pid":1,"start":2,"boot":"boot","replica_id":"p-0","container":{"runtime":"docker","name":"` + containerName(dir, "p-0") + `"}}`))
	f.Add([]byte(`{"pid":-1,"container":{"runtime":"/bin/sh","name":"-rf"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(name, text, 0o600))
		l, err := d.read(name)
		if err != nil {
			return
		}
		require.True(t, l.Mark == "" || marks.MatchString(l.Mark))
		if l.Container != nil {
			require.Contains(t, runtimes, l.Container.Runtime)
			require.Equal(t, containerName(dir, l.Replica), l.Container.Name)
		}
	})
}
