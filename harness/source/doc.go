// SPDX-License-Identifier: GPL-3.0-or-later

// Package source serves models to tests. It has a web server with TLS, a model hub that redirects to another host, an S3 service and an OCI registry. Each
// is a real server on loopback, behind faults that break off, hold or replace its answers and write down what was asked for (ORCH-3090,
// ORCH-3091).
package source
