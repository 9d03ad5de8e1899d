// SPDX-License-Identifier: GPL-3.0-or-later

package cleanroom

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-886
func TestThePrerequisitesAreTheReadmes(t *testing.T) {
	packages, err := prerequisites("../../README.md")
	require.NoError(t, err)
	require.Subset(t, packages, []string{"git", "npm", "python3"})
	path := filepath.Join(t.TempDir(), "README.md")
	require.NoError(t, os.WriteFile(path, []byte("On Arch: `pacman -S git`."), 0o600))
	_, err = prerequisites(path)
	require.ErrorContains(t, err, "the README has 0 sentences")
}

// newcome does what a newcomer does, where `go tool mage` is a script, in a clone of a tree.
func newcome(t *testing.T, mage, target string) (string, error) {
	t.Helper()
	home := t.TempDir()
	script, err := os.ReadFile("newcomer.sh")
	require.NoError(t, err)
	for name, text := range map[string]string{"newcomer.sh": string(script), "bin/go": "#!/bin/bash\nshift 2\n" + mage, "tree/.gitignore": "bin/\n"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(home, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(home, name), []byte(text), 0o700))
	}
	run := exec.CommandContext(t.Context(), "bash", "-c", `
		cd tree && git init -q && git add . && git -c user.name=x -c user.email=x commit -qm x && cd .. &&
		sed -i "s#/room/tree.bundle#$HOME/tree#" newcomer.sh && exec bash newcomer.sh 127.0.0.1:9 "$0"`, target)
	run.Dir, run.Env = home, []string{"HOME=" + home, "PATH=" + filepath.Join(home, "bin") + ":" + os.Getenv("PATH")}
	out, err := run.CombinedOutput()
	return string(out), err
}

// LO-886
func TestANewcomerNoticesWhatIsWrong(t *testing.T) {
	const serves = `trap 'exit 0' INT; echo "a haiku at $LLORCH_BIND_ADDR"; echo "Ctrl-C stops it."; while :; do sleep 0.1; done`
	for name, c := range map[string]struct{ mage, target, says string }{
		"all is well":             {serves, "", "a haiku at 127.0.0.1:9"},
		"the tests pass":          {`if [ $1 = test ]; then echo tested without ${LLORCH_BIND_ADDR:-an address}; exit; fi; ` + serves, "test", "tested without an address"},
		"it does not start":       {`echo "no compiler"; exit 1`, "", "no compiler\nit ended by itself"},
		"it does not end well":    {`trap 'exit 3' INT; echo "Ctrl-C stops it."; while :; do sleep 0.1; done`, "", "up ended with 3"},
		"it leaves files":         {`touch left; ` + serves, "", "it left files in the tree"},
		"it leaves a process":     {`mkdir bin; cp "$(command -v sleep)" bin/left; setsid bin/left 5 >/dev/null 2>&1 & ` + serves, "", "a process is left behind: bin/left 5"},
		"it builds in its folder": {`mkdir bin; touch bin/left; ` + serves, "", "== done"},
		"the tests fail":          {`if [ $1 = test ]; then echo "1 failed"; exit 1; fi; ` + serves, "test", "1 failed"},
	} {
		out, err := newcome(t, c.mage, c.target)
		require.Contains(t, out, c.says, name)
		well := name == "all is well" || name == "the tests pass" || name == "it builds in its folder"
		require.Equal(t, well, err == nil, "%s: %v\n%s", name, err, out)
	}
}

// LO-886
func TestATakenAddressIsAvoided(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	taken := l.Addr().String()
	other, err := free(taken)
	require.NoError(t, err)
	require.NotEqual(t, taken, other)
	require.NoError(t, l.Close())
	same, err := free(taken)
	require.NoError(t, err)
	require.Equal(t, taken, same)
}
