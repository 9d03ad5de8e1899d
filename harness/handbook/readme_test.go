// SPDX-License-Identifier: GPL-3.0-or-later

package handbook_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	eventID    = regexp.MustCompile(`(?m)^id: ((\d+)-[0-9a-f]{8})$`)
	transcript = regexp.MustCompile(`"transcript_sha256":"([0-9a-f]{8})`)
)

// The README's first session and its way to kill the daemon run as they are written, and show what the README says that they show.
//
// LO-847
func TestTheReadme(t *testing.T) {
	p := newPlace(t)
	first := chapter(t, "README.md", "## A first session")
	d := p.up(t)
	out, errs, err := p.paste(t, fenced(t, first, "bash"))
	require.NoError(t, err, "%s\n%s", out, errs)
	require.Equal(t, 2, strings.Count(out, "event: end\n"), "the whole stream, and the rest of it: %s", out)
	require.Contains(t, out, `"outcome":"completed"`)
	require.Contains(t, out, "# TYPE ")
	require.NotContains(t, out, `"code":`, "no command is refused")

	sample := fenced(t, first, "")
	shown := eventID.FindAllStringSubmatch(sample, -1)
	require.Greater(t, len(shown), 2)
	for _, id := range shown[:len(shown)-1] { // the last one depends on the time that decoding took
		require.Contains(t, out, "\nid: "+id[1]+"\n", "the README shows other ids than there are")
	}
	_, err = d.Stop(2)
	require.NoError(t, err)

	// What follows in an answer depends on how the processor rounds. The README's figures are held where it rounds as the one did on which they were made.
	same := transcript.FindStringSubmatch(out)[1] == "a6146334"
	kill := chapter(t, "README.md", "## Kill it and see")
	script := fenced(t, kill, "bash")
	out, errs, err = p.paste(t, "api=http://127.0.0.1:8080\nrm() { cp cut.sse kept.sse; command rm \"$@\"; }\n"+script+"wait\n")
	require.NoError(t, err, "%s\n%s", out, errs)
	cut, err := os.ReadFile(filepath.Join(p.dir, "kept.sse"))
	require.NoError(t, err)
	require.NotContains(t, string(cut), "event: end", "the stream broke off")
	before, after := eventID.FindAllStringSubmatch(string(cut), -1), eventID.FindAllStringSubmatch(out, -1)
	require.NotEmpty(t, after, out)
	next := 0
	if len(before) > 0 { // a busy machine may not have come that far
		next, err = strconv.Atoi(before[len(before)-1][2])
		require.NoError(t, err)
		next++
	}
	require.Equal(t, strconv.Itoa(next), after[0][2], "it goes on with the next event")
	require.Equal(t, 1, strings.Count(out, "event: end\n"), out)
	for _, gone := range []string{"cut.sse", "daemon.log", "examples/slow.yaml"} {
		require.NoFileExists(t, filepath.Join(p.dir, gone))
	}
	if same {
		for _, figure := range regexp.MustCompile("`(\\d+-[0-9a-f]{8})`").FindAllStringSubmatch(kill, -1) {
			require.Contains(t, string(cut)+out, "id: "+figure[1]+"\n", "the README's figure")
		}
		require.Contains(t, kill, "`"+transcript.FindStringSubmatch(out)[1]+"…`")
	}

	p.up(t)
	for _, line := range indented(chapter(t, "README.md", "## The command line")) {
		if strings.HasPrefix(line, "bin/llama-orch chat") { // somebody types
			line = "echo 'A haiku about snow.' | " + line
		}
		out, errs, err := p.paste(t, line)
		require.NoError(t, err, "%s\n%s\n%s", line, out, errs)
		require.NotEmpty(t, out)
	}
}
