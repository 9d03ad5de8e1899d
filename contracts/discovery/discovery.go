// SPDX-License-Identifier: GPL-3.0-or-later

// Package discovery is what servers and clients agree on to find each other on a local network, by DNS-SD over multicast DNS (LO-642).
package discovery

// Type is the type of the service, in the domain `local`.
const Type = "_llama-orch._tcp"

// TLS is the key of the TXT record that says whether the port speaks TLS, by 1 or 0.
const TLS = "tls"
