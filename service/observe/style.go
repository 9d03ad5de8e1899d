// SPDX-License-Identifier: GPL-3.0-or-later

package observe

import (
	"os"
	"strconv"
	"strings"

	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// Style says how lines look. The zero Style is JSON.
type Style struct {
	Console    bool // for a person
	Colour     bool
	Priorities bool // each line begins with its level as sd-daemon(3) has it, such as <6>
}

// StyleOf is the style of a log to a file. The format is that of the configuration: `auto` is for a person on a terminal and JSON elsewhere.
func StyleOf(format string, to *os.File, env func(string) string) Style {
	_, err := unix.IoctlGetTermios(int(to.Fd()), unix.TCGETS)
	terminal := err == nil
	s := Style{Console: format == "console" || format == "auto" && terminal, Priorities: isJournal(to, env("JOURNAL_STREAM"))}
	s.Colour = s.Console && !s.Priorities && (terminal || env("CLICOLOR_FORCE") == "1") && env("NO_COLOR") == "" && env("TERM") != "dumb"
	return s
}

// isJournal reports whether a file is the one that systemd says leads to its journal (systemd.exec(5)). A child with a pipe of its own inherits the variable too.
func isJournal(to *os.File, stream string) bool {
	device, inode, found := strings.Cut(stream, ":")
	var stat unix.Stat_t
	return found && unix.Fstat(int(to.Fd()), &stat) == nil && device == strconv.FormatUint(stat.Dev, 10) && inode == strconv.FormatUint(stat.Ino, 10)
}

// priority is syslog's digit of a level.
func priority(l zapcore.Level) byte {
	switch {
	case l < zapcore.InfoLevel:
		return '7'
	case l == zapcore.InfoLevel:
		return '6'
	case l == zapcore.WarnLevel:
		return '4'
	case l == zapcore.ErrorLevel:
		return '3'
	}
	return '2'
}
