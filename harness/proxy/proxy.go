// SPDX-License-Identifier: GPL-3.0-or-later

// Package proxy runs a daemon behind the proxies of deploy/proxy (LO-641).
package proxy

import (
	"errors"

	"github.com/llama-orch/llama-orch/harness/debian"
)

// ErrNoNginx says how to get nginx.
var ErrNoNginx = errors.New("nginx is missing: `go tool mage check:outside` fetches it where there is apt-get; " +
	"elsewhere install it (Debian: apt-get install --no-install-recommends nginx; Arch: pacman -S nginx)")

// ErrNoCaddy says how to get Caddy.
var ErrNoCaddy = errors.New("caddy is missing: `go tool mage check:outside` fetches it where there is apt-get; " +
	"elsewhere install it (Debian: apt-get install --no-install-recommends caddy; Arch: pacman -S caddy)")

// Nginx is Debian's.
var Nginx = debian.Package{Name: "nginx", Programs: []string{"usr/sbin/nginx"}, Missing: ErrNoNginx}

// Caddy is Debian's.
var Caddy = debian.Package{Name: "caddy", Programs: []string{"usr/bin/caddy"}, Missing: ErrNoCaddy}
