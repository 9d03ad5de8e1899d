// SPDX-License-Identifier: GPL-3.0-or-later

package provision

import (
	"context"
	"fmt"
)

// Package is a pinned npm package, of which some files go into the cache.
type Package struct {
	Kind      string // sub-folder of the cache
	Name      string
	Version   string
	Integrity string // of the tarball, as npm writes it: sha512, base64
	// Want maps a path in the tarball to the plain name that the file gets, or to "" to leave it out. It has to take at least one file.
	Want func(name string) string
	Tree bool // take the whole tarball with its folders instead, below `package/`
}

// Ensure returns the folder with the package's wanted files. It fetches them if the cache does not have them whole.
func (p Package) Ensure(ctx context.Context, o Options) (string, error) {
	a := artifact{
		kind: p.Kind, pin: pin{name: p.Name, version: p.Version, integrity: p.Integrity},
		make: func(ctx context.Context, _ Options, tarball, dir string) error {
			if p.Tree {
				return unpackTree(ctx, formatTarGz, tarball, dir, engineBounds)
			}
			n, err := unpack(tarball, dir, p.Want)
			if err == nil && n == 0 {
				err = fmt.Errorf("the tarball of %s@%s holds none of the wanted files", p.Name, p.Version)
			}
			return err
		},
	}
	return a.ensure(ctx, o)
}

// Platform returns npm's name for this machine, such as linux-x64.
func Platform() string { return platform() }
