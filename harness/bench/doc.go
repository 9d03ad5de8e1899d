// SPDX-License-Identifier: GPL-3.0-or-later

// Command bench measures what the orchestrator costs on the way of a token: added latency, time to the first token, CPU and
// memory, beside a plain reverse proxy in the same run; what a short task costs; and what it costs to accept a task and to start
// again. Every part is a process of its own: the stub engine, the proxy, the daemons, and this program, which is the client.
//
//	go run ./harness/bench          all of it, under 6 minutes
//	go run ./harness/bench -quick   fewer and shorter rounds, under 90 seconds
package main
