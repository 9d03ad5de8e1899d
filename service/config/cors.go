// SPDX-License-Identifier: GPL-3.0-or-later

package config

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/llama-orch/llama-orch/service/task"
)

// AnyOrigin stands for the pages of every origin.
const AnyOrigin = "*"

// cors writes the origins as browsers send them.
func (c *Config) cors(ps *problems) {
	for i, text := range c.CORS.Origins {
		at := c.where.of(fmt.Sprintf("cors.origins[%d]", i))
		switch origin, ok := pageOrigin(text); {
		case text == "": // was reported already
		case text == AnyOrigin && len(c.CORS.Origins) > 1:
			ps.add(at, `"*" stands beside other origins`, `write ["*"] alone, or name the origins`)
		case text == AnyOrigin:
		case !ok:
			ps.add(at, fmt.Sprintf("%q is no origin of a web page", task.Clip(text, maxQuote)), "write SCHEME://HOST[:PORT] without a path or a slash at its end, like http://homeassistant.local:8123")
		default:
			c.CORS.Origins[i] = origin
		}
	}
}

// pageOrigin is an origin as a browser writes it: in lower case, without the port that its scheme has anyway.
func pageOrigin(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.ContainsAny(text, "#* ") {
		return "", false
	}
	host := strings.ToLower(u.Host)
	if port := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]; port != "" {
		host = strings.TrimSuffix(host, port)
	}
	return u.Scheme + "://" + strings.TrimSuffix(host, ":"), true
}
