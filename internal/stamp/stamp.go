// SPDX-License-Identifier: GPL-3.0-or-later

// Package stamp knows which version a program is.
package stamp

import "runtime/debug"

// Unknown is the version of a program that nobody stamped.
const Unknown = "dev"

// Version is what the build stamped, and otherwise the version at which `go install` fetched the module.
func Version(stamped string) string {
	info, _ := debug.ReadBuildInfo()
	return version(stamped, info)
}

func version(stamped string, info *debug.BuildInfo) string {
	if stamped != Unknown || info == nil || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return stamped
	}
	for _, s := range info.Settings {
		if s.Key == "vcs" { // it was built in a checkout, whose version go only guesses
			return stamped
		}
	}
	return info.Main.Version
}
