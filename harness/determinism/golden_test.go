// SPDX-License-Identifier: GPL-3.0-or-later

package determinism

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var record = flag.Bool("record", false, "write the digests of the answers to testdata/golden.json anew, for this machine's engines")

const goldenFile = "testdata/golden.json"

// digestChars is how much of a transcript's SHA-256 is kept.
const digestChars = 12

// golden are the answers that were committed: by what computed them, and by case.
type golden map[string]map[string]string

// computer names what a build's answers may depend on where neither the model nor the project changes: the engine's version, the CPU, and the C
// library, whose exponential function samplers call.
func computer(t *testing.T, d *life, fingerprint string) string {
	t.Helper()
	data, err := d.Client.Get(t.Context(), "/v1/fingerprints/"+fingerprint)
	require.NoError(t, err)
	var of struct {
		Facts struct{ Build, System, Device string }
	}
	require.NoError(t, json.Unmarshal(data, &of))
	libc, err := exec.CommandContext(t.Context(), "getconf", "GNU_LIBC_VERSION").Output()
	require.NoError(t, err)
	return strings.Join([]string{of.Facts.Build, strings.Trim(of.Facts.System, " |"), of.Facts.Device, strings.TrimSpace(string(libc))}, "; ")
}

// asCommitted holds an engine's answers against those that are committed for what computed them, or records them.
func asCommitted(t *testing.T, name, by string, answers map[string]*run) {
	t.Helper()
	now := map[string]string{}
	for c, r := range answers {
		now[c] = r.receipt().TranscriptSHA256[:digestChars]
	}
	kept, err := readGolden()
	require.NoError(t, err)
	if *record {
		kept[by] = now
		require.NoError(t, kept.write())
	}
	if kept[by] == nil {
		say(t, "%s: no digests are committed for %s, so a change of its answers since the last commit would not be seen", name, by)
		return
	}
	require.Equal(t, kept[by], now, "the answers are not those that are committed. If they are to change, run the suite with -record")
	say(t, "%s: %d answers have the digests that are committed", name, len(now))
}

func readGolden() (golden, error) {
	kept := golden{}
	data, err := os.ReadFile(goldenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the committed digests: %w", err)
	}
	if err := json.Unmarshal(data, &kept); err != nil {
		return nil, fmt.Errorf("decode %s: %w", goldenFile, err)
	}
	return kept, nil
}

func (g golden) write() error {
	data, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the digests: %w", err)
	}
	if err := os.WriteFile(filepath.FromSlash(goldenFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the digests: %w", err)
	}
	return nil
}
