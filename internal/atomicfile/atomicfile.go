// SPDX-License-Identifier: GPL-3.0-or-later

// Package atomicfile replaces files whole: after a crash a file is the old one or the new one, never a part of either.
package atomicfile

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// prefix begins the name of a file that is still being written. It lies beside the one it will replace.
const prefix = ".new-"

// Write replaces the file at path. When it returns nil, the content and the name are on the disk.
func Write(path string, content []byte, perm fs.FileMode) error {
	return Fill(path, perm, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}

// WriteIn replaces the file called name below root. No link in the name leads out of root.
func WriteIn(root *os.Root, name string, content []byte, perm fs.FileMode) error {
	return replace(root, name, perm, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}

// Fill replaces the file at path with what fill writes, to the open file or by way of its name.
func Fill(path string, perm fs.FileMode, fill func(*os.File) error) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(replace(root, filepath.Base(path), perm, fill), root.Close())
}

// Sweep removes the unfinished files that a crash left in a folder below root. Nobody may be writing there.
func Sweep(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	err = errors.Join(err, f.Close())
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			err = errors.Join(err, root.Remove(filepath.Join(dir, name)))
		}
	}
	return err
}

func replace(root *os.Root, name string, perm fs.FileMode, fill func(*os.File) error) error {
	dir := filepath.Dir(name)
	temp := filepath.Join(dir, prefix+strconv.FormatUint(rand.Uint64(), 36)) //nolint:gosec // a name that nobody else takes, no secret
	f, err := root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	folder, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
