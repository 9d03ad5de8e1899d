// SPDX-License-Identifier: GPL-3.0-or-later

// Package nearest finds the name that somebody may have meant.
package nearest

// maxName is the longest name, in bytes, that is compared: no known name is longer.
const maxName = 64

// Name returns the known name that is most like the given one, or "" if none is like it. Up to two letters may be wrong, or a
// third of a long name, but never all of it.
func Name(name string, known []string) string {
	if len(name) > maxName {
		return ""
	}
	best, least := "", 1+min(max(2, len(name)/3), len(name)-1)
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements of bytes between two names (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
