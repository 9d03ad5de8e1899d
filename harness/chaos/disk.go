// SPDX-License-Identifier: GPL-3.0-or-later

package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// disk is a small file system for the data folder, which can be filled.
type disk struct {
	path   string
	closed bool
}

const diskSize = 32 << 20

// newDisk mounts a disk.
func newDisk(path string) (*disk, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	if err := syscall.Mount("chaos", path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskSize)); err != nil {
		return nil, fmt.Errorf("mount a small file system at the data folder: %w; run this as root, or where users may make namespaces: "+
			"sysctl kernel.unprivileged_userns_clone=1, and where there is AppArmor kernel.apparmor_restrict_unprivileged_userns=0", err)
	}
	return &disk{path: path}, nil
}

// mayMount reports whether this process may mount a disk.
func mayMount() bool {
	dir, err := os.MkdirTemp("", "llorch-mount-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	d, err := newDisk(dir)
	return err == nil && d.close() == nil
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

// fill fills the disk to the last byte.
func (d *disk) fill() error {
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("fill the disk: %w", err)
	}
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		if _, err = f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(fmt.Errorf("fill the disk: %w", err), f.Close())
	}
	return f.Close()
}

func (d *disk) empty() error {
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("empty the disk: %w", err)
	}
	return nil
}

// close unmounts.
func (d *disk) close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	if err := syscall.Unmount(d.path, 0); err != nil {
		if err := syscall.Unmount(d.path, 2); err != nil { // MNT_DETACH: the mount goes when no process uses it any more
			return fmt.Errorf("unmount %s: %w", d.path, err)
		}
	}
	return nil
}
