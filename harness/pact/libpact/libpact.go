// SPDX-License-Identifier: GPL-3.0-or-later

// Package libpact puts Pact's core library, which pact-go is linked with, into the user's cache folder.
package libpact

import (
	"context"
	"fmt"
	"path"

	"github.com/llama-orch/llama-orch/service/supply/provision"
)

const name = "libpact_ffi.so"

// pins are the npm packages that carry libpact_ffi 0.4.28, by platform: pact-go 2.4 wants at least that, and later
// packages lack functions that it links. The two platforms had it in packages of different versions.
var pins = map[string]struct{ version, integrity string }{
	"linux-x64":   {"18.1.0", "sha512-rhR5iZS77Ie0ocJmtoTub82lyMQmjjn15UPhD5Tv1i2kYkbLCVPSYZpTrKak/OCDm5/AM0Lb7YqIZlOipMm/mA=="},
	"linux-arm64": {"17.0.0", "sha512-akoL9agQklL8iGxqr4yI4X11ufjeYxEGvCtiXhDH2KFoB60MsyTOeD9SGfM90cQ/W/PjusOKHmSlz1hPWRX9Vw=="},
}

// Ensure returns the folder of libpact_ffi.so, fetching it when it is not in the cache or not whole there.
func Ensure(ctx context.Context, o provision.Options) (string, error) {
	platform := provision.Platform()
	p, ok := pins[platform]
	if !ok {
		return "", fmt.Errorf("there is no packaged %s for %s: run the pacts on linux-x64 or linux-arm64 with glibc", name, platform)
	}
	return provision.Package{
		Kind: "libpact", Name: "@pact-foundation/pact-core-" + platform + "-glibc", Version: p.version, Integrity: p.integrity,
		Want: func(file string) string {
			if path.Base(file) == name {
				return name
			}
			return ""
		},
	}.Ensure(ctx, o)
}
