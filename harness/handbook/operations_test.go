// SPDX-License-Identifier: GPL-3.0-or-later

package handbook_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// operating is how a line of .docs/operations.md is run, or why a test cannot run it.
var operating = []struct{ line, run, why string }{
	{line: "sudo apt-get install ./build/package/llama-orch_*.deb", why: "check:package installs it, on a machine of its own"},
	{line: "sudo systemctl enable --now orchestratord", why: "check:package does it"},
	{line: "sudo systemctl reload orchestratord", why: "check:package does it"},
	{line: "llama-orch run --model haiku 'Write a haiku about snow.'", run: "llama-orch run --model haiku 'Write a haiku about snow.'"},
	{line: "llama-orch discover", run: "llama-orch discover --help"}, // whoever is on the network may answer
	{line: "orchestratord backup --config FILE /mnt/backup/2026-12-01", run: "orchestratord backup --config examples/haiku.yaml backup/2026-12-01"},
	{line: "orchestratord backup --config FILE --models /mnt/backup/2026-12-01", run: "orchestratord backup --config examples/haiku.yaml --models with-models/2026-12-01"},
	{line: "orchestratord backup --config FILE --keep 7 /mnt/backup", run: "orchestratord backup --config examples/haiku.yaml --keep 7 backups && test $(ls backups | wc -l) = 1"},
	{line: "orchestratord restore --data-dir /var/lib/llama-orch /mnt/backup/2026-12-01", run: "orchestratord restore --data-dir put-back backup/2026-12-01"},
	{line: "sudo install -d -o llama-orch -m 700 /mnt/backup", run: "install -d -m 700 mnt/backup"},
	{line: "sudo -u llama-orch orchestratord backup --config /etc/llama-orch/config.yaml /mnt/backup/2026-12-01", run: "orchestratord backup --config examples/haiku.yaml mnt/backup/2026-12-01"},
	{line: "sudo -u llama-orch orchestratord restore --config /etc/llama-orch/config.yaml /mnt/backup/2026-12-01", run: "orchestratord restore --data-dir new-box mnt/backup/2026-12-01"},
	{line: "sudo systemctl enable --now llama-orch-backup.timer", why: "check:package runs the service that it starts"},
	{line: "systemctl status llama-orch-backup.service", why: "check:package runs that service"},
	{line: "ledger: {postgres: {dsn_env: LLORCH_DSN}}", why: "it is a line of a configuration, and needs a PostgreSQL"},
	{line: "orchestratord ledger move --config FILE --to postgres", why: "it needs a PostgreSQL, on which harness/database runs it"},
	{line: "orchestratord ledger move --config FILE --to sqlite", why: "it needs a PostgreSQL, on which harness/database runs it"},
	{line: "llama-orch doctor --config FILE --report report.json", run: "llama-orch doctor --config examples/haiku.yaml --report report.json; test -s report.json"}, // what it finds is of this machine
}

// The commands of the guide to operations run as they are written, with places of the test's own, and none is left out.
//
// LO-648
func TestTheCommandsOfOperations(t *testing.T) {
	p := newPlace(t)
	p.up(t)
	p.env = append(p.env, "PATH="+filepath.Join(p.dir, "bin")+":"+os.Getenv("PATH"))
	text, err := os.ReadFile(filepath.Join(root, ".docs/operations.md"))
	require.NoError(t, err)
	met := map[string]bool{}
	for _, line := range indented(string(text)) {
		line, _, _ = strings.Cut(line, " #")
		line = strings.TrimSpace(line)
		known := false
		for _, o := range operating {
			if o.line != line {
				continue
			}
			known = true
			if o.run != "" && !met[line] {
				out, errs, err := p.paste(t, o.run)
				require.NoError(t, err, "%s\n%s\n%s", line, out, errs)
			}
		}
		require.True(t, known, "operations.md has a command that this test does not know: %s", line)
		met[line] = true
	}
	for _, o := range operating {
		require.True(t, met[o.line], "operations.md does not have it any more: %s", o.line)
		require.NotEqual(t, o.run == "", o.why == "", o.line)
	}
}
