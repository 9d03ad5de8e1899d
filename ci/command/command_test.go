// SPDX-License-Identifier: GPL-3.0-or-later

package command_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/ci/command"
)

func TestTheFlagsOfTheCallerAreKept(t *testing.T) {
	last := func() (found string) {
		for _, variable := range command.Environ(t.Context()) {
			if flags, ok := strings.CutPrefix(variable, "CGO_CFLAGS="); ok {
				found = flags
			}
		}
		return found
	}
	t.Setenv("CGO_CFLAGS", "")
	require.Equal(t, "-O2 -g -Wno-deprecated-declarations", last())
	t.Setenv("CGO_CFLAGS", "-O0")
	require.Equal(t, "-O0 -Wno-deprecated-declarations", last())
	t.Setenv("CGO_CFLAGS", "-O2 -g -Wno-deprecated-declarations")
	require.Equal(t, "-O2 -g -Wno-deprecated-declarations", last())
}

// What a step sets is seen by its own children alone.
func TestSettings(t *testing.T) {
	t.Setenv("LLORCH_A", "theirs")
	outer := command.Setting(t.Context(), "LLORCH_A=ours", "LLORCH_B=1")
	inner := command.Setting(outer, "LLORCH_B=2")
	for ctx, want := range map[context.Context]string{t.Context(): "theirs ", outer: "ours 1", inner: "ours 2"} {
		out, err := command.Output(ctx, "sh", "-c", `printf %s "$LLORCH_A $LLORCH_B"`)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(want), out)
	}
}

func TestAnErrorNamesTheCommand(t *testing.T) {
	require.ErrorContains(t, command.Run(t.Context(), "false", "really"), "false really: exit status 1")
	_, err := command.Output(t.Context(), "sh", "-c", "exit 3")
	require.ErrorContains(t, err, "sh -c exit 3: exit status 3")
}

func TestOutputIsTrimmed(t *testing.T) {
	out, err := command.Output(t.Context(), "printf", "\\n one line \\n")
	require.NoError(t, err)
	require.Equal(t, "one line", out)
}

// A step that is interrupted has the time to clean up.
func TestAChildIsAskedToStop(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	cmd := command.New(ctx, "sh", "-c", `trap 'echo asked; exit 0' INT; echo begun; while :; do read -r _ || :; done`)
	stdin, keptOpen, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _, _ = stdin.Close(), keptOpen.Close() }()
	cmd.Stdin, cmd.Stdout = stdin, nil
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := make([]byte, len("begun\n"))
	_, err = out.Read(said)
	require.NoError(t, err)
	stop()
	said = make([]byte, len("asked\n"))
	_, err = out.Read(said)
	require.NoError(t, err)
	require.Equal(t, "asked\n", string(said))
	require.ErrorIs(t, cmd.Wait(), context.Canceled)
}
