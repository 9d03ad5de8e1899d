// SPDX-License-Identifier: GPL-3.0-or-later

// Package keptfile keeps small things that a program has learned over its restarts: one JSON file, read once and replaced whole.
package keptfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/llama-orch/llama-orch/internal/atomicfile"
)

// most bounds what is read of a file.
const most = 4 << 20

// Recall reads a file and returns what an earlier run kept; the zero value where there is no file. What names the content in the log. A file that cannot
// be used, also because check refuses it, is renamed, and everything is learned anew.
func Recall[T any](path, what string, check func(T) error, now time.Time, log *zap.Logger) (kept T, err error) {
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return kept, nil
	}
	if err == nil {
		kept, err = parse(data, check)
	}
	if err != nil {
		var none T
		aside := path + ".aside-" + now.UTC().Format("20060102T150405.000Z")
		log.Warn(what+" cannot be read, so the file is set aside, and all of it is learned anew", zap.String("moved_to", aside), zap.Error(err))
		if err := os.Rename(path, aside); err != nil {
			return none, fmt.Errorf("set %s aside: %w; let the user who runs orchestratord write the folder", path, err)
		}
		return none, nil
	}
	return kept, nil
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return data, err
}

// parse refuses what this program does not write.
func parse[T any](data []byte, check func(T) error) (kept T, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&kept); err != nil {
		return kept, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return kept, errors.New("more follows its content")
	}
	return kept, check(kept)
}

// Keep replaces a file, whole or not at all. The caller sees to it that an older state never replaces a newer one.
func Keep(path string, content any) error {
	data, err := json.MarshalIndent(content, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}
