// SPDX-License-Identifier: GPL-3.0-or-later

package gguf

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// MaxParts bounds the parts of a model.
const MaxParts = 1024

// part matches the names of the files into which llama.cpp's splitter cuts a model.
var part = regexp.MustCompile(`^(.*[^/])-(\d{5})-of-(\d{5})\.gguf$`)

// Parts names all files of the model that a file belongs to, the first part first, whichever part is named. A file that is no part is the whole
// model. It looks at the name alone.
func Parts(file string) ([]string, error) {
	m := part.FindStringSubmatch(file)
	if m == nil {
		return []string{file}, nil
	}
	at, _ := strconv.Atoi(m[2]) // five digits
	of, _ := strconv.Atoi(m[3])
	if at < 1 || at > of || of > MaxParts {
		return nil, fmt.Errorf("%s is not part of a split model: parts are counted from 1, to %d at most", path.Base(file), MaxParts)
	}
	return names(m[1], of), nil
}

func names(stem string, of int) []string {
	all := make([]string, of)
	for i := range all {
		all[i] = fmt.Sprintf("%s-%05d-of-%05d.gguf", stem, i+1, of)
	}
	return all
}

// Alias names the files of a model in so many files, if the model were to be at path: they are its parts again.
func Alias(path string, of int) []string {
	if of == 1 {
		return []string{path}
	}
	return names(strings.TrimSuffix(path, ".gguf"), of)
}

// Stem is the name of a part, without its number and the ending. It returns false for a file that is no part.
func Stem(file string) (string, bool) {
	m := part.FindStringSubmatch(file)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// MissingError says which files of a model are not there, or are no files.
type MissingError struct {
	Names []string // without their folder
	Of    int      // files of the model
	Err   error    // about the first of them
}

// Error implements error.
func (e *MissingError) Error() string {
	const most = 5
	names := e.Names[:min(len(e.Names), most)]
	text := strings.Join(names, ", ")
	if more := len(e.Names) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if e.Of > 1 {
		text += fmt.Sprintf(", of a model in %d parts,", e.Of)
	}
	if len(e.Names) == 1 {
		return text + " is missing, or cannot be read"
	}
	return text + " are missing, or cannot be read"
}

// Unwrap returns what the system says of the first of them.
func (e *MissingError) Unwrap() error { return e.Err }

// Find names all files of the model that a file belongs to, as Parts does, and looks whether they are there. A *MissingError names those that
// are not.
func Find(file string) ([]string, error) {
	parts, err := Parts(file)
	if err != nil {
		return nil, err
	}
	missing := &MissingError{Of: len(parts)}
	for _, p := range parts {
		at, err := os.Stat(p)
		if err == nil && !at.Mode().IsRegular() {
			err = errors.New("it is no regular file")
		}
		if err == nil {
			continue
		}
		if missing.Err == nil {
			missing.Err = err
		}
		missing.Names = append(missing.Names, path.Base(p))
	}
	if len(missing.Names) > 0 {
		return nil, missing
	}
	return parts, nil
}
