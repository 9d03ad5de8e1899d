// SPDX-License-Identifier: GPL-3.0-or-later

package up

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATakenAddressIsSaid(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.ErrorContains(t, addrFree(addr), addr+" is taken, so nothing was started")
	require.NoError(t, l.Close())
	require.NoError(t, addrFree(addr))
	require.ErrorContains(t, addrFree("127.0.0.1:no-port"), "LLORCH_BIND_ADDR chooses another address")
}

// A newcomer sees the haiku first, and then what the daemon says of it: not how it started, unless it did not.
//
// LO-624
func TestTheLogWaitsForTheHaiku(t *testing.T) {
	for failed, want := range map[bool]string{false: "rain\nplaced\nlater\n", true: "rain\nready\nplaced\nlater\n"} {
		var terminal strings.Builder
		log := &valve{to: &terminal}
		say := func(line string) {
			_, err := log.Write([]byte(line))
			require.NoError(t, err)
		}
		log.shut()
		say("ready\n")
		log.begin()
		terminal.WriteString("rain\n")
		say("placed\n")
		log.open(failed)
		say("later\n")
		require.Equal(t, want, terminal.String())
	}
	pipe, _, err := os.Pipe()
	require.NoError(t, err)
	defer pipe.Close()
	require.Equal(t, []string{"LLORCH_LOG_FORMAT=console"}, sentences(pipe))
}

// Mage itself, which a newcomer's first command builds, has neither NVML's binding, whose header has the compiler print 150 lines of warnings, nor a database.
//
// LO-886, LO-624
func TestMageBuildsLittle(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "mage", ".")
	list.Dir = "../.."
	out, err := list.Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	require.Contains(t, packages, "github.com/llama-orch/llama-orch/ci/up")
	for _, heavy := range []string{"github.com/NVIDIA/go-nvml/pkg/nvml", "modernc.org/sqlite", "gonum.org/v1/plot"} {
		require.NotContains(t, packages, heavy)
	}
}
