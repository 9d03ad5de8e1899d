// SPDX-License-Identifier: GPL-3.0-or-later

package artifact

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// asVictim makes the test binary a process that stores without end in the folder it names.
const asVictim = "LLAMA_ORCH_TEST_ARTIFACT_VICTIM"

func victim(dir string) {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		panic(err)
	}
	for i := 0; ; i++ {
		e, err := s.Put(context.Background(), Meta{Kind: KindTrace}, strings.NewReader(fmt.Sprintf("%d %s", i, strings.Repeat("x", 300<<10))))
		if err != nil {
			panic(err)
		}
		fmt.Println(e.ID)
	}
}

// What a Put has returned is there after a kill, whole, and nothing half done is.
//
// ORCH-3097
func TestWhatWasStoredSurvivesAKill(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	told := map[string]bool{}
	for round := range 3 {
		child := exec.Command(program)
		child.Env = append(os.Environ(), asVictim+"="+dir)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			told[lines.Text()] = true
			if n == 5+round {
				require.NoError(t, child.Process.Kill())
			}
		}
		require.Error(t, child.Wait())
		s := open(t, dir)
		bad, checked, err := check(t.Context(), s)
		require.NoError(t, err)
		require.Empty(t, bad)
		require.GreaterOrEqual(t, checked, len(told))
		for id := range told {
			e, err := s.Get(id)
			require.NoError(t, err)
			require.Equal(t, KindTrace, e.Kind)
		}
		temps, err := s.list(tempDir)
		require.NoError(t, err)
		require.Empty(t, temps)
		require.NoError(t, s.Close())
	}
}
