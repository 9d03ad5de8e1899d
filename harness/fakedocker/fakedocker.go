// SPDX-License-Identifier: GPL-3.0-or-later

// Package fakedocker poses as the docker or podman command on a machine without their daemon. It writes down how it was called. Its containers are
// processes on this machine. Like real containers, they are no children of whoever runs the command, and live on when that process is killed.
// It isolates nothing and pulls nothing.
package fakedocker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ImageID is the id of every image.
const ImageID = "sha256:5f2c0e8b7a6d4c3b2a1908f7e6d5c4b3a29181706f5e4d3c2b1a09f8e7d6c5b4"

// Docker is one such command.
type Docker struct {
	Path  string // of the command
	state string // folder of the containers' pids and of the calls
}

const script = `#!/bin/sh
state='%[1]s'
echo "$@" >> "$state/calls"
case $1 in
image) [ -e "$state/pulled" ] || exit 1; echo '%[2]s'; exit 0;;
pull) touch "$state/pulled"; exit 0;;
rm) [ -e "$state/$3.pid" ] || exit 1; kill -9 "$(cat "$state/$3.pid")"; rm -f "$state/$3.pid" "$state/$3.in"; exit 0;;
run) shift;;
*) exit 125;;
esac
while [ $# -gt 0 ]; do
  case $1 in
  --name) name=$2; shift 2;;
  --publish) port=${2#127.0.0.1:}; port=${port%%:8080}; shift 2;;
  --mount) [ -n "$model" ] || { model=${2#type=bind,source=}; model=${model%%%%,*}; inside=${2#*,target=}; inside=${inside%%%%,*}; }; shift 2;;
  --rm|--init|--read-only) shift;;
  --*) shift 2;;
  *) break;;
  esac
done
[ ! -e "$state/$name.pid" ] || { echo "the container name $name is in use" >&2; exit 125; }
shift
n=$#
while [ "$n" -gt 0 ]; do
  arg=$1; shift; n=$((n-1))
  case $arg in
  "$inside") arg=$model;;
  0.0.0.0) arg=127.0.0.1;;
  8080) arg=$port;;
  esac
  set -- "$@" "$arg"
done
mkfifo "$state/$name.in"
setsid '%[3]s' "$@" %[4]s 0<>"$state/$name.in" &
pid=$!
echo "$pid" > "$state/$name.pid"
trap 'kill -TERM "$pid"' TERM
wait "$pid"; wait "$pid"; code=$?
rm -f "$state/$name.pid" "$state/$name.in"
exit "$code"
`

// New writes the command into a folder, under a name. Its containers run the server with further arguments. The server has to read its standard
// input, which does not end.
func New(folder, name, server string, more ...string) (Docker, error) {
	d := Docker{Path: filepath.Join(folder, name), state: filepath.Join(folder, name+".state")}
	if err := os.MkdirAll(d.state, 0o755); err != nil {
		return d, fmt.Errorf("make the folder of the containers: %w", err)
	}
	words := make([]string, len(more))
	for i, word := range more {
		words[i] = "'" + word + "'"
	}
	text := fmt.Sprintf(script, d.state, ImageID, server, strings.Join(words, " "))
	if err := os.WriteFile(d.Path, []byte(text), 0o755); err != nil {
		return d, fmt.Errorf("write the fake of %s: %w", name, err)
	}
	return d, nil
}

// Calls returns the command lines so far, without the command's name.
func (d Docker) Calls() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(d.state, "calls"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the calls: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), nil
}

// Containers returns the names of the running containers.
func (d Docker) Containers() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(d.state, "*.pid"))
	for i := range found {
		found[i] = strings.TrimSuffix(filepath.Base(found[i]), ".pid")
	}
	return found, err
}

// PID returns the id of a container's process.
func (d Docker) PID(container string) (pid int, err error) {
	data, err := os.ReadFile(filepath.Join(d.state, container+".pid"))
	if err != nil {
		return 0, fmt.Errorf("read the container's pid: %w", err)
	}
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		return 0, fmt.Errorf("read the container's pid: %w", err)
	}
	return pid, nil
}
