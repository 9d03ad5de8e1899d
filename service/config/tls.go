// SPDX-License-Identifier: GPL-3.0-or-later

package config

// tls makes the paths of the certificate and its key absolute. One without the other is a mistake.
func (c *Config) tls(ps *problems) {
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		ps.add(c.where.of("tls"), "a certificate and its key belong together, and one is missing", "set both tls.cert and tls.key, or neither")
		return
	}
	if c.TLS.Cert != "" {
		c.expand(ps, &c.TLS.Cert, c.where.of("tls.cert"), "tls.cert")
		c.expand(ps, &c.TLS.Key, c.where.of("tls.key"), "tls.key")
	}
}
