// SPDX-License-Identifier: GPL-3.0-or-later

// Package openapi holds the API's contract as a value, so that the server can explain a refused request in the contract's
// own terms.
package openapi

import _ "embed"

// Document is openapi.yaml.
//
//go:embed openapi.yaml
var Document []byte
