// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"net/url"

	"github.com/llama-orch/llama-orch/service/task"
)

// tracing checks the collector's address (LO-628).
func (c *Config) tracing(ps *problems) {
	if c.Tracing.Endpoint == "" {
		return
	}
	at := c.where.of("tracing.endpoint")
	u, err := url.Parse(c.Tracing.Endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		ps.add(at, fmt.Sprintf("tracing.endpoint is %q, which is no URL", task.Clip(c.Tracing.Endpoint, maxQuote)), "write http://HOST:PORT, where a collector takes OTLP over HTTP")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		ps.add(at, "tracing.endpoint holds credentials, or more than a path", "write http://HOST:PORT: this file is no place for secrets")
	}
}
