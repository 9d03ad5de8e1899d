// SPDX-License-Identifier: GPL-3.0-or-later

package haiku

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// fewest is how many letters an answer needs at least, so that finding it in a file means something.
const fewest = 24

// skipped are folders that hold no source: git's own, and what is built or fetched.
var skipped = []string{".git", "bin", "build", "node_modules"}

// holding returns the files below a folder that hold a text, whatever stands between its letters: a list that is cut into lines, quoted or escaped holds
// it too.
func holding(root, text string) (files []string, err error) {
	wanted := letters([]byte(text))
	if len(wanted) < fewest {
		return nil, fmt.Errorf("the answer %q is too short to look for it", text)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && slices.Contains(skipped, d.Name()):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("look for the answer in the tree: %w", err)
		}
		if bytes.Contains(letters(content), wanted) {
			name, err := filepath.Rel(root, path)
			files = append(files, name)
			return err
		}
		return nil
	})
	return files, err
}

// letters leaves the letters and digits of a text, in lower case. An escaped line feed or tab is none.
func letters(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && bytes.IndexByte([]byte("nrt"), text[i+1]) >= 0:
			i++
		case 'A' <= c && c <= 'Z':
			out = append(out, c+'a'-'A')
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			out = append(out, c)
		}
	}
	return out
}
